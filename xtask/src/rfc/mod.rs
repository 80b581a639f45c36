//! `cargo xtask rfc`: which sections of the RFCs are followed where, what proves it, and what is missing.

mod citation;
mod report;
mod table;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::Args;

use crate::project::root;

#[derive(Debug, Default, Args)]
pub(crate) struct Options {
    /// Numbers of RFCs, as 7450; without any, all
    rfc: Vec<u32>,
    /// Only what has no test, or neither code nor test
    #[arg(long)]
    missing: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Prints nothing but what is wrong, and fails if a MUST has no code, no test and no reason, if it asks for more
    /// things than tests name it, if a citation names no RFC or a section without a row, or if a file does not say which
    /// sections it proves
    #[arg(long)]
    check: bool,
}

/// The directory with what we have to follow, one file per RFC.
fn tables() -> PathBuf {
    root().join("tests/rfc")
}

pub(crate) fn command(options: &Options) -> Result<ExitCode> {
    let tables = table::read(&tables(), &options.rfc)?;
    let citations = citation::scan(&root())?;
    let report = report::Report::new(&tables, &citations);
    if options.check {
        let faults = report.faults();
        for fault in &faults {
            println!("{fault}");
        }
        println!("{}", report.summary());
        return Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report.to_json(options.missing))?);
    } else {
        report.print(options.missing);
    }
    Ok(ExitCode::SUCCESS)
}
