//! Cases of the querier.

use std::{net::IpAddr, time::Instant};

use vmcast_proto::{
    Machine as _,
    membership::{
        AddressRange, Config as QuerierConfig, Family, FilterMode, ImmediateLeave, Input, Querier, Version,
    },
    record::{Recording as _, seconds},
};
use vmcast_sim::epoch;

use super::{
    case::Config,
    describe,
    words::{filter, parse, said, summed, take, take_duration, unhex},
};

pub(crate) struct Subject {
    querier: Querier,
    family: Family,
}

impl Subject {
    /// The querier of a configuration, or why there can be none.
    pub(crate) fn new(config: &mut Config) -> Result<Self, String> {
        let address: IpAddr = take(config, "address").expect("config address");
        let family = Family::of(address);
        let mut of = QuerierConfig { address, ..QuerierConfig::new(family) };
        macro_rules! set {
            ($take:ident: $($key:ident)*) => {
                $(if let Some(value) = $take(config, stringify!($key)) { of.$key = value; })*
            };
        }
        set!(take: robustness_variable require_router_alert mtu max_groups max_sources_per_group max_sources max_tracked);
        set!(take_duration: query_interval query_response_interval last_member_query_interval);
        of.startup_query_interval = take_duration(config, "startup_query_interval");
        of.startup_query_count = take(config, "startup_query_count");
        of.last_member_query_count = take(config, "last_member_query_count");
        of.max_groups_per_host = take(config, "max_groups_per_host");
        if let Some(number) = take(config, "version") {
            of.version = Version::numbered(family, number).expect("a version");
        }
        if let Some(word) = take::<String>(config, "immediate_leave") {
            of.immediate_leave = match word.as_str() {
                "never" => ImmediateLeave::Never,
                "tracked" => ImmediateLeave::Tracked,
                "single_host" => ImmediateLeave::SingleHost,
                other => panic!("immediate_leave {other}"),
            };
        }
        of.steady_time.serving = take_duration(config, "steady_time");
        of.steady_time.starting = take_duration(config, "starting_steady_time");
        let mut ranges = |key| {
            let range = |range: &str| {
                let (address, prefix) = range.split_once('/').expect("a range");
                AddressRange { address: parse(address), prefix: parse(prefix) }
            };
            take::<String>(config, key).map(|ranges| ranges.split(',').map(range).collect())
        };
        of.allowed_groups = ranges("allowed_groups");
        of.allowed_queriers = ranges("allowed_queriers");
        let querier = Querier::new(epoch(), of).map_err(|error| error.to_string())?;
        Ok(Self { querier, family })
    }
}

impl super::Subject for Subject {
    fn input(&mut self, now: Instant, words: &[&str]) {
        match words {
            ["datagram", source, rest @ .., ">", destination, "ttl", ttl, alert, bytes] => {
                let link = |link| unhex(link).try_into().expect("a link-layer address");
                let (rest, stranger) = match rest {
                    [rest @ .., "stranger"] => (rest, true),
                    rest => (rest, false),
                };
                let (link_source, link_unicast) = match rest {
                    [] => (None, false),
                    ["by", source] => (Some(link(source)), false),
                    ["by", source, "to", "us"] => (Some(link(source)), true),
                    _ => panic!("no datagram: {words:?}"),
                };
                let payload = &unhex(bytes);
                let input = Input::Datagram {
                    source: parse(source),
                    link_source,
                    link_unicast,
                    stranger,
                    destination: parse(destination),
                    ttl: parse(ttl),
                    router_alert: *alert == "alert",
                    payload,
                };
                self.querier.handle_input(now, input);
            }
            ["address", address] => self.querier.handle_input(now, Input::SetAddress(parse(address))),
            ["inherit", group, wanted] => {
                let filter = &filter(wanted);
                self.querier.handle_input(now, Input::Inherit { group: parse(group), filter });
            }
            _ => panic!("no input: {words:?}"),
        }
    }

    fn timeout(&mut self, now: Instant) {
        self.querier.handle_timeout(now);
    }

    fn next(&self) -> Option<Instant> {
        self.querier.poll_timeout()
    }

    fn outputs(&mut self) -> Vec<String> {
        let outputs = std::iter::from_fn(|| self.querier.poll_output());
        outputs.map(|output| Querier::output_words(&mut (), &output)).collect()
    }

    fn show(&self, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for info in self.querier.groups(now) {
            let mode = match info.mode {
                FilterMode::Include => "include".to_owned(),
                FilterMode::Exclude => {
                    format!("exclude for {}", seconds(info.expires.expect("a group timer runs")))
                }
            };
            let version = info.compatibility.number(self.family);
            lines.push(format!("group {} {mode} version {version}", info.group));
            lines.extend(info.sources.iter().map(|it| match it.expires {
                Some(left) => format!("source {} for {}", it.source, seconds(left)),
                None => format!("source {} excluded", it.source),
            }));
        }
        let counters = self.querier.counters();
        let refused = counters.refusals().filter(|(_, count)| *count > 0);
        lines.extend(refused.map(|(reason, count)| format!("refused {} {count}", reason.label())));
        lines
    }

    fn expand(&self, words: &[&str]) -> Option<String> {
        let (by, from, to, ttl, alert, bytes) = match words {
            ["say", rest @ ..] => {
                let said = said(self.family, default_host(self.family), rest);
                let bytes = said.message.emit(said.from, said.to).expect("of one family");
                (said.by, said.from, said.to, said.ttl, said.alert, bytes)
            }
            ["sum", from, ">", to, bytes] => {
                let (from, to) = (parse(from), parse(to));
                (None, from, to, 1, true, summed(from, to, unhex(bytes)))
            }
            _ => return None,
        };
        let alert = if alert { "alert" } else { "plain" };
        let by = by.map_or_else(String::new, |by| format!(" by {by}"));
        Some(format!("datagram {from}{by} > {to} ttl {ttl} {alert} {}", vmcast_proto::record::hex(&bytes)))
    }

    fn describe(&self, line: &str) -> Option<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        let (source, destination, bytes) = match words[..] {
            ["send", source, ">", destination, bytes] => (source, destination, bytes),
            [_, "datagram", source, .., ">", destination, "ttl", _, _, bytes] => (source, destination, bytes),
            _ => return None,
        };
        Some(describe::membership(parse(source), parse(destination), &unhex(bytes)))
    }
}

fn default_host(family: Family) -> IpAddr {
    match family {
        Family::V4 => [192, 0, 2, 100].into(),
        Family::V6 => "fe80::100".parse().expect("an address"),
    }
}
