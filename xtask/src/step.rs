//! One step of a longer work: says what it does, shows that it lives, keeps its output for the case of failure.

use std::{
    fs::{self, File},
    io::IsTerminal as _,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use vmcast_lab::clock::Clock;

use crate::project::work_dir;

/// How much of a failed step's output is shown.
const TAIL: usize = 40;

/// Runs a command whose output is of interest only if it fails.
pub(crate) fn quiet(title: &str, log_name: &str, mut command: Command) -> Result<()> {
    let dir = work_dir();
    fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
    let path = dir.join(format!("{log_name}.log"));
    let log = File::create(&path).with_context(|| format!("writing {}", path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);

    let spinner = spinner(title);
    let clock = Clock::start();
    let status = command.status().with_context(|| format!("starting {:?}", command.get_program()));
    spinner.finish_and_clear();
    let status = status?;
    let seconds = clock.now().as_secs_f64();
    if status.success() {
        eprintln!("  {title}: done in {seconds:.0} s");
        return Ok(());
    }
    let text = fs::read_to_string(&path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(TAIL)..] {
        eprintln!("  | {line}");
    }
    bail!("{title}: failed ({status}) after {seconds:.0} s; all of its output is in {}", path.display());
}

fn spinner(title: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        eprintln!("  {title} ...");
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("  {spinner} {msg} {elapsed}").expect("a fixed template");
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(title.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
