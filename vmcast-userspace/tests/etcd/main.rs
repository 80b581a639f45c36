//! The registry in a real etcd: one member and three, on loopback.
//!
//! Where etcd is not installed every test is listed as ignored, and the reason is printed.

mod admins;
mod clocks;
mod cluster;
mod identity;
mod migrated;
mod nearest;
mod outage;
mod several;
mod tls;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use tokio::runtime::{Builder, Runtime};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let missing = cluster::missing();
    if let Some(reason) = &missing {
        eprintln!("SKIPPED every test on a real etcd: {reason}");
    }
    let trials = [
        several::trials(),
        nearest::trials(),
        admins::trials(),
        clocks::trials(),
        outage::trials(),
        identity::trials(),
        tls::trials(),
        migrated::trials(),
    ]
    .into_iter()
    .flatten();
    let trials = trials.map(|trial| trial.with_ignored_flag(missing.is_some())).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// What a test says of itself in the end.
type Outcome = Result<(), Failed>;

/// A test with a runtime of its own. Stores block where they write, so it runs on a thread that may.
fn trial(name: &str, test: fn(&Runtime) -> Outcome) -> Trial {
    Trial::test(format!("etcd: {name}"), move || {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        test(&runtime)
    })
}
