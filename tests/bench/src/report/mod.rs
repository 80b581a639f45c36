//! What was measured, as JSON and as tables.

mod document;
mod plots;
mod text;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{machine::Machine, stats::Summary};

/// Results of a run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// Whether this was the short version.
    pub(crate) quick: bool,
    /// How long it took, in seconds.
    pub(crate) seconds: f64,
    pub(crate) rows: Vec<CopyRow>,
    pub(crate) latencies: Vec<LatencyRow>,
    pub(crate) holds: Vec<HoldRow>,
    pub(crate) churn: Vec<ChurnRow>,
    pub(crate) kernel_memory: Vec<KernelMemoryRow>,
    pub(crate) joins: Vec<JoinRow>,
    pub(crate) moved: Vec<MovedRow>,
    pub(crate) signalling: Vec<SignallingRow>,
    pub(crate) arrivals: Vec<ArrivalRow>,
    pub(crate) floods: Vec<FloodRow>,
    pub(crate) memory: Vec<MemoryRow>,
    pub(crate) admin: Vec<AdminRow>,
    pub(crate) registry: Vec<RegistryRow>,
    pub(crate) nearest: Vec<NearestRow>,
    pub(crate) ratios: Vec<Ratio>,
    /// What a reader of the figures must know besides.
    pub(crate) remarks: Vec<String>,
}

/// Copies per second of one core.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct CopyRow {
    /// The engine of vmcast that makes the copies; `None` if somebody else does.
    pub(crate) engine: Option<&'static str>,
    /// Whoever else makes them, or the floor that they come from.
    pub(crate) peer: Option<&'static str>,
    /// What a copy is sent as.
    pub(crate) output: &'static str,
    /// Whether every member gets a copy of its own, or every interface one: `unicast` or `native`.
    pub(crate) fan_out: &'static str,
    /// Members of each group.
    pub(crate) members: usize,
    pub(crate) groups: usize,
    /// Bytes of UDP payload in a packet.
    pub(crate) payload: usize,
    /// Packets that the engine takes in at one go.
    pub(crate) burst: usize,
    /// Egress devices that the members are spread over.
    pub(crate) devices: usize,
    /// Median of the rounds, in millions.
    pub(crate) mcopies_per_s_core: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    pub(crate) rounds: usize,
    pub(crate) ns_per_copy: f64,
    /// Copies that arrived in the rounds, of each packet and member one at most.
    pub(crate) delivered: u64,
    pub(crate) expected: u64,
    /// Copies before and after the rounds that were looked at: each member got each packet once.
    pub(crate) checked: u64,
}

impl CopyRow {
    /// The name of who makes the copies.
    pub(crate) fn maker(&self) -> &'static str {
        self.engine.or(self.peer).unwrap_or_default()
    }
}

/// Time that packets are under way.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LatencyRow {
    /// What they pass.
    pub(crate) hop: String,
    /// Copies of each packet.
    pub(crate) outputs: usize,
    /// Bytes of UDP payload in a packet.
    pub(crate) payload: usize,
    /// The load, as a part of what the hop takes at most.
    pub(crate) load_percent: u32,
    pub(crate) packets_per_s: f64,
    /// Microseconds that so many of the copies do not exceed; medians of the rounds.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// The same beyond the cable alone under the same load, round by round; medians.
    pub(crate) added_p50_us: f64,
    pub(crate) added_p99_us: f64,
    /// Least and most of the rounds.
    pub(crate) added_p99_least_us: f64,
    pub(crate) added_p99_most_us: f64,
    pub(crate) added_p999_us: f64,
    pub(crate) rounds: usize,
    pub(crate) delivered: u64,
    pub(crate) expected: u64,
}

/// How long a packet holds the core that receives it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct HoldRow {
    pub(crate) engine: String,
    pub(crate) members: usize,
    pub(crate) packets: u64,
    /// The longest softirq of a round in microseconds; the median of the rounds, and the longest of all.
    pub(crate) softirq_us: f64,
    pub(crate) softirq_most_us: f64,
    /// The longest turn of one device in it, in the same way.
    pub(crate) poll_us: f64,
    pub(crate) poll_most_us: f64,
    pub(crate) rounds: usize,
    pub(crate) delivered: u64,
    pub(crate) expected: u64,
}

/// Members who come and go beside a stream to others who stay.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ChurnRow {
    pub(crate) engine: String,
    pub(crate) members: usize,
    /// Those who come and go.
    pub(crate) wandering: usize,
    /// Joins and leaves, each applied by itself.
    pub(crate) changes: u64,
    pub(crate) per_s: f64,
    /// Packets of the stream.
    pub(crate) packets: u64,
    pub(crate) packets_per_s: f64,
    /// Copies that those who stay missed, and those that they got beside what was theirs.
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// What the plane says of copies that it did not send.
    pub(crate) drops: String,
}

/// Kernel memory of one thing.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct KernelMemoryRow {
    pub(crate) engine: String,
    pub(crate) what: String,
    /// Bytes that one more takes; the median of the rounds.
    pub(crate) added_bytes: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// Its share of the tables that are allocated when the plane is loaded.
    pub(crate) reserved_share_bytes: f64,
    /// Both.
    pub(crate) bytes: f64,
}

/// Join to first packet, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct JoinRow {
    /// The way of the stream.
    pub(crate) path: String,
    pub(crate) engine: String,
    pub(crate) joins: usize,
    /// Median round-trip time between source and client.
    pub(crate) rtt_ms: f64,
    /// From the join to the first packet.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// What an agent misses of its stream when its address or port changes, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MovedRow {
    /// What changes.
    pub(crate) what: String,
    pub(crate) changes: usize,
    /// Between two packets of the stream.
    pub(crate) pace_ms: f64,
    pub(crate) p50_ms: f64,
    pub(crate) most_ms: f64,
}

/// Joins and leaves in a second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SignallingRow {
    /// Who takes them in.
    pub(crate) who: String,
    pub(crate) what: String,
    /// How the gateways are spread over addresses.
    pub(crate) from: String,
    /// How many there are in a round.
    pub(crate) count: u32,
    /// By the time of one core; the median of the rounds.
    pub(crate) per_s_core: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// Microseconds of a core for each.
    pub(crate) us_each: f64,
    /// By the time that passed, in which the gateways work too.
    pub(crate) per_s: f64,
    pub(crate) rounds: usize,
}

/// From a report to the member being served, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ArrivalRow {
    pub(crate) engine: String,
    /// The report.
    pub(crate) what: String,
    /// What shows that the member is served.
    pub(crate) until: String,
    /// Members of the group that are there already.
    pub(crate) members: u32,
    pub(crate) joins: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) most_ms: f64,
}

/// A flood of messages at a router daemon.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct FloodRow {
    /// What came in.
    pub(crate) what: String,
    pub(crate) frames: u64,
    pub(crate) per_s: f64,
    /// What comes in within a second where nobody is behind and nothing else is done.
    pub(crate) alone_per_s: f64,
    /// Those that the daemon took.
    pub(crate) read: u64,
    /// Those that it counted as refused, or as dropped before it read them.
    pub(crate) dropped: u64,
    /// Joins meanwhile of somebody who was there before.
    pub(crate) joins: u32,
    /// Packets of the stream beside it that its member received, and those that it missed.
    pub(crate) packets: u64,
    pub(crate) lost: u64,
    /// Resident set of the daemon in MB (10^6 bytes) before and after.
    pub(crate) before_mb: f64,
    pub(crate) after_mb: f64,
}

/// Memory of a router daemon.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemoryRow {
    pub(crate) engine: String,
    /// Members as the daemon itself reports them.
    pub(crate) members: u64,
    pub(crate) groups: u64,
    /// Resident set in MB (10^6 bytes) before the first member came, and with all of them.
    pub(crate) empty_mb: f64,
    pub(crate) resident_mb: f64,
    /// That part of it which is no file: what the daemon allocated.
    pub(crate) anonymous_mb: f64,
    /// What each tunnel with its membership added: its place in the tables, its next hop, the routes of its group.
    pub(crate) bytes_per_tunnel: f64,
    /// Seconds until all of them were in the tables.
    pub(crate) filled_in_s: f64,
}

/// Answers of the admin in a second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct AdminRow {
    /// The question.
    pub(crate) what: String,
    /// Connections that stand, and questions under way on each.
    pub(crate) connections: usize,
    pub(crate) under_way: usize,
    /// How many were answered in all rounds, each looked at.
    pub(crate) count: u64,
    /// By the time of the server's core; the median of the rounds.
    pub(crate) per_s_core: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
    /// Microseconds of a core for each.
    pub(crate) us_each: f64,
    /// By the time that passed.
    pub(crate) per_s: f64,
    pub(crate) rounds: usize,
}

/// Agents that register all at once, and what the admin takes for them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RegistryRow {
    pub(crate) how: String,
    /// Agents, or connections where one agent comes again and again: each registration is by a new one.
    pub(crate) agents: u32,
    /// Until the last of them was granted its lease.
    pub(crate) took_s: f64,
    pub(crate) per_s: f64,
    /// Microseconds of the server's threads for each.
    pub(crate) us_each: f64,
    /// The same of the client, which shares the cores with the server.
    pub(crate) client_us_each: f64,
    /// How many cores the server's threads kept busy, and the client's.
    pub(crate) cores: f64,
    pub(crate) client_cores: f64,
    /// Resident set in MB (10^6 bytes) before the first agent came, and with all of them.
    pub(crate) empty_mb: Option<f64>,
    pub(crate) resident_mb: Option<f64>,
    pub(crate) bytes_per_agent: Option<f64>,
}

/// How good the answers are in simulated networks.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NearestRow {
    /// How the nearest is found.
    pub(crate) way: String,
    /// What happens to packets.
    pub(crate) disturbance: String,
    pub(crate) vmrs: usize,
    pub(crate) searches: u32,
    pub(crate) answered: u32,
    /// Answers that were the true nearest, or as near.
    pub(crate) exact_percent: f64,
    /// How many times farther than the nearest the answers were.
    pub(crate) mean_stretch: f64,
}

/// On which side of a target a value has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(target) => value >= target,
            Self::AtMost(target) => value <= target,
        }
    }
}

/// A figure that has a target.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Ratio {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) target: f64,
    /// "at least" or "at most".
    pub(crate) bound: &'static str,
    pub(crate) met: bool,
    /// Least and most of the rounds, where `value` is their median.
    pub(crate) spread: Option<[f64; 2]>,
    /// What to reach besides.
    pub(crate) stretch: Option<f64>,
    /// The same where nobody rewrites a copy: what this machine allows.
    pub(crate) limit: Option<f64>,
    /// Least and most of the rounds, where `limit` is their median.
    pub(crate) limit_spread: Option<[f64; 2]>,
    /// Whether `limit` meets the target, where it is known.
    pub(crate) allowed: Option<bool>,
    #[serde(skip)]
    side: Bound,
}

/// What became of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// More was reached than was asked for.
    Stretch,
    Met,
    Missed,
    /// Not even copies that nobody rewrites reach it.
    NotAllowed,
    /// They do not, and are farther from it than the engine is.
    Surpassed,
}

impl Ratio {
    pub(crate) fn new(name: String, value: f64, unit: &'static str, bound: Bound) -> Self {
        let (word, target) = match bound {
            Bound::AtLeast(target) => ("at least", target),
            Bound::AtMost(target) => ("at most", target),
        };
        Self {
            name,
            value,
            unit,
            target,
            bound: word,
            met: bound.holds(value),
            spread: None,
            stretch: None,
            limit: None,
            limit_spread: None,
            allowed: None,
            side: bound,
        }
    }

    /// Says what the machine allows.
    pub(crate) fn with_limit(self, limit: f64) -> Self {
        Self { limit: Some(limit), allowed: Some(self.side.holds(limit)), ..self }
    }

    /// Says what the machine allows by the median of the rounds, and how far these lie apart.
    pub(crate) fn with_limit_of(self, limit: Summary) -> Self {
        Self { limit_spread: Some([limit.least, limit.most]), ..self.with_limit(limit.median) }
    }

    /// The limit with its unit and spread; nothing where there is none.
    fn limit_text(&self) -> Option<String> {
        let spread = self.limit_spread.map_or_else(String::new, between);
        self.limit.map(|limit| format!("{limit:.2} {}{spread}", self.unit))
    }

    /// Whether the engine does better than the limit.
    fn surpasses(&self) -> bool {
        self.limit.is_some_and(|limit| match self.side {
            Bound::AtLeast(_) => self.value > limit,
            Bound::AtMost(_) => self.value < limit,
        })
    }

    /// Says how far the rounds lie apart.
    pub(crate) fn with_spread(self, of: Summary) -> Self {
        Self { spread: Some([of.least, of.most]), ..self }
    }

    /// Says what more would be welcome.
    pub(crate) fn with_stretch(self, stretch: Option<f64>) -> Self {
        Self { stretch, ..self }
    }

    /// The result as a sentence.
    fn sentence(&self) -> String {
        let Self { name, value, unit, target, bound, spread, .. } = self;
        let verdict = match self.outcome() {
            Outcome::Stretch => "stretch target met",
            Outcome::Met => "target met",
            Outcome::Missed => "TARGET MISSED",
            Outcome::NotAllowed => "TARGET MISSED, as the machine does not allow it",
            Outcome::Surpassed => "TARGET MISSED, and by more without vmcast",
        };
        let spread = spread.map_or_else(String::new, between);
        let limit = self.limit_text().map_or_else(String::new, |limit| format!("; limit here {limit}"));
        format!("{verdict}: {name}: {value:.2} {unit}{spread}, wanted {bound} {target} {unit}{limit}")
    }

    fn outcome(&self) -> Outcome {
        match (self.met, self.stretch, self.allowed) {
            (true, Some(stretch), _) if self.value >= stretch => Outcome::Stretch,
            (true, _, _) => Outcome::Met,
            (false, _, Some(false)) if self.surpasses() => Outcome::Surpassed,
            (false, _, Some(false)) => Outcome::NotAllowed,
            (false, _, Some(true) | None) => Outcome::Missed,
        }
    }
}

/// How far the rounds lie apart, behind their median.
fn between([least, most]: [f64; 2]) -> String {
    format!(" ({least:.2} … {most:.2})")
}

impl Report {
    pub(crate) fn new(quick: bool) -> Self {
        Self {
            machine: Machine::look(),
            quick,
            seconds: 0.0,
            rows: Vec::new(),
            latencies: Vec::new(),
            holds: Vec::new(),
            churn: Vec::new(),
            kernel_memory: Vec::new(),
            joins: Vec::new(),
            moved: Vec::new(),
            signalling: Vec::new(),
            arrivals: Vec::new(),
            floods: Vec::new(),
            memory: Vec::new(),
            admin: Vec::new(),
            registry: Vec::new(),
            nearest: Vec::new(),
            ratios: Vec::new(),
            remarks: Vec::new(),
        }
    }

    pub(crate) fn write_json(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_target_is_said_in_words() {
        let missed = Ratio::new("speed".into(), 5.5, "×", Bound::AtLeast(6.0));
        assert!(!missed.met);
        assert_eq!(missed.sentence(), "TARGET MISSED: speed: 5.50 ×, wanted at least 6 ×");
        let stretched = Ratio::new("speed".into(), 10.5, "×", Bound::AtLeast(8.0)).with_stretch(Some(10.0));
        assert!(stretched.sentence().starts_with("stretch target met: speed"));
        let met = Ratio::new("memory".into(), 31.0, "MiB", Bound::AtMost(40.0));
        assert!(met.met);
        assert_eq!(met.sentence(), "target met: memory: 31.00 MiB, wanted at most 40 MiB");
    }

    #[test]
    fn a_target_that_the_machine_does_not_allow_is_told_from_one_that_the_engine_misses() {
        let speed = |limit| Ratio::new("speed".into(), 5.5, "×", Bound::AtLeast(6.0)).with_limit(limit);
        assert_eq!(speed(7.0).outcome(), Outcome::Missed);
        assert_eq!(speed(5.8).outcome(), Outcome::NotAllowed);
        assert_eq!(
            speed(5.8).sentence(),
            "TARGET MISSED, as the machine does not allow it: speed: 5.50 ×, wanted at least 6 ×; limit \
             here 5.80 ×"
        );
        let rounds = Summary { median: 7.0, least: 6.5, most: 7.25, count: 5 };
        let allowed = Ratio::new("speed".into(), 6.5, "×", Bound::AtLeast(6.0)).with_limit_of(rounds);
        assert!(allowed.sentence().ends_with("; limit here 7.00 × (6.50 … 7.25)"), "{}", allowed.sentence());
        let cost = |value| Ratio::new("cost".into(), value, "×", Bound::AtMost(1.15)).with_limit(1.2);
        assert_eq!(cost(1.3).outcome(), Outcome::NotAllowed);
        assert_eq!(cost(1.1).outcome(), Outcome::Met);
        assert_eq!(cost(1.17).outcome(), Outcome::Surpassed);
        assert_eq!(
            cost(1.17).sentence(),
            "TARGET MISSED, and by more without vmcast: cost: 1.17 ×, wanted at most 1.15 ×; limit here 1.20 ×"
        );
    }

    #[test]
    fn the_json_has_what_programs_read() {
        let mut report = Report::new(true);
        report.rows.push(CopyRow {
            engine: Some("XDP broadcast"),
            peer: None,
            output: "AMT",
            fan_out: "unicast",
            members: 64,
            groups: 1,
            payload: 1316,
            burst: 4,
            devices: 4,
            mcopies_per_s_core: 4.0,
            least: 3.9,
            most: 4.1,
            rounds: 5,
            ns_per_copy: 250.0,
            delivered: 640,
            expected: 640,
            checked: 64,
        });
        report.ratios.push(Ratio::new("speed".into(), 5.5, "×", Bound::AtLeast(6.0)).with_limit(5.8));
        let json = serde_json::to_value(&report).expect("plain data");
        let row = &json["rows"][0];
        for (key, value) in [("members", 64), ("groups", 1), ("payload", 1316), ("delivered", 640)] {
            assert_eq!(row[key], value, "{key}");
        }
        assert_eq!((&row["engine"], &row["output"]), (&"XDP broadcast".into(), &"AMT".into()));
        assert!(row["peer"].is_null(), "{row}");
        assert_eq!((&row["mcopies_per_s_core"], &row["ns_per_copy"]), (&4.0.into(), &250.0.into()));
        let ratio = &json["ratios"][0];
        assert_eq!(
            (&ratio["value"], &ratio["target"], &ratio["bound"]),
            (&5.5.into(), &6.0.into(), &"at least".into())
        );
        assert_eq!(
            (&ratio["met"], &ratio["limit"], &ratio["allowed"]),
            (&false.into(), &5.8.into(), &false.into())
        );
        assert!(json["machine"]["kernel"].is_string());
    }
}
