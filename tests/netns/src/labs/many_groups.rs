//! One host that joins more groups than the router may have files open.

use std::{
    fs, io,
    net::Ipv4Addr,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::roles::{Engine, Role};

use super::{
    amt_gateway::{AmtGateway, epoch},
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
    gateway: AmtGateway,
    data: u64,
}

impl Member {
    fn join(number: u8, now: Instant) -> io::Result<Self> {
        let mut gateway = AmtGateway::open(gateway_of(1), number.into(), now)?;
        for last in 1..=GROUPS {
            gateway.set(now, Ipv4Addr::new(239, 193, number, last), true);
        }
        Ok(Self { gateway, data: 0 })
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
        member.gateway.stop(now());
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
            member.data += member.gateway.turn(now())?.data;
        }
        thread::sleep(Duration::from_millis(5));
        Ok(done())
    })
}
