//! The form of a case.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use vmcast_proto::record::seconds;
use vmcast_sim::epoch;

use super::{Subject, discovery, gateway, mrib, querier, relay};

/// What a machine is made with; a key may stand there more than once.
pub(crate) type Config = BTreeMap<String, Vec<String>>;

/// Timers that fire at one moment at most: more, and the machine is busy for ever.
const MOST_AT_ONCE: usize = 1_000;

/// One case.
pub(crate) struct Case {
    /// The lines before the first input, as they are.
    head: Vec<String>,
    kind: String,
    exact: bool,
    config: Config,
    /// What is said of a configuration that no machine can have.
    refused: Option<String>,
    body: Vec<Item>,
}

enum Item {
    /// A comment of the author, or an empty line.
    Comment(String),
    Step(Step),
}

/// An input and what came of it.
struct Step {
    at: Duration,
    words: String,
    outputs: Vec<String>,
}

/// What stands before a comment.
fn without_comment(line: &str) -> &str {
    line.split_once('#').map_or(line, |(words, _)| words).trim_end()
}

impl Case {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut case = Self {
            head: Vec::new(),
            kind: String::new(),
            exact: true,
            config: Config::new(),
            refused: None,
            body: Vec::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let fault = |what: &str| format!("line {}: {what}: {line}", number + 1);
            let words = without_comment(line);
            if words.is_empty() && case.body.is_empty() {
                case.head.push(line.to_owned());
            } else if words.is_empty() {
                case.body.push(Item::Comment(line.to_owned()));
            } else if let Some(output) = words.strip_prefix("  ") {
                match case.body.last_mut() {
                    Some(Item::Step(step)) => step.outputs.push(output.to_owned()),
                    Some(Item::Comment(_)) | None => return Err(fault("an output of nothing")),
                }
            } else if words.starts_with(|letter: char| letter.is_ascii_digit()) {
                let (at, words) = words.split_once(' ').ok_or_else(|| fault("no input"))?;
                let at = time(at).ok_or_else(|| fault("no time"))?;
                case.body.push(Item::Step(Step { at, words: words.to_owned(), outputs: Vec::new() }));
            } else if let Some(refused) = words.strip_prefix("refused ") {
                case.head.push(line.to_owned());
                case.refused = Some(refused.to_owned());
            } else {
                case.head.push(line.to_owned());
                let mut words = words.split_whitespace();
                match (words.next(), words.next(), words.next()) {
                    (Some("rfc"), Some(_), Some(_)) => {}
                    (Some("machine"), Some(kind), None) => case.kind = kind.to_owned(),
                    (Some("clock"), Some("real"), None) => case.exact = false,
                    (Some("clock"), Some("exact"), None) => case.exact = true,
                    (Some("config"), Some(key), Some(value)) => {
                        case.config.entry(key.to_owned()).or_default().push(value.to_owned());
                    }
                    _ => return Err(fault("not understood")),
                }
            }
        }
        Ok(case)
    }

    /// Makes the machine; all of its configuration must have been asked for.
    fn subject(&self) -> Result<Box<dyn Subject>, String> {
        let mut config = self.config.clone();
        let subject: Box<dyn Subject> = match self.kind.as_str() {
            "querier" => Box::new(querier::Subject::new(&mut config)?),
            "relay" => Box::new(relay::Subject::new(&mut config)),
            "discovery" => Box::new(discovery::Subject::new(&mut config)),
            "gateway" => Box::new(gateway::Subject::new(&mut config)),
            "mrib" => Box::new(mrib::Subject::new(&mut config)),
            other => return Err(format!("there is no machine \"{other}\"")),
        };
        match config.into_keys().next() {
            None => Ok(subject),
            Some(key) => Err(format!("there is no config {key}")),
        }
    }

    /// Replays the inputs and compares; with `bless`, gives the text with the outputs that came. What a daemon has
    /// recorded stays as it is.
    pub(crate) fn run(self, bless: bool) -> Result<Option<String>, String> {
        if let Some(expected) = &self.refused {
            return match self.subject() {
                Err(said) if said == *expected => Ok(None),
                Err(said) => Err(format!("the configuration is refused otherwise: {said}")),
                Ok(_) => Err("the configuration is not refused".to_owned()),
            };
        }
        let bless = bless && self.exact;
        let mut replay = Replay { subject: self.subject()?, text: String::new() };
        for line in &self.head {
            replay.line(line);
        }
        for item in &self.body {
            match item {
                Item::Comment(comment) => replay.line(comment),
                // Timers are written anew.
                Item::Step(step) if bless && step.words == "wake" => {}
                Item::Step(step) if bless => replay.write(step),
                Item::Step(step) => replay.compare(step, self.exact)?,
            }
        }
        Ok(bless.then_some(replay.text))
    }
}

struct Replay {
    subject: Box<dyn Subject>,
    text: String,
}

impl Replay {
    fn line(&mut self, line: &str) {
        let _ = writeln!(self.text, "{line}");
    }

    /// Does one step and says what came of it.
    fn act(&mut self, at: Duration, words: &str) -> Vec<String> {
        let now = epoch() + at;
        let words: Vec<_> = words.split_whitespace().collect();
        match words[..] {
            ["start" | "until"] => {}
            ["wake"] => self.subject.timeout(now),
            ["show"] => return self.subject.show(now),
            _ => self.subject.input(now, &words),
        }
        self.subject.outputs()
    }

    fn compare(&mut self, step: &Step, exact: bool) -> Result<(), String> {
        let Step { at, words, outputs } = step;
        let next = self.subject.next().map(|next| next - epoch());
        let in_time = match words.as_str() {
            "start" => true,
            "wake" if exact => next == Some(*at),
            "wake" => next.is_some_and(|next| next <= *at),
            _ if exact => next.is_none_or(|next| next > *at),
            _ => true,
        };
        let name = format!("{} {words}", seconds(*at));
        if !in_time {
            return Err(format!("{name}: the next timer is due at {:?}", next.map(seconds)));
        }
        let came = self.act(*at, words);
        if came == *outputs {
            return Ok(());
        }
        Err(format!("{name}\nexpected:\n  {}\ncame:\n  {}", outputs.join("\n  "), came.join("\n  ")))
    }

    fn write(&mut self, step: &Step) {
        for _ in 0..MOST_AT_ONCE {
            let due = self.subject.next().map(|next| next - epoch());
            let Some(due) = due.filter(|due| *due <= step.at && step.words != "start") else { break };
            self.write_step(due, "wake");
        }
        let words: Vec<_> = step.words.split_whitespace().collect();
        let expanded = self.subject.expand(&words).unwrap_or_else(|| step.words.clone());
        self.write_step(step.at, &expanded);
    }

    fn write_step(&mut self, at: Duration, words: &str) {
        let outputs = self.act(at, words);
        self.commented(format!("{} {words}", seconds(at)));
        for output in outputs {
            self.commented(format!("  {output}"));
        }
    }

    fn commented(&mut self, line: String) {
        match self.subject.describe(&line) {
            Some(comment) => self.line(&format!("{line} # {comment}")),
            None => self.line(&line),
        }
    }
}

/// Reads seconds, to the nanosecond.
pub(crate) fn time(text: &str) -> Option<Duration> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let nanos = format!("{part:0<9}");
    (nanos.len() == 9).then_some(())?;
    Some(Duration::new(whole.parse().ok()?, nanos.parse().ok()?))
}
