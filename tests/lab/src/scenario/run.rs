//! Runs the main job from beginning to end.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    Report, RouterReport, Stage,
    flow::Span,
    hops::Hops,
    player::Player,
    script::memberships,
    show::{Screen, View, summary},
};
use crate::{LabError, clock::Clock, roles::Engine, signals};

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The program under test.
    pub program: PathBuf,
    /// What replicates.
    pub engine: Engine,
    /// How long; without an end, until a signal.
    pub length: Option<Duration>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
    /// What the time until the lab is ready is counted from.
    pub started: Clock,
}

const TICK: Duration = Duration::from_millis(50);
const REFRESH: Duration = Duration::from_secs(1);

/// Runs the main job, shows it on standard output and gives the report.
///
/// Call [`signals::install`] before, so that Ctrl-C ends it in order.
///
/// # Errors
/// If the lab cannot be built, a role ends before its time, or the report cannot be written.
pub fn run(options: &RunOptions) -> Result<Report, LabError> {
    run_disturbed(options, |_, _| Ok(()))
}

/// Runs the main job while something disturbs it, to see that the report tells. The disturbance is called
/// again and again with the time since the first join.
///
/// # Errors
/// As [`run`], or what the disturbance fails with.
pub fn run_disturbed(
    options: &RunOptions,
    mut disturb: impl FnMut(&mut Stage, Duration) -> Result<(), LabError>,
) -> Result<Report, LabError> {
    let mut stage = Stage::build("main", &options.program, options.engine, |text| println!("  {text}"))?;
    let routers = routers(&stage);
    let engines: Vec<_> =
        routers.iter().map(|router| format!("{}: {}", router.router, router.engine)).collect();
    let mut hops = Hops::watch(&stage)?;
    let mut players = Vec::new();
    for (index, client) in stage.topology.clients.iter().enumerate() {
        players.push(Player::new(&stage, client, memberships(index, options.length))?);
    }
    players.push(Player::new(&stage, &stage.topology.bystander, Vec::new())?);

    println!("  ready after {:.1} s", options.started.now().as_secs_f64());
    let begin = stage.clock.now();
    let mut screen = Screen::new();
    let mut next_refresh = begin;
    let mut failure = None;
    loop {
        let now = stage.clock.now();
        let elapsed = now - begin;
        if options.length.is_some_and(|length| elapsed >= length) || signals::stop_requested() {
            break;
        }
        if let Err(error) = stage.check_alive() {
            failure = Some(error);
            break;
        }
        for player in &mut players {
            player.advance(&stage, begin)?;
        }
        hops.follow(&memberships_of(&players));
        disturb(&mut stage, elapsed)?;
        if now >= next_refresh {
            next_refresh += REFRESH;
            screen.show(&View {
                elapsed,
                length: options.length,
                engines: engines.join(", "),
                hops: hops.view(&stage.recorder, now),
                players: players.iter_mut().map(|player| player.view(&stage.recorder, now)).collect(),
            });
        }
        thread::sleep(TICK);
    }
    let seconds = (stage.clock.now() - begin).as_secs_f64();
    leave_all(&stage, &mut players, begin)?;
    hops.follow(&memberships_of(&players));
    hops.update(&stage.recorder, stage.clock.now());

    let clients: Vec<_> = players.iter().map(Player::report).collect();
    let mut violations: Vec<_> = failure.map(|error| error.to_string()).into_iter().collect();
    violations.extend(hops.violations());
    violations.extend(clients.iter().flat_map(super::ClientReport::violations));
    if clients.iter().any(super::ClientReport::misses_packets) {
        violations.extend(hops.losses());
    }
    if clients.iter().any(super::ClientReport::got_packets_twice) {
        violations.extend(hops.duplication());
    }
    if clients.iter().all(|client| client.sessions.iter().all(|session| session.packets == 0)) {
        violations.push("no client received any packet".to_owned());
    }
    let passed = violations.is_empty();
    let report = Report { passed, violations, seconds, routers, hops: hops.report(), clients };
    print!("{}", summary(&report));
    if !report.passed {
        print!("What the roles said last:\n{}", stage.log_tails(12));
    }
    if let Some(path) = &options.report {
        write_report(path, &report)?;
    }
    Ok(report)
}

fn memberships_of(players: &[Player]) -> Vec<(Ipv4Addr, &[Span])> {
    players.iter().map(Player::memberships).collect()
}

/// Lets everybody leave, and waits until the wires have to be quiet, and are seen to be.
fn leave_all(stage: &Stage, players: &mut [Player], begin: Duration) -> Result<(), LabError> {
    for player in &mut *players {
        player.end_script();
        player.leave(stage)?;
    }
    while !signals::stop_requested() && !players.iter().all(Player::is_quiet) {
        for player in &mut *players {
            player.advance(stage, begin)?;
        }
        thread::sleep(TICK);
    }
    if !signals::stop_requested() {
        thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

fn routers(stage: &Stage) -> Vec<RouterReport> {
    let report = |router, role: &crate::roles::Role| {
        let (engine, reason) =
            role.engine().unwrap_or_else(|| ("unknown".to_owned(), "it did not say".to_owned()));
        RouterReport { router, engine, reason }
    };
    vec![report("vmr1", stage.vmr1()), report("vmr2", stage.vmr2())]
}

fn write_report(path: &Path, report: &Report) -> Result<(), LabError> {
    let text = serde_json::to_string_pretty(report).expect("a report has string keys only");
    fs::write(path, text + "\n").map_err(LabError::io(format!("writing {}", path.display())))
}
