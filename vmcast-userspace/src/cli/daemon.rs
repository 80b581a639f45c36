//! Runs a role in the foreground.

use std::{future::Future, path::PathBuf};

use tracing::{error, info, warn};

use super::{
    Exit,
    args::{DaemonArgs, NodeArgs},
};
use crate::{
    admin::Clock,
    agent,
    config::{self, Access, AdminLinkConfig, LogConfig, Place, Report, RoleConfig},
    daemon,
    identity::{self, Given, NodeIdentity},
    router, telemetry,
};

/// `vmcast router`.
pub(super) fn router(args: &NodeArgs) -> Exit {
    run(&args.daemon, access(args), None, router::run)
}

/// `vmcast admin`.
pub(super) fn admin(args: &DaemonArgs) -> Exit {
    run(args, Access { insecure: args.insecure, ..Access::default() }, None, daemon::run_admin)
}

/// `vmcast agent`.
pub(super) fn agent(args: &NodeArgs) -> Exit {
    match agent_without_file(args) {
        Ok(text) => run(&args.daemon, access(args), text, agent::run),
        Err(error) => {
            eprintln!("error: {error}");
            Exit::Error
        }
    }
}

/// What the command line says of how a node gets in.
fn access(args: &NodeArgs) -> Access {
    let given = args.certificate.clone().zip(args.key.clone());
    Access {
        insecure: args.daemon.insecure,
        token: args.token.clone(),
        given: given.map(|(certificate, key)| Given { certificate, key }),
        admins: args.admin.clone(),
    }
}

/// The configuration of an agent that has no file: its admins are those of the command line or of its token, or those
/// that its identity has kept.
fn agent_without_file(args: &NodeArgs) -> Result<Option<String>, identity::IdentityError> {
    if args.daemon.config.is_some() {
        return Ok(None);
    }
    let directory = AdminLinkConfig::default().identity_directory(identity::Role::Agent);
    let known = NodeIdentity::load(&directory, Clock::system())?;
    let given = access(args).given.map(|given| given.certified()).transpose()?.flatten();
    let stated: Vec<_> = args.admin.iter().map(|url| url.as_str().to_owned()).collect();
    let admins = match (&args.token, &known) {
        (Some(token), _) => token.admins.clone(),
        (None, _) if !stated.is_empty() => stated,
        (None, Some(known)) => known.admins(),
        (None, None) if given.is_some() => Vec::new(),
        (None, None) => return Ok(None),
    };
    // Who has joined, or was given a certificate, goes on under that name.
    let name = given.map(|given| given.node).or_else(|| known.map(|known| known.certified().node));
    let name = name.map(|node| format!("name = {:?}\n", node.as_str())).unwrap_or_default();
    Ok(Some(format!("{name}[admin]\nurls = {admins:?}\n")))
}

/// Runs a role by its file, or by `text` where there is no file.
fn run<C, F>(args: &DaemonArgs, access: Access, text: Option<String>, role: impl FnOnce(C) -> F) -> Exit
where
    C: RoleConfig,
    F: Future<Output = anyhow::Result<()>>,
{
    let (file, text): (PathBuf, Result<String, Report>) = match (&args.config, text) {
        (Some(file), _) => (file.clone(), config::read(file)),
        (None, Some(text)) => (PathBuf::from("(no file)"), Ok(text)),
        (None, None) => {
            let hint = match C::ROLE {
                vmcast_api::Role::Agent => {
                    "name a configuration file by --config, a token by --token, or --certificate, --key and --admin"
                }
                vmcast_api::Role::Router | vmcast_api::Role::Admin => "name a configuration file by --config",
            };
            eprintln!("error: {} cannot start without a configuration\n  hint: {hint}", C::ROLE.label());
            return Exit::Usage;
        }
    };
    let loaded = text.and_then(|text| config::load_text::<C>(&file, &text, &access));
    let (config, warnings) = match loaded {
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
    info!(role = role_name, version, config = %file.display(), "starting");
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
