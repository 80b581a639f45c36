//! Runs a role in the foreground.

use std::future::Future;

use tracing::{error, info, warn};

use super::{Exit, args::DaemonArgs};
use crate::{
    agent,
    config::{self, LogConfig, Place, RoleConfig},
    daemon, router, telemetry,
};

/// `vmcast router`.
pub(super) fn router(args: &DaemonArgs) -> Exit {
    run(args, router::run)
}

/// `vmcast admin`.
pub(super) fn admin(args: &DaemonArgs) -> Exit {
    run(args, daemon::run_admin)
}

/// `vmcast agent`.
pub(super) fn agent(args: &DaemonArgs) -> Exit {
    run(args, agent::run)
}

fn run<C, F>(args: &DaemonArgs, role: impl FnOnce(C) -> F) -> Exit
where
    C: RoleConfig,
    F: Future<Output = anyhow::Result<()>>,
{
    let (config, warnings) = match config::load::<C>(&args.config) {
        Ok(loaded) => loaded,
        Err(report) => {
            eprint!("{report}");
            return Exit::Error;
        }
    };
    let log = LogConfig {
        level: args.log_level.or(config.log().level),
        format: args.log_format.unwrap_or(config.log().format),
    };
    if let Err(error) = telemetry::init(&log) {
        eprintln!("error: {error:#}");
        return Exit::Error;
    }
    let (role_name, version) = (C::ROLE.label(), env!("CARGO_PKG_VERSION"));
    info!(role = role_name, version, config = %args.config.display(), "starting");
    daemon::raise_open_files();
    for warning in warnings.diagnostics {
        let line = warning.place.as_ref().map_or(0, |place: &Place| place.line);
        let hint = warning.hint.unwrap_or_default();
        warn!(file = %warning.file.display(), line, hint, "{}", warning.message);
    }

    // One thread is enough: packets are the kernel's work, and each thread costs memory.
    let outcome = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(role(config)));
    match outcome {
        Ok(()) => {
            info!(role = role_name, "ended");
            Exit::Ok
        }
        Err(error) => {
            error!(role = role_name, "{error:#}");
            Exit::Error
        }
    }
}
