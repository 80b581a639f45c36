//! Cases of the relay.

use std::{net::SocketAddr, time::Instant};

use vmcast_proto::{
    Machine as _,
    amt::relay::{Config as RelayConfig, Input, Output, Relay, Times, Unreachable},
    record::{Recording, filter as filter_words, hex, seconds},
};
use vmcast_sim::epoch;
use vmcast_wire::amt::{Message, ResponseMac};

use super::{
    amt,
    case::Config,
    describe,
    words::{filter, parse, quoted_bytes, take, take_duration, unhex},
};

pub(crate) struct Subject {
    relay: Relay,
    memory: <Relay as Recording>::Memory,
    /// The Response MACs that were made, in their order.
    macs: Vec<ResponseMac>,
}

impl Subject {
    pub(crate) fn new(config: &mut Config) -> Self {
        // No secret of anybody's.
        let mut of = RelayConfig::new([9; 16]);
        macro_rules! set {
            ($take:ident: $($key:ident)*) => {
                $(if let Some(value) = $take(config, stringify!($key)) { of.$key = value; })*
            };
        }
        set!(take: query_source robustness max_tunnels max_tunnels_per_source max_tunnels_per_prefix unreachable_ignored);
        set!(take: answers_per_second answers_per_prefix_per_second);
        set!(take_duration: secret_age secret_lifetime query_interval query_response_interval idle_linger);
        if let Some(query_interval) = take_duration(config, "mld_query_interval") {
            let query_response_interval =
                take_duration(config, "mld_query_response_interval").expect("all of MLD");
            let robustness = take(config, "mld_robustness").expect("all of MLD");
            of.mld = Some(Times { query_interval, query_response_interval, robustness });
        }
        of.limits.groups = take(config, "max_groups").unwrap_or(of.limits.groups);
        of.limits.sources = take(config, "max_sources").unwrap_or(of.limits.sources);
        of.discovery = config.remove("discovery").unwrap_or_default().iter().map(|it| parse(it)).collect();
        Self { relay: Relay::new(epoch(), of), memory: Default::default(), macs: Vec::new() }
    }

    /// The bytes of `[mac N] HEX`.
    fn bytes(&self, words: &[&str]) -> Vec<u8> {
        match words {
            [bytes] => unhex(bytes),
            ["mac", number, bytes] => {
                let mut bytes = unhex(bytes);
                let number: usize = parse(number);
                if let Some(mac) = number.checked_sub(1) {
                    bytes[2..8].copy_from_slice(self.macs.get(mac).expect("a MAC that was made"));
                }
                bytes
            }
            _ => panic!("no bytes: {words:?}"),
        }
    }
}

impl super::Subject for Subject {
    fn input(&mut self, now: Instant, words: &[&str]) {
        match words {
            ["datagram", remote, ">", local, rest @ ..] => {
                let bytes = &self.bytes(rest);
                let (local, remote) = (parse(local), parse(remote));
                // What the recorder has to know of it.
                let input = Input::Datagram { local, remote, bytes };
                let _ = Relay::input_words(&mut self.memory, &input);
                self.relay.handle_input(now, input);
            }
            ["unreachable", local, ">", remote, quoted] => {
                let quoted = &quoted_bytes(quoted);
                let about = Unreachable { local: parse(local), remote: parse(remote), quoted };
                self.relay.handle_input(now, Input::Unreachable(about));
            }
            ["advertise", addresses @ ..] => {
                self.relay.advertise(addresses.iter().map(|it| parse(it)).collect());
            }
            ["adopt", local, ">", remote, flag, groups @ ..] => {
                let groups = groups.chunks(2).map(|pair| (parse(pair[0]), filter(pair[1])));
                // What is beyond the limits is left, as a daemon leaves it.
                let _ = self.relay.adopt(now, parse(local), parse(remote), *flag == "ecn", groups);
            }
            _ => panic!("no input: {words:?}"),
        }
    }

    fn timeout(&mut self, now: Instant) {
        self.relay.handle_timeout(now);
    }

    fn next(&self) -> Option<Instant> {
        self.relay.poll_timeout()
    }

    fn outputs(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(output) = self.relay.poll_output() {
            if let Output::Transmit { bytes, .. } = &output
                && let Ok(Message::MembershipQuery { response_mac, .. }) = Message::parse(bytes)
                && !self.macs.contains(&response_mac)
            {
                self.macs.push(response_mac);
            }
            lines.push(Relay::output_words(&mut self.memory, &output));
        }
        lines
    }

    fn show(&self, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for tunnel in self.relay.tunnels() {
            let age = seconds(now - tunnel.updated);
            lines.push(format!("tunnel {} {} updated {age} ago", tunnel.id, tunnel.remote));
            let groups = tunnel.groups.iter();
            lines.extend(groups.map(|(group, wanted)| format!("wants {group} {}", filter_words(wanted))));
        }
        let counted = self.relay.counters().iter().filter(|(_, count)| *count > 0);
        lines.extend(counted.map(|(name, count)| format!("counted {name} {count}")));
        lines
    }

    fn expand(&self, words: &[&str]) -> Option<String> {
        // A message of ours that ICMP quotes.
        if let ["icmp", local, ">", remote, rest @ ..] = words {
            let bytes = hex(&amt::bytes([0; 6], rest).unwrap_or_else(|| panic!("no message: {rest:?}")));
            return Some(format!("unreachable {local} > {remote} {bytes}"));
        }
        let [remote, ">", local, rest @ ..] = words else { return None };
        parse::<SocketAddr>(remote);
        let (mac, rest) = match rest {
            ["mac", number, rest @ ..] => (Some(number), rest),
            _ => (None, rest),
        };
        let bytes = hex(&amt::bytes([0; 6], rest).unwrap_or_else(|| panic!("no message: {rest:?}")));
        let mac = mac.map(|number| format!("mac {number} ")).unwrap_or_default();
        Some(format!("datagram {remote} > {local} {mac}{bytes}"))
    }

    fn describe(&self, line: &str) -> Option<String> {
        let bytes = line.split_whitespace().last()?;
        let came = line.contains(" datagram ") || line.contains(" unreachable ");
        let with_bytes = came && !line.starts_with(' ') || line.starts_with("  send ");
        with_bytes.then(|| describe::amt(&quoted_bytes(bytes)))
    }
}
