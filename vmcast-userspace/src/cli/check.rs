//! `vmcast config check`.

use std::{fmt::Write as _, path::Path};

use vmcast_api::Role;

use super::{Exit, Failure, args::CheckArgs};
use crate::config::{self, AdminConfig, AgentConfig, Report, RoleConfig, RouterConfig, Severity};

/// Checks a file; the text is what to print.
pub(super) fn run(args: &CheckArgs) -> Result<String, Failure> {
    let text = config::read(&args.file)?;
    let role = match args.role.map(Role::from).or_else(|| config::guess_role(&text)) {
        Some(role) => role,
        // Broken syntax is shown as such, whatever the role.
        None => match config::parse::<RouterConfig>(&args.file, &text) {
            Err(report) if text.parse::<toml::Table>().is_err() => return Err(report.into()),
            Ok(_) | Err(_) => {
                let message = format!("cannot tell which role {} is for", args.file.display());
                return Err(Failure::new(Exit::Error, message).hint("add --role router, admin or agent"));
            }
        },
    };
    let report = match role {
        Role::Router => check::<RouterConfig>(&args.file, &text, args.other_host),
        Role::Admin => check::<AdminConfig>(&args.file, &text, args.other_host),
        Role::Agent => check::<AgentConfig>(&args.file, &text, args.other_host),
    }?;

    let mut said = report.to_string();
    if !said.is_empty() {
        said.push('\n');
    }
    let warnings = match report.count(Severity::Warning) {
        0 => String::new(),
        1 => ", with a warning".to_owned(),
        several => format!(", with {several} warnings"),
    };
    let file = args.file.display();
    writeln!(said, "{file}: right for {} {}{warnings}", article(role), role.label())
        .expect("a String takes all");
    Ok(said)
}

fn check<C: RoleConfig>(file: &Path, text: &str, other_host: bool) -> Result<Report, Report> {
    if other_host {
        config::parse::<C>(file, text).map(|(_, warnings)| warnings)
    } else {
        config::load::<C>(file).map(|(_, warnings)| warnings)
    }
}

fn article(role: Role) -> &'static str {
    match role {
        Role::Router => "a",
        Role::Admin | Role::Agent => "an",
    }
}
