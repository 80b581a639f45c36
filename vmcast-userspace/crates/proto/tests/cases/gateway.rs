//! Cases of the gateway.

use std::{net::SocketAddr, time::Instant};

use vmcast_proto::{
    Machine as _,
    amt::gateway::{Config as GatewayConfig, DownReason, Event, Gateway, Input, Output},
    record::{filter as filter_words, hex},
};
use vmcast_sim::epoch;

use super::{
    amt,
    case::Config,
    describe,
    words::{filter, parse, quoted_bytes, take, take_duration, unhex},
};

pub(crate) struct Subject {
    gateway: Gateway,
    /// Where the last message went.
    relay: SocketAddr,
    /// The nonces of the last Relay Discovery or Request.
    nonce: String,
}

impl Subject {
    pub(crate) fn new(config: &mut Config) -> Self {
        let relay = take(config, "relay").expect("config relay");
        let mut of = GatewayConfig::new(relay, [7; 16]);
        macro_rules! set {
            ($take:ident: $($key:ident)*) => {
                $(if let Some(value) = $take(config, stringify!($key)) { of.$key = value; })*
            };
        }
        set!(take: discover report_source mtu tries unreachable_tries keep_warm);
        set!(take_duration: first_retransmission max_retransmission);
        of.max_request_interval = take_duration(config, "max_request_interval");
        Self { gateway: Gateway::new(epoch(), of), relay, nonce: "00000000".to_owned() }
    }
}

impl super::Subject for Subject {
    fn input(&mut self, now: Instant, words: &[&str]) {
        match words {
            ["datagram", remote, "tos", tos, bytes] => {
                let bytes = &unhex(bytes);
                let (remote, tos) = (parse(remote), parse(tos));
                self.gateway.handle_input(now, Input::Datagram { remote, tos, bytes });
            }
            ["unreachable", remote, quoted] => {
                let quoted = &quoted_bytes(quoted);
                self.gateway.handle_input(now, Input::Unreachable { remote: parse(remote), quoted });
            }
            ["want", group, wanted] => {
                let (group, filter) = (parse(group), filter(wanted));
                self.gateway.handle_input(now, Input::SetMembership { group, filter });
            }
            ["seen"] => self.gateway.handle_input(now, Input::DataSeen),
            ["moved"] => self.gateway.handle_input(now, Input::LocalChanged),
            ["stop"] => self.gateway.handle_input(now, Input::Stop),
            _ => panic!("no input: {words:?}"),
        }
    }

    fn timeout(&mut self, now: Instant) {
        self.gateway.handle_timeout(now);
    }

    fn next(&self) -> Option<Instant> {
        self.gateway.poll_timeout()
    }

    fn outputs(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(output) = self.gateway.poll_output() {
            lines.push(match output {
                Output::Transmit { remote, bytes } => {
                    self.relay = remote;
                    if let [1 | 3, _, _, _, nonce @ ..] = &bytes[..] {
                        self.nonce = hex(nonce);
                    }
                    format!("send > {remote} {}", hex(&bytes))
                }
                Output::Data { packet } => format!("data {}", hex(&packet)),
                Output::Event(Event::Up { relay }) => format!("up {relay}"),
                Output::Event(Event::Refused { relay }) => format!("refused {relay}"),
                Output::Event(Event::Down { reason }) => format!("down {}", label(reason)),
            });
        }
        lines
    }

    fn show(&self, _now: Instant) -> Vec<String> {
        let wanted = self.gateway.memberships();
        let mut lines: Vec<_> =
            wanted.map(|(group, wanted)| format!("wants {group} {}", filter_words(wanted))).collect();
        let counted = self.gateway.counters().iter().filter(|(_, count)| *count > 0);
        lines.extend(counted.map(|(name, count)| format!("counted {name} {count}")));
        lines
    }

    /// A relay's message: `hear [from ADDRESS] [tos N] [mac HEX] MESSAGE`, in which the nonce `last` is that of the last
    /// Relay Discovery or Request. One of ours that ICMP quotes: `icmp [from ADDRESS] [mac HEX] MESSAGE`, where it went to
    /// in place of where it came from.
    fn expand(&self, words: &[&str]) -> Option<String> {
        let (heard, rest) = match words {
            ["hear", rest @ ..] => (true, rest),
            ["icmp", rest @ ..] => (false, rest),
            _ => return None,
        };
        let (mut remote, mut tos, mut mac, mut rest) = (self.relay, 0, [1, 2, 3, 4, 5, 6], rest);
        loop {
            match rest {
                ["from", address, more @ ..] => (remote, rest) = (parse(address), more),
                ["tos", number, more @ ..] => (tos, rest) = (parse(number), more),
                ["mac", bytes, more @ ..] => (mac, rest) = (unhex(bytes).try_into().expect("six"), more),
                _ => break,
            }
        }
        let named: Vec<_> =
            rest.iter().map(|word| if *word == "last" { &self.nonce } else { *word }).collect();
        let bytes = amt::bytes(mac, &named).unwrap_or_else(|| panic!("no message: {rest:?}"));
        let _: u8 = tos;
        if !heard {
            return Some(format!("unreachable {remote} {}", hex(&bytes)));
        }
        Some(format!("datagram {remote} tos {tos} {}", hex(&bytes)))
    }

    fn describe(&self, line: &str) -> Option<String> {
        let bytes = line.split_whitespace().last()?;
        let came = line.contains(" datagram ") || line.contains(" unreachable ");
        let with_bytes = came && !line.starts_with(' ') || line.starts_with("  send ");
        with_bytes.then(|| describe::amt(&quoted_bytes(bytes)))
    }
}

const fn label(reason: DownReason) -> &'static str {
    match reason {
        DownReason::NoAdvertisement => "no_advertisement",
        DownReason::NoAnswer => "no_answer",
        DownReason::Unreachable => "unreachable",
        DownReason::Refused => "refused",
        DownReason::Idle => "idle",
        DownReason::Stopped => "stopped",
    }
}
