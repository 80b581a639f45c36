//! The `ip` command in batches: one process for many changes.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::LabError;

/// Runs the lines as one batch, in a namespace known to `ip netns`, or in the current one.
pub(super) fn batch(netns: Option<&str>, lines: &str) -> Result<(), LabError> {
    let mut command = Command::new("ip");
    if let Some(name) = netns {
        command.args(["-n", name]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(LabError::io("starting `ip` (package iproute2)"))?;
    let mut stdin = child.stdin.take().expect("piped above");
    stdin.write_all(lines.as_bytes()).map_err(LabError::io("writing to `ip -batch`"))?;
    drop(stdin);
    let output = child.wait_with_output().map_err(LabError::io("waiting for `ip`"))?;
    let place = netns.unwrap_or("the host's namespace");
    LabError::check(&format!("ip -batch in {place}: {}", lines.trim().replace('\n', "; ")), &output)
}
