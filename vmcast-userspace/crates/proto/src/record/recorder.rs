//! A machine and the recording of it.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    ops::{Deref, DerefMut},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use super::words;
use crate::Machine;

/// What a machine needs to be recorded.
pub trait Recording: Machine {
    /// What its words have to remember from one line to the next.
    type Memory: Default;

    /// The name of its kind.
    const KIND: &'static str;

    /// What it was made with, one key and value each; no secrets.
    fn config_words(&self) -> Vec<(&'static str, String)>;

    /// An input in words.
    fn input_words(memory: &mut Self::Memory, input: &Self::Input<'_>) -> String;

    /// An output in words.
    fn output_words(memory: &mut Self::Memory, output: &Self::Output) -> String;
}

/// How many bytes several recordings may have together.
#[derive(Clone, Debug)]
pub struct Budget(Arc<AtomicUsize>);

impl Budget {
    /// So many.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes some, unless there are not so many left.
    fn take(&self, bytes: usize) -> bool {
        let less = |left: usize| left.checked_sub(bytes);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// The text of a recording, as long as there is budget for it.
struct Recorder<M: Recording> {
    start: Instant,
    memory: M::Memory,
    text: String,
    budget: Budget,
    /// Whether a line did not fit.
    full: bool,
}

impl<M: Recording> Recorder<M> {
    fn new(start: Instant, machine: &M, budget: Budget) -> Self {
        let (memory, text) = (M::Memory::default(), String::new());
        let mut recorder = Self { start, memory, text, budget, full: false };
        recorder.line(format_args!("machine {}", M::KIND));
        recorder.line(format_args!("clock real"));
        for (key, value) in machine.config_words() {
            recorder.line(format_args!("config {key} {value}"));
        }
        recorder
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        if self.full {
            return;
        }
        let before = self.text.len();
        let _ = writeln!(self.text, "{line}");
        if !self.budget.take(self.text.len() - before) {
            self.full = true;
            // What a case needs is its beginning.
            self.text.truncate(before);
            self.text.push_str("# full\n");
        }
    }

    fn input(&mut self, now: Instant, words: &str) {
        let at = words::seconds(now.saturating_duration_since(self.start));
        self.line(format_args!("{at} {words}"));
    }

    fn output(&mut self, output: &M::Output) {
        if self.full {
            return;
        }
        let words = M::output_words(&mut self.memory, output);
        self.line(format_args!("  {words}"));
    }
}

/// A machine, perhaps with a recording. Without one it is the machine and nothing else.
pub struct Recorded<M: Recording> {
    machine: M,
    recorder: Option<Box<Recorder<M>>>,
    /// What came out while recording and was not yet asked for.
    outputs: VecDeque<M::Output>,
}

impl<M: Recording> Recorded<M> {
    /// Takes a machine that was just made; records it if there is a budget.
    pub fn new(now: Instant, machine: M, budget: Option<&Budget>) -> Self {
        let recorder = budget.map(|budget| Box::new(Recorder::new(now, &machine, budget.clone())));
        let mut recorded = Self { machine, recorder, outputs: VecDeque::new() };
        recorded.note(now, |_| "start".to_owned());
        recorded.follow();
        recorded
    }

    /// Takes what was recorded since the last call; empty if there is nothing new.
    pub fn take_recording(&mut self) -> String {
        self.recorder.as_mut().map(|recorder| std::mem::take(&mut recorder.text)).unwrap_or_default()
    }

    /// Notes what is done to the machine by another way than as an input.
    pub fn note_words(&mut self, now: Instant, words: impl FnOnce() -> String) {
        self.note(now, |_| words());
    }

    fn note(&mut self, now: Instant, words: impl FnOnce(&mut M::Memory) -> String) {
        if let Some(recorder) = &mut self.recorder
            && !recorder.full
        {
            let words = words(&mut recorder.memory);
            recorder.input(now, &words);
        }
    }

    /// Writes down what came out, if anybody writes.
    fn follow(&mut self) {
        let Some(recorder) = &mut self.recorder else { return };
        while let Some(output) = self.machine.poll_output() {
            recorder.output(&output);
            self.outputs.push_back(output);
        }
    }
}

impl<M: Recording> Machine for Recorded<M> {
    type Input<'a> = M::Input<'a>;
    type Output = M::Output;

    fn handle_input(&mut self, now: Instant, input: Self::Input<'_>) {
        self.follow();
        self.note(now, |memory| M::input_words(memory, &input));
        self.machine.handle_input(now, input);
        self.follow();
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.follow();
        if self.machine.poll_timeout().is_some_and(|at| at <= now) {
            self.note(now, |_| "wake".to_owned());
        }
        self.machine.handle_timeout(now);
        self.follow();
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    fn poll_output(&mut self) -> Option<Self::Output> {
        self.follow();
        self.outputs.pop_front().or_else(|| self.machine.poll_output())
    }
}

impl<M: Recording> Deref for Recorded<M> {
    type Target = M;

    fn deref(&self) -> &M {
        &self.machine
    }
}

impl<M: Recording> DerefMut for Recorded<M> {
    fn deref_mut(&mut self) -> &mut M {
        &mut self.machine
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::membership::{Config, Family, Input, Querier};

    fn recorded(budget: Option<usize>) -> (Instant, Recorded<Querier>) {
        let start = vmcast_sim::epoch();
        let config = Config { address: "192.0.2.1".parse().unwrap(), ..Config::new(Family::V4) };
        (start, Recorded::new(start, Querier::new(start, config).unwrap(), budget.map(Budget::new).as_ref()))
    }

    #[test]
    fn what_went_in_and_came_out_is_written_down_and_comes_out_all_the_same() {
        let (start, mut querier) = recorded(Some(10_000));
        let (_, mut bare) = recorded(None);
        for machine in [&mut querier, &mut bare] {
            let later = start + Duration::from_millis(31_250);
            machine.handle_timeout(later - Duration::from_nanos(1));
            machine.handle_timeout(later);
            let address = "192.0.2.7".parse().unwrap();
            machine.handle_input(later, Input::SetAddress(address));
        }
        let outputs = |machine: &mut Recorded<Querier>| -> Vec<_> {
            std::iter::from_fn(|| machine.poll_output()).collect()
        };
        let seen = outputs(&mut querier);
        assert_eq!((seen.len(), seen), (2, outputs(&mut bare)));
        let text = querier.take_recording();
        let (head, body) = text.split_once("0 start\n").expect("it begins");
        assert!(head.starts_with("machine querier\nclock real\nconfig address 192.0.2.1\n"), "{head}");
        let query = "  send 192.0.2.1 > 224.0.0.1 1164ec1e00000000027d0000\n";
        assert_eq!(body, format!("{query}31.25 wake\n{query}31.25 address 192.0.2.7\n"));
        assert_eq!(querier.take_recording(), "");
        assert_eq!(bare.take_recording(), "");
    }

    #[test]
    fn a_recording_ends_at_its_limit_and_the_machine_goes_on() {
        let (start, mut querier) = recorded(Some(700));
        for second in 0..1_000 {
            querier.handle_input(start, Input::SetAddress([192, 0, 2, second as u8].into()));
            querier.handle_timeout(start + Duration::from_secs(second * 10));
            while querier.poll_output().is_some() {}
        }
        let text = querier.take_recording();
        assert!(text.len() <= 700 + "# full\n".len() && text.ends_with("# full\n"), "{text}");
        assert!(querier.counters().queries_sent > 70);
    }
}
