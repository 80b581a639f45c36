//! When a run of the checks must have ended, and an end to what goes on for longer.
//!
//! Who is stopped from outside says nothing any more: a run that stops itself names what had failed by then.

use std::{
    fmt, fs,
    process::Child,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use vmcast_lab::clock::Clock;

/// How long a run of test programs may print nothing. The longest pause is that in which they are built.
pub(super) const SILENCE: Duration = Duration::from_secs(20 * 60);

/// How long a whole run may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    clock: Clock,
    whole: Option<Duration>,
}

impl Limit {
    /// From now on; `None` is no limit.
    pub(super) fn new(whole: Option<Duration>) -> Self {
        Self { clock: Clock::start(), whole }
    }

    /// Since the beginning.
    pub(super) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// What is left of it; `None` is no limit.
    fn left(&self) -> Option<Duration> {
        self.whole.map(|whole| whole.saturating_sub(self.now()))
    }

    pub(super) fn is_over(&self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// Why something was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overrun {
    /// The whole run had no time left.
    Limit,
    /// It had said nothing for this long.
    Silence(Duration),
}

impl fmt::Display for Overrun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit => write!(f, "ended, as the time of the whole run is over"),
            Self::Silence(silence) => write!(f, "ended, as it said nothing for {} s", silence.as_secs()),
        }
    }
}

/// Watches over a child and what it has started.
#[derive(Debug)]
pub(super) struct Watch {
    beats: Sender<()>,
    thread: JoinHandle<Option<Overrun>>,
}

impl Watch {
    /// Ends the child, and what it has started, when the limit is over or it is silent for too long, if that counts.
    pub(super) fn over(child: &Child, limit: Limit, silence: Option<Duration>) -> Self {
        let (beats, heard) = mpsc::channel();
        let pid = child.id();
        let thread = thread::spawn(move || {
            loop {
                let waits = [limit.left(), silence].into_iter().flatten().min().unwrap_or(Duration::MAX);
                match heard.recv_timeout(waits) {
                    Ok(()) => {}
                    Err(RecvTimeoutError::Disconnected) => return None,
                    Err(RecvTimeoutError::Timeout) => {
                        end(pid);
                        return Some(match silence {
                            Some(silence) if !limit.is_over() => Overrun::Silence(silence),
                            _ => Overrun::Limit,
                        });
                    }
                }
            }
        });
        Self { beats, thread }
    }

    /// The child has said something.
    pub(super) fn beat(&self) {
        // Who has ended it hears no more.
        let _ = self.beats.send(());
    }

    /// The child has ended; says whether it was ended.
    pub(super) fn finish(self) -> Option<Overrun> {
        drop(self.beats);
        self.thread.join().expect("the watch does not panic")
    }
}

/// Ends a process and all that it has started. What those start meanwhile ends with them: labs see to that.
fn end(root: u32) {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children(pid));
        next += 1;
    }
    for pid in found {
        // It may have ended by itself.
        let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
    }
}

/// The children of every thread of a process, as the kernel tells them (proc_pid_task(5)).
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let told = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    told.flat_map(|pids| pids.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        process::{Command, Stdio},
    };

    use super::*;

    /// A process that has started another, which it names and waits for.
    fn endless() -> (Child, u32) {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().parse().unwrap())
    }

    /// Whether it runs; one that has ended and was not asked about yet does not.
    fn runs(pid: u32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
    }

    fn is_ended_for(limit: Option<Duration>, silence: Option<Duration>, why: Overrun) {
        let (mut child, grandchild) = endless();
        let watch = Watch::over(&child, Limit::new(limit), silence);
        assert!(!child.wait().unwrap().success());
        assert_eq!(watch.finish(), Some(why));
        while runs(grandchild) {
            thread::yield_now();
        }
    }

    #[test]
    fn what_goes_on_beyond_the_limit_is_ended_with_its_children() {
        is_ended_for(Some(Duration::from_millis(50)), None, Overrun::Limit);
        is_ended_for(Some(Duration::ZERO), Some(SILENCE), Overrun::Limit);
    }

    #[test]
    fn what_says_nothing_is_ended() {
        let silence = Duration::from_millis(50);
        is_ended_for(None, Some(silence), Overrun::Silence(silence));
        is_ended_for(Some(SILENCE), Some(silence), Overrun::Silence(silence));
    }

    #[test]
    fn what_ends_by_itself_is_left_alone() {
        let mut child = Command::new("true").spawn().unwrap();
        let watch = Watch::over(&child, Limit::new(None), Some(SILENCE));
        watch.beat();
        assert!(child.wait().unwrap().success());
        assert_eq!(watch.finish(), None);
    }
}
