//! `cargo xtask ci`.

use std::process::ExitCode;

use anyhow::Result;

use crate::test;

pub(crate) fn command() -> Result<ExitCode> {
    test::command(&test::Options::default())
}
