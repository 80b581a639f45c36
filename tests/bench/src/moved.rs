//! What an agent misses of its stream when its address or port changes.
//!
//! ```text
//! source ---- VMR ---- translator ---- home: agent and player
//! ```
//!
//! A change of the translator is one that nobody tells the agent of; one of its own address the kernel tells it.

use std::{
    io::{self, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};
use vmcast_lab::{
    Lab, Namespace,
    clock::Clock,
    roles::{AGENT_INTERFACE, Launcher, Role, wait_ready},
    signals,
};

use crate::{
    daemon::Router,
    join::{NUMBER_LEN, Source, stream},
    report::{Bound, MovedRow, Ratio, Report},
    stats::percentile,
};

/// How much of the stream a change may cost, in milliseconds.
const TARGET_MS: f64 = 200.0;
/// How often each is made.
const CHANGES: u16 = 9;
/// For how long the stream has to come again after a change.
const AFTER: Duration = Duration::from_millis(700);
/// How long nothing may come at all.
const PATIENCE: Duration = Duration::from_secs(10);
/// What comes while a change is being made waits in the player's socket.
const RECEIVE_BUFFER: usize = 16 << 20;
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Port,
    Address,
    Own,
}

impl Change {
    const ALL: [Self; 3] = [Self::Port, Self::Address, Self::Own];

    const fn label(self) -> &'static str {
        match self {
            Self::Port => "its translator takes another port",
            Self::Address => "its translator is dialled in anew, with another address",
            Self::Own => "its own address changes",
        }
    }
}

/// Steps of the progress bar.
pub(crate) const fn steps() -> u64 {
    Change::ALL.len() as u64 * CHANGES as u64
}

/// Measures, and puts rows and targets into the report.
pub(crate) fn measure(program: &Path, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    for change in Change::ALL {
        bar.set_message(format!("an agent, when {}", change.label()));
        match measure_change(program, change, bar) {
            Ok(row) => {
                report.ratios.push(Ratio::new(
                    format!("of its stream an agent misses when {}, at most", row.what),
                    row.most_ms,
                    "ms",
                    Bound::AtMost(TARGET_MS),
                ));
                report.moved.push(row);
            }
            Err(error) => {
                signals::check()?;
                report.remarks.push(format!(
                    "what an agent misses when {} was not measured: {error:#}",
                    change.label()
                ));
            }
        }
    }
    Ok(())
}

fn measure_change(program: &Path, change: Change, bar: &ProgressBar) -> Result<MovedRow> {
    let clock = Clock::start();
    let mut bed = Bed::build(program, clock)?;
    let mut player = Player::start(&bed.home, clock)?;
    player.play(AFTER)?;
    ensure!(player.take_lost() == 0, "the stream has gaps before anything has changed");
    let mut lost = Vec::with_capacity(CHANGES.into());
    for number in 1..=CHANGES {
        signals::check()?;
        bed.change(change, number)?;
        player.play(AFTER)?;
        lost.push(player.take_lost() as f64);
        bar.inc(1);
    }
    bed.agent.check_alive()?;
    let ms = player.pace().context("nothing came")?.as_secs_f64() * 1e3;
    let of = |percent| percentile(&lost, percent).context("nothing has changed");
    Ok(MovedRow {
        what: change.label().to_owned(),
        changes: lost.len(),
        pace_ms: ms,
        p50_ms: of(50.0)? * ms,
        most_ms: of(100.0)? * ms,
    })
}

struct Bed {
    translator: Namespace,
    home: Namespace,
    agent: Role,
    _router: Router,
    _source: Source,
    _lab: Lab,
}

impl Bed {
    fn build(program: &Path, clock: Clock) -> Result<Self> {
        let mut lab = Lab::new("bench-moved")?;
        let [source, vmr, translator, home] = lab.namespaces(["source", "vmr", "translator", "home"])?;
        lab.veths(&[
            ((&source, "eth0"), (&vmr, "src0")),
            ((&vmr, "acc0"), (&translator, "out0")),
            ((&translator, "in0"), (&home, "eth0")),
        ])?;
        source.ip("addr add 10.61.0.2/24 dev eth0\nroute add default via 10.61.0.1")?;
        vmr.ip(&format!("addr add 10.61.0.1/24 dev src0\naddr add {RELAY}/24 dev acc0"))?;
        translator.sysctl(&[("ipv4/ip_forward", "1")])?;
        translator.ip("addr add 10.60.0.2/24 dev out0\naddr add 192.168.7.1/24 dev in0")?;
        home.ip("addr add 192.168.7.2/24 dev eth0\nroute add default via 192.168.7.1")?;
        translator.translate(false, "out0", 40_000)?;
        let tables = format!(
            "[tunnel]\naddress = \"{RELAY}\"\n[[interface]]\nname = \"acc0\"\n\
             [[interface]]\nname = \"src0\"\naccepts_sources = true\n"
        );
        let mut router = Router::start(&lab, &vmr, program, &tables)?;
        router.wait_ready(clock)?;
        let upstream = format!(
            "[upstream]\nfrom = \"static\"\naddress = \"{RELAY}\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n"
        );
        let mut agent = Launcher::new(&lab, program)?.start(&home, "agent", "", &upstream)?;
        wait_ready([&mut agent], clock)?;
        let source = Source::start(&source)?;
        Ok(Self { translator, home, agent, _router: router, _source: source, _lab: lab })
    }

    fn change(&mut self, change: Change, number: u16) -> Result<()> {
        match change {
            Change::Port => {
                self.translator.translate(false, "out0", 40_000 + 100 * number)?;
                // With the address its translations go.
                self.translator.ip("addr del 10.60.0.2/24 dev out0\naddr add 10.60.0.2/24 dev out0")?;
            }
            Change::Address => self.translator.ip(&format!(
                "addr del 10.60.0.{}/24 dev out0\naddr add 10.60.0.{}/24 dev out0",
                number + 1,
                number + 2
            ))?,
            Change::Own => self.home.ip(&format!(
                "addr del 192.168.7.{}/24 dev eth0\naddr add 192.168.7.{}/24 dev eth0\n\
                 route add default via 192.168.7.1",
                number + 1,
                number + 2
            ))?,
        }
        Ok(())
    }
}

/// Whoever watches the stream.
struct Player {
    socket: Socket,
    clock: Clock,
    /// When the first packet came, and its number; and the last one's.
    first: Option<(Duration, u64)>,
    last: Option<(Duration, u64)>,
    lost: u64,
}

impl Player {
    fn start(home: &Namespace, clock: Clock) -> Result<Self> {
        let stream = stream(0);
        let socket = home.enter(|| open(stream))??;
        socket.join_multicast_v4(stream.ip(), &Ipv4Addr::UNSPECIFIED)?;
        Ok(Self { socket, clock, first: None, last: None, lost: 0 })
    }

    /// Watches for so long from the next packet on.
    fn play(&mut self, time: Duration) -> Result<()> {
        // What has come meanwhile is of before.
        let start = self.clock.now();
        loop {
            let mut packet = [0; 2048];
            let length = self.socket.read(&mut packet).context("the stream does not come again")?;
            let now = self.clock.now();
            let number = packet[..length].first_chunk::<NUMBER_LEN>().map(|bytes| u64::from_be_bytes(*bytes));
            let number = number.context("another packet than the stream's")?;
            if let Some((_, last)) = self.last {
                ensure!(number > last, "after packet {last} came packet {number}");
                self.lost += number - last - 1;
            }
            self.first.get_or_insert((now, number));
            self.last = Some((now, number));
            if now > start + time {
                return Ok(());
            }
        }
    }

    /// How many packets were missing since the last call.
    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// How often a packet is sent.
    fn pace(&self) -> Option<Duration> {
        let ((start, first), (end, last)) = self.first.zip(self.last)?;
        let packets = u32::try_from(last - first).ok().filter(|packets| *packets > 0)?;
        Some((end - start) / packets)
    }
}

fn open(stream: SocketAddrV4) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    socket.bind(&SockAddr::from(stream))?;
    Ok(socket)
}
