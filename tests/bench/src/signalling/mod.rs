//! Joins and leaves: how many one core takes in a second, and how long one takes to be served.
//!
//! The router daemon has a core of its own; gateways in great numbers talk to its sockets over a cable, from another
//! core. Its time is that of its threads, with what the kernel does for them: receiving, sending, and changing its
//! tables. The relay's machine alone is measured beside it.

mod alone;
mod family;
mod flood;
mod floor;
mod frame;
mod gateways;
mod link;
mod live;
mod unheard;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use indicatif::ProgressBar;
use vmcast_lab::{Lab, Namespace, clock::Clock, signals};
use vmcast_wire::{amt, igmp::RecordType};

use crate::{
    daemon::{Measured as _, Router},
    join::Source,
    machine::{last_core, pin_to_core},
    report::{ArrivalRow, Bound, FloodRow, Ratio, Report, SignallingRow},
    stats::{Summary, percentile},
};

use {
    family::{Family, report as membership_report},
    flood::Kind,
    floor::Floor,
    frame::Cable,
    gateways::Gateways,
    link::Host,
};

/// Joins that one core is to take in a second.
const TARGET_JOINS: f64 = 50_000.0;
/// How long a report may take until its member is served, 99 times of 100, in milliseconds.
const TARGET_MS: f64 = 1.0;
/// Groups that the gateways spread over.
const GROUPS: u32 = 100;
/// Members of a group that one more joins.
const PRESENT: u32 = 10_000;
const RELAY: Ipv4Addr = Ipv4Addr::new(10, 60, 0, 1);
/// The port of who answers beside the router.
const BESIDE: u16 = amt::PORT + 1;
/// Reports, or messages of tunnels, that are to come in within a second, beside a stream.
const TARGET_FLOOD: f64 = 1e6;
/// How long the daemon may need for the last joins.
const SETTLE: Duration = Duration::from_secs(60);
/// Between two joins whose time is taken: the router has nothing else to do.
const PAUSE: Duration = Duration::from_millis(1);
/// The core of the router.
const ROUTERS_CORE: usize = 0;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    rounds: usize,
    /// Gateways of a round.
    gateways: u32,
    spreads: &'static [Spread],
    /// Versions of IP of tunnels, and of what goes through them.
    families: &'static [Family],
    /// Joins whose time is taken.
    samples: u32,
    floods: &'static [Kind],
    /// For how long each flood comes in.
    flood: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        rounds: 7,
        gateways: 20_000,
        spreads: &[Spread::Translated, Spread::Own],
        families: &[Family::V4, Family::V6],
        samples: 1_000,
        floods: &[Kind::Reports(Family::V4), Kind::Reports(Family::V6), Kind::Tunnels],
        flood: Duration::from_secs(4),
    };
    pub(crate) const QUICK: Self = Self {
        rounds: 3,
        gateways: 5_000,
        spreads: &[Spread::Translated],
        families: &[Family::V4],
        samples: 150,
        floods: &[Kind::Reports(Family::V4), Kind::Tunnels],
        flood: Duration::from_millis(500),
    };

    /// Steps of the progress bar.
    pub(crate) const fn steps(&self) -> u64 {
        let families = self.families.len() as u64;
        let of_family = self.spreads.len() as u64 * self.rounds as u64 + 2 * self.samples as u64;
        1 + families * of_family + self.floods.len() as u64
    }
}

/// How the gateways are spread over addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// Many behind each, as behind a translator.
    Translated,
    /// Each has its own, whose way has to be looked up.
    Own,
}

impl Spread {
    const fn of_address(self) -> u32 {
        match self {
            Self::Translated => 200,
            Self::Own => 1,
        }
    }

    const fn label(self) -> &'static str {
        match self {
            Self::Translated => "200 gateways behind each address",
            Self::Own => "an address of its own for each gateway",
        }
    }
}

/// Rates of the rounds, in a second.
struct Figures {
    of_core: Vec<f64>,
    in_all: Vec<f64>,
}

impl Figures {
    const NONE: Self = Self { of_core: Vec::new(), in_all: Vec::new() };

    fn add(&mut self, count: u32, core: Duration, time: Duration) {
        self.of_core.push(f64::from(count) / core.as_secs_f64());
        self.in_all.push(f64::from(count) / time.as_secs_f64());
    }

    fn row(&self, who: &str, what: &str, from: &str, count: u32) -> Result<(SignallingRow, Summary)> {
        let of_core = Summary::of(&self.of_core).context("no round was measured")?;
        let in_all = Summary::of(&self.in_all).context("no round was measured")?;
        let row = SignallingRow {
            who: who.to_owned(),
            what: what.to_owned(),
            from: from.to_owned(),
            count,
            per_s_core: of_core.median,
            least: of_core.least,
            most: of_core.most,
            us_each: 1e6 / of_core.median,
            per_s: in_all.median,
            rounds: of_core.count,
        };
        Ok((row, of_core))
    }
}

/// Measures, and puts rows and targets into the report.
pub(crate) fn measure(program: &Path, effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    // A thread of its own, so that what follows is not kept on one core.
    std::thread::scope(|scope| scope.spawn(|| measure_here(program, effort, report, bar)).join())
        .map_err(|_| anyhow::anyhow!("measuring panicked"))?
}

fn measure_here(program: &Path, effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
    pin_to_core(last_core()).context("staying on one core")?;
    bar.set_message("joins: the relay's machine alone");
    let whats = ["join by Request, Query, Update", "join through a tunnel that is there", "leave"];
    for (figures, what) in alone::measure(effort)?.iter().zip(whats) {
        let (row, _) = figures.row("relay's machine alone", what, "", effort.gateways)?;
        report.signalling.push(row);
    }
    bar.inc(1);
    for &family in effort.families {
        of_family(family, program, effort, report, bar).with_context(|| family.label())?;
    }
    for &kind in effort.floods {
        // A router for each, with the limits that it has by itself.
        let mut bed = Bed::build(program, Family::V4, Spread::Translated.of_address(), "")?;
        if let Err(error) = bed.flood(kind, effort, report, bar) {
            signals::check()?;
            // What else was measured stands.
            report.remarks.push(format!("a flood of {} was not measured: {error:#}", kind.label()));
        }
    }
    Ok(())
}

fn of_family(
    family: Family,
    program: &Path,
    effort: Effort,
    report: &mut Report,
    bar: &ProgressBar,
) -> Result<()> {
    let mut bed = Bed::build(program, family, effort.gateways.max(PRESENT + effort.samples), UNLIMITED)?;
    for &spread in effort.spreads {
        bed.rates(spread, effort, report, bar).context(spread.label())?;
    }
    bed.gateways.of_address = Spread::Translated.of_address();
    bed.fill()?;
    let times = bed.through_tunnels(effort, bar)?;
    let what = format!("AMT Membership Update with {}", family.report());
    bed.arrival(report, &what, "the answer to a Request behind it", &times)?;
    let times = bed.on_link(effort, bar)?;
    bed.arrival(report, &format!("{} report on a link", family.report()), "the first copy there", &times)
}

/// What is set so that all that come are taken; the report says so, and what the defaults would allow.
const UNLIMITED: &str = "max_tunnels_per_prefix = 100000\nanswers_per_second = 10000000\n\
                         answers_per_prefix_per_second = 10000000\n";

/// The router and those around it.
struct Bed {
    family: Family,
    gateways: Gateways,
    hosts: [Host; 2],
    router: Router,
    engine: String,
    clock: Clock,
    vmr: Namespace,
    members: Namespace,
    _sender: Source,
    _lab: Lab,
}

impl Bed {
    /// With room for so many gateways, and these limits of tunnels.
    fn build(program: &Path, family: Family, gateways: u32, limits: &str) -> Result<Self> {
        let mut lab = Lab::new("bench-signalling")?;
        let [vmr, members, host, sender] = lab.namespaces(["vmr", "members", "host", "sender"])?;
        lab.veths(&[
            ((&vmr, "acc0"), (&members, "eth0")),
            ((&vmr, "lan0"), (&host, "eth0")),
            ((&vmr, "src0"), (&sender, "eth0")),
        ])?;
        let mac = |last| [2, 0x60, 0, 0, 0, last];
        let name = |node: &Namespace, interface: &str, last| {
            node.ip(&format!("link set {interface} address 02:60:00:00:00:{last:02x}"))
        };
        name(&vmr, "acc0", 1)?;
        name(&members, "eth0", 2)?;
        name(&vmr, "lan0", 3)?;
        name(&host, "eth0", 4)?;
        vmr.ip(&format!(
            "addr add {RELAY}/24 dev acc0\naddr add {}/64 dev acc0 nodad\nroute add {} via 10.60.0.2\n\
             route add {} via fd00:60::2\naddr add 10.62.0.1/24 dev lan0\naddr add 10.61.0.1/24 dev src0\n\
             addr add fd00:61::1/64 dev src0 nodad",
            Family::V6.relay(),
            Family::V4.network(),
            Family::V6.network(),
        ))?;
        members.ip("addr add 10.60.0.2/24 dev eth0\naddr add fd00:60::2/64 dev eth0 nodad")?;
        host.ip(&format!("addr add {}/24 dev eth0", Family::V4.host()))?;
        let [sender_v4, sender_v6] = Family::ALL.map(Family::sender);
        sender.ip(&format!(
            "addr add {sender_v4}/24 dev eth0\nroute add default via 10.61.0.1\n\
             addr add {sender_v6}/64 dev eth0 nodad"
        ))?;

        let clock = Clock::start();
        let tables = format!(
            "[tunnel]\naddress = \"{}\"\n{limits}[[interface]]\nname = \"acc0\"\n\
             [[interface]]\nname = \"src0\"\naccepts_sources = true\n\
             [[interface]]\nname = \"lan0\"\nquerier = true\nimmediate_leave = true\n\
             [interface.igmp]\nstartup_query_count = 1\nquery_response_interval_seconds = 1\n\
             [interface.mld]\nstartup_query_count = 1\nquery_response_interval_seconds = 1\n",
            family.relay(),
        );
        let mut router = Router::start(&lab, &vmr, program, &tables)?;
        let engine = router.wait_ready(clock)?;
        router.process().pin(ROUTERS_CORE)?;
        let relay = SocketAddr::new(family.relay(), amt::PORT);
        let cable = Cable { near: mac(2), far: mac(1) };
        let of_host = Cable { near: mac(4), far: mac(3) };
        let [host_v4, host_v6] = Family::ALL.map(|family| Host::new(&host, of_host, family, clock));
        let mut source = Source::start(&sender)?;
        if let SocketAddr::V6(to) = Family::V6.stream() {
            source.also(&sender, "eth0", to)?;
        }
        Ok(Self {
            family,
            gateways: Gateways::new(&members, cable, (family, relay), gateways, clock)?,
            hosts: [host_v4?, host_v6?],
            router,
            engine,
            clock,
            vmr,
            members,
            _sender: source,
            _lab: lab,
        })
    }

    /// The host of a link, as one of a family.
    const fn host(&self, family: Family) -> &Host {
        let [v4, v6] = &self.hosts;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// Does something to the router; the time of its core, and the time that passed.
    fn timed(&mut self, work: impl FnOnce(&mut Self) -> Result<()>) -> Result<(Duration, Duration)> {
        let (core, start) = (self.router.process().core_time()?, self.clock.now());
        work(self)?;
        Ok((self.router.process().core_time()? - core, self.clock.now() - start))
    }

    /// Lets the gateways talk to who answers beside the router; its time, and the time that passed.
    fn beside(
        &mut self,
        floor: &Floor,
        work: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<(Duration, Duration)> {
        self.gateways.relay.set_port(BESIDE);
        let (core, start) = (floor.core_time()?, self.clock.now());
        let worked = work(self);
        self.gateways.relay.set_port(amt::PORT);
        worked.context("beside the router")?;
        Ok((floor.core_time()? - core, self.clock.now() - start))
    }

    fn rates(
        &mut self,
        spread: Spread,
        effort: Effort,
        report: &mut Report,
        bar: &ProgressBar,
    ) -> Result<()> {
        let (count, family) = (effort.gateways, self.family);
        let from = format!("{}, {}", spread.label(), family.label());
        self.gateways.of_address = spread.of_address();
        let first: Vec<_> = (0..GROUPS)
            .map(|number| {
                membership_report(RecordType::AllowNewSources, family.group(number), family.source())
            })
            .collect();
        let other = |record_type, number| {
            membership_report(record_type, family.group(GROUPS + number % GROUPS), family.source())
        };
        let whats = [
            "join by Request, Query, Update",
            "join through a tunnel that is there",
            "leave",
            "leave and end of the tunnel by Teardown",
        ];
        let mut figures = [const { Figures::NONE }; 4];
        let beside = SocketAddr::new(family.relay(), BESIDE);
        let (floor, mut of_floor) = (Floor::start(&self.vmr, beside, count)?, Figures::NONE);
        for round in 1..=effort.rounds {
            signals::check()?;
            bar.set_message(format!("joins, {from}: round {round} of {}", effort.rounds));
            let members = u64::from(count);
            let times = [
                self.timed(|bed| {
                    let update = |number: u32| first.get((number % GROUPS) as usize).cloned();
                    bed.gateways.handshake(0..count, update)?;
                    bed.router.wait_members(members, SETTLE, bed.clock).map(drop)
                })?,
                self.timed(|bed| {
                    bed.gateways.updates(0..count, |number| other(RecordType::AllowNewSources, number))?;
                    bed.router.wait_members(2 * members, SETTLE, bed.clock).map(drop)
                })?,
                self.timed(|bed| {
                    bed.gateways.updates(0..count, |number| other(RecordType::BlockOldSources, number))?;
                    bed.router.wait_members(members, SETTLE, bed.clock).map(drop)
                })?,
                self.timed(|bed| {
                    bed.gateways.teardown(0..count)?;
                    bed.router.wait_members(0, SETTLE, bed.clock).map(drop)
                })?,
            ];
            for (figures, (core, time)) in figures.iter_mut().zip(times) {
                figures.add(count, core, time);
            }
            let (core, time) = self.beside(&floor, |bed| {
                bed.gateways.handshake(0..count, |number| first.get((number % GROUPS) as usize).cloned())
            })?;
            of_floor.add(count, core, time);
            bar.inc(1);
        }
        let (limit, of_limit) = of_floor.row(
            "nobody: receive, answer, write an entry",
            "join by Request, Query, Update",
            &from,
            count,
        )?;
        report.signalling.push(limit);
        for (number, (figures, what)) in figures.iter().zip(whats).enumerate() {
            let (row, of_core) = figures.row("router daemon", what, &from, count)?;
            report.signalling.push(row);
            if number < 3 {
                let name = format!("router daemon, in a second of one core: {what}, {from}");
                let joins = Ratio::new(name, of_core.median, "per s", Bound::AtLeast(TARGET_JOINS));
                let joins = joins.with_spread(of_core);
                // The others have neither an answer nor a tunnel that is new.
                report.ratios.push(if number == 0 { joins.with_limit_of(of_limit) } else { joins });
            }
        }
        Ok(())
    }

    /// Lets the members come that are there when one more does.
    fn fill(&mut self) -> Result<()> {
        let join =
            membership_report(RecordType::AllowNewSources, self.family.crowded(), self.family.source());
        self.gateways.handshake(0..PRESENT, |_| Some(join.clone()))?;
        self.router.wait_members(PRESENT.into(), SETTLE, self.clock)?;
        Ok(())
    }

    fn through_tunnels(&mut self, effort: Effort, bar: &ProgressBar) -> Result<Vec<f64>> {
        let join =
            membership_report(RecordType::AllowNewSources, self.family.crowded(), self.family.source());
        let late = PRESENT..PRESENT + effort.samples;
        self.gateways.handshake(late.clone(), |_| None)?;
        let mut times = Vec::with_capacity(effort.samples as usize);
        bar.set_message(format!("one more joins {PRESENT} members through a tunnel"));
        for number in late {
            signals::check()?;
            std::thread::sleep(PAUSE);
            let start = self.clock.now();
            self.gateways.update(number, &join)?;
            self.gateways.wait_taken_in()?;
            times.push((self.clock.now() - start).as_secs_f64() * 1e3);
            bar.inc(1);
        }
        self.router.wait_members(u64::from(PRESENT + effort.samples), SETTLE, self.clock)?;
        Ok(times)
    }

    fn on_link(&mut self, effort: Effort, bar: &ProgressBar) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(effort.samples as usize);
        bar.set_message(format!("a host joins a group of {PRESENT} members on a link"));
        for _ in 0..effort.samples {
            signals::check()?;
            times.push(self.host(self.family).join()?.as_secs_f64() * 1e3);
            bar.inc(1);
        }
        Ok(times)
    }

    /// Lets a flood come in beside a stream that one gateway has, while a host on the flooded link, or another gateway
    /// of the flooded relay, joins again and again.
    fn flood(&mut self, kind: Kind, effort: Effort, report: &mut Report, bar: &ProgressBar) -> Result<()> {
        signals::check()?;
        bar.set_message(format!("a flood of {}", kind.label()));
        self.gateways.of_address = Spread::Translated.of_address();
        let through = self.family;
        let join = membership_report(RecordType::AllowNewSources, through.crowded(), through.sender());
        self.gateways.handshake(0..1, |_| Some(join.clone()))?;
        // It is known from then on.
        self.host(kind.family()).join()?;
        let before = self.router.stats()?;
        let alone = unheard::run(kind, effort.flood / 2, self.clock)?.per_s;
        let (stop, near) = (Arc::new(AtomicBool::new(false)), [2, 0x60, 0, 0, 0, kind.near()]);
        let watcher = flood::Watcher::start(&self.members, self.gateways.address(0), Arc::clone(&stop))?;
        let (vmr, clock, time) = (self.vmr.clone(), self.clock, effort.flood);
        let theirs = Arc::clone(&stop);
        let flood = std::thread::spawn(move || flood::run(&vmr, kind, near, time, clock, &theirs));
        let mut joins = 0;
        let mut joined = Ok(());
        while !stop.load(Ordering::Relaxed) && joined.is_ok() {
            joined = match kind {
                Kind::Reports(family) => self.host(family).join().map(drop),
                Kind::Tunnels => self.gateways.join(1, &join),
            };
            joins += u32::from(joined.is_ok());
        }
        let came = flood.join().map_err(|_| anyhow::anyhow!("the flood panicked"))??;
        let heard = watcher.end()?;
        joined.context("a join beside the flood")?;
        ensure!(joins > 0, "nobody joined beside the flood");
        let after = self.router.stats()?;
        let ((read_before, dropped_before), (read, dropped)) = (kind.counted(&before), kind.counted(&after));
        let row = FloodRow {
            what: kind.label().to_owned(),
            frames: came.frames,
            per_s: came.per_s,
            alone_per_s: alone,
            read: read - read_before,
            dropped: dropped - dropped_before,
            joins,
            packets: heard.packets,
            lost: heard.lost + heard.out_of_order,
            before_mb: flood::resident(&before)? as f64 / 1e6,
            after_mb: flood::resident(&after)? as f64 / 1e6,
        };
        let name = format!("{} that come in within a second, beside a stream and joins", row.what);
        let rate = Ratio::new(name, row.per_s, "/s", Bound::AtLeast(TARGET_FLOOD));
        report.ratios.push(rate.with_limit(alone));
        report.ratios.push(Ratio::new(
            format!("packets of the stream that a member misses beside {}", row.what),
            row.lost as f64,
            "packets",
            Bound::AtMost(0.0),
        ));
        report.floods.push(row);
        bar.inc(1);
        Ok(())
    }

    fn arrival(&self, report: &mut Report, what: &str, until: &str, times: &[f64]) -> Result<()> {
        let at = |percent| percentile(times, percent).context("no join was measured");
        let row = ArrivalRow {
            engine: self.engine.clone(),
            what: what.to_owned(),
            until: until.to_owned(),
            members: PRESENT,
            joins: times.len(),
            p50_ms: at(50.0)?,
            p99_ms: at(99.0)?,
            most_ms: at(100.0)?,
        };
        report.ratios.push(Ratio::new(
            format!("from the {what} to the member in the tables, {PRESENT} members present, p99"),
            row.p99_ms,
            "ms",
            Bound::AtMost(TARGET_MS),
        ));
        report.arrivals.push(row);
        Ok(())
    }
}
