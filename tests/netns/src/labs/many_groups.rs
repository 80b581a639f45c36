//! One host that joins more groups than the router may have files open.

use std::{
    fs, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    clock::Clock,
    roles::{Engine, Role},
};
use vmcast_proto::{
    Filter, Machine as _,
    amt::gateway::{Config, Gateway, Input, Output},
};
use vmcast_wire::amt::PORT;

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "groups without number take no file each from the router, nor a stream from others",
        many_groups,
    )]
}

/// Files that the router may have open.
const FILES: u64 = 256;
/// Files that it has open at most: the kernel's limit of groups per socket is 20 by default.
const MOST: usize = 200;
const GATEWAYS: u8 = 21;
/// As many as one tunnel may join.
const GROUPS: u8 = 62;

struct Member {
    socket: UdpSocket,
    gateway: Gateway,
    data: u64,
}

/// The moment from which a clock of the lab counts, for machines that want an instant.
#[expect(clippy::disallowed_methods, reason = "gateways on real sockets live in real time")]
fn epoch(clock: Clock) -> Instant {
    Instant::now() - clock.now()
}

impl Member {
    fn join(number: u8, now: Instant) -> io::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        let relay = SocketAddr::from((gateway_of(1), PORT));
        let mut gateway = Gateway::new(now, Config::new(relay, [number + 1; 16]));
        for last in 1..=GROUPS {
            let group = Ipv4Addr::new(239, 193, number, last).into();
            gateway.handle_input(now, Input::SetMembership { group, filter: Filter::any() });
        }
        Ok(Self { socket, gateway, data: 0 })
    }

    fn turn(&mut self, now: Instant) -> io::Result<()> {
        let mut buffer = [0; 2048];
        loop {
            match self.socket.recv_from(&mut buffer) {
                Ok((length, remote)) => {
                    self.gateway.handle_input(now, Input::Datagram { remote, bytes: &buffer[..length] });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if self.gateway.poll_timeout().is_some_and(|timeout| timeout <= now) {
            self.gateway.handle_timeout(now);
        }
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Transmit { remote, bytes } => {
                    self.socket.send_to(&bytes, remote)?;
                }
                Output::Data { .. } => self.data += 1,
                Output::Event(_) => {}
            }
        }
        Ok(())
    }
}

fn open_files(router: &Role) -> io::Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", router.process.pid()))?.count())
}

fn groups(router: &Role) -> u64 {
    router.ask(&["status"]).and_then(|status| status["groups"].as_u64()).unwrap_or(0)
}

fn many_groups(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let mut router = small.router(bed, Router { engine: Engine::Xdp, ..Router::default() })?;
    let limit = format!("--nofile={FILES}:{FILES}");
    let limited =
        Command::new("prlimit").args(["--pid", &router.process.pid().to_string(), &limit]).status()?;
    ensure!(limited.success(), "the router's files could not be limited");
    let agents = small.agents(bed, [2])?;
    let before = open_files(&router)?;

    let start = epoch(bed.clock);
    let now = || start + bed.clock.now();
    let mut members = small.client(1).enter(|| {
        (0..GATEWAYS).map(|number| Member::join(number, now())).collect::<io::Result<Vec<_>>>()
    })??;
    let all = u64::from(GATEWAYS) * u64::from(GROUPS);
    turn_until(bed, &mut members, &now, "every group is joined", || groups(&router) >= all)?;
    let most = open_files(&router)?;
    ensure!(most < MOST, "{most} files are open with {all} groups, {before} before");

    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let newcomer = Listener::join(small.client(2), STREAM, None)?;
    newcomer.more(bed, 200)?;
    newcomer.until_last(bed, sender.stop()?.saturating_sub(1))?;
    newcomer.leave().is_whole()?;

    for member in &mut members {
        member.gateway.handle_input(now(), Input::Stop);
    }
    turn_until(bed, &mut members, &now, "every group is left", || groups(&router) == 0)?;
    bed.until("the router's files are closed", || Ok(open_files(&router)? <= before + 4))?;
    let data: u64 = members.iter().map(|member| member.data).sum();
    ensure!(data == 0, "{data} packets came to members of other groups");
    router.check_alive()?;
    drop(agents);
    Ok(())
}

fn turn_until(
    bed: &Bed,
    members: &mut [Member],
    now: &impl Fn() -> Instant,
    what: &str,
    done: impl Fn() -> bool,
) -> Result<(), Failed> {
    bed.until(what, || {
        for member in members.iter_mut() {
            member.turn(now())?;
        }
        thread::sleep(Duration::from_millis(5));
        Ok(done())
    })
}
