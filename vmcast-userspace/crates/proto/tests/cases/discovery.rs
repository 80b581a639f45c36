//! Cases of the discovery of relays by DNS.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use vmcast_proto::{
    Machine as _,
    amt::{
        Discovery,
        discovery::{
            Answer, CandidateState, Config as DiscoveryConfig, Event, Input, Output, Place, Prefer, Question,
            Routes,
        },
    },
    record::{filter as filter_words, hex, seconds},
};
use vmcast_wire::amtrelay::{Name, Record, Relay};

use super::{
    amt,
    case::Config,
    describe,
    words::{duration, filter, parse, quoted_bytes, take, take_duration, unhex},
};

pub(crate) struct Subject {
    discovery: Discovery,
    /// Where the last message of each tunnel went, and the nonces of its last Relay Discovery or Request.
    last: BTreeMap<u32, (String, String)>,
}

/// A way leads everywhere but to 100.64.0.0/10.
struct Ways;

impl Routes for Ways {
    fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        match destination {
            IpAddr::V4(v4) => (v4.octets()[0] != 100).then_some(IpAddr::from([192, 0, 2, 1])),
            IpAddr::V6(_) => Some(parse("2001:db8::1")),
        }
    }
}

impl Subject {
    pub(crate) fn new(config: &mut Config) -> Self {
        let mut of = DiscoveryConfig::new([7; 16]);
        of.max_sources = take(config, "max_sources").unwrap_or(of.max_sources);
        of.max_tunnels = take(config, "max_tunnels").unwrap_or(of.max_tunnels);
        of.patience = take_duration(config, "patience").unwrap_or(of.patience);
        of.linger = take_duration(config, "linger").unwrap_or(of.linger);
        if let Some(prefer) = take::<String>(config, "prefer") {
            of.prefer = if prefer == "default" { Prefer::Default } else { Prefer::Records };
        }
        Self { discovery: Discovery::new(of), last: BTreeMap::new() }
    }

    fn answer(&mut self, now: Instant, query: &str, answer: Answer<'_>) {
        self.discovery.handle_input(now, Input::Answer { query: parse(query), answer, routes: &Ways });
    }
}

impl super::Subject for Subject {
    fn input(&mut self, now: Instant, words: &[&str]) {
        match words {
            ["want", group, wanted] => {
                let (group, filter) = (parse(group), &filter(wanted));
                self.discovery.handle_input(now, Input::SetMembership { group, filter });
            }
            ["default", relay] => {
                let relay = (*relay != "-").then(|| parse(relay));
                self.discovery.handle_input(now, Input::SetDefault(relay));
            }
            ["own", own @ ..] => {
                let own: Vec<_> = own.iter().map(|address| parse(address)).collect();
                self.discovery.handle_input(now, Input::SetOwn(&own));
            }
            ["records", query, ttl, data @ ..] => {
                let data: Vec<_> = data.iter().map(|data| quoted_bytes(data)).collect();
                self.answer(now, query, Answer::Records { data: &data, ttl: duration(ttl) });
            }
            ["addresses", query, ttl, addresses @ ..] => {
                let addresses: Vec<_> = addresses.iter().map(|address| parse(address)).collect();
                self.answer(now, query, Answer::Addresses { addresses: &addresses, ttl: duration(ttl) });
            }
            ["nothing", query] => self.answer(now, query, Answer::Nothing { ttl: None }),
            ["failed", query] => self.answer(now, query, Answer::Failed),
            ["datagram", tunnel, remote, bytes] => {
                let bytes = &unhex(bytes);
                let (tunnel, remote) = (parse(tunnel), parse(remote));
                self.discovery.handle_input(now, Input::Datagram { tunnel, remote, tos: 0, bytes });
            }
            ["unreachable", tunnel, remote, quoted] => {
                let quoted = &quoted_bytes(quoted);
                let (tunnel, remote) = (parse(tunnel), parse(remote));
                self.discovery.handle_input(now, Input::Unreachable { tunnel, remote, quoted });
            }
            ["stop"] => self.discovery.handle_input(now, Input::Stop),
            _ => panic!("no input: {words:?}"),
        }
    }

    fn timeout(&mut self, now: Instant) {
        self.discovery.handle_timeout(now);
    }

    fn next(&self) -> Option<Instant> {
        self.discovery.poll_timeout()
    }

    fn outputs(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(output) = self.discovery.poll_output() {
            if let Output::Transmit { tunnel, remote, bytes } = &output {
                let last = self.last.entry(*tunnel).or_default();
                last.0 = remote.to_string();
                if let [1 | 3, _, _, _, nonce @ ..] = &bytes[..] {
                    last.1 = hex(nonce);
                }
            }
            lines.push(words(&output));
        }
        lines
    }

    fn show(&self, now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for source in self.discovery.sources(now) {
            lines.push(format!("source {} {}", source.source, place(source.place)));
            lines.extend(source.candidates.iter().map(|of| {
                let optional = if of.discovery_optional { "D " } else { "" };
                let name = of.name.map_or_else(String::new, |name| format!(" {name}"));
                format!("relay {} {optional}{}{name} {}", of.precedence, of.relay, state(of.state))
            }));
        }
        let counted = self.discovery.counters().iter().filter(|(_, count)| *count > 0);
        lines.extend(counted.map(|(name, count)| format!("counted {name} {count}")));
        lines
    }

    /// Records in words, `say QUERY TTL RECORD [; RECORD ...]`, each `PRECEDENCE [D] RELAY` with `none`, an address, a
    /// name, or `hex` and the bytes. What a relay sends: `hear TUNNEL MESSAGE`. What ICMP quotes: `icmp TUNNEL MESSAGE`.
    fn expand(&self, words: &[&str]) -> Option<String> {
        match words {
            ["say", query, ttl, records @ ..] => {
                let records = records.split(|word| *word == ";").map(record).collect::<Vec<_>>();
                Some(format!("records {query} {ttl} {}", records.join(" ")))
            }
            [what @ ("hear" | "icmp"), tunnel, rest @ ..] => {
                let (remote, nonce) =
                    self.last.get(&parse(tunnel)).expect("a tunnel that has sent something");
                let named: Vec<_> =
                    rest.iter().map(|word| if *word == "last" { nonce } else { *word }).collect();
                let bytes = amt::bytes([1, 2, 3, 4, 5, 6], &named).expect("a message");
                let what = if *what == "hear" { "datagram" } else { "unreachable" };
                Some(format!("{what} {tunnel} {remote} {}", hex(&bytes)))
            }
            _ => None,
        }
    }

    fn describe(&self, line: &str) -> Option<String> {
        let words: Vec<_> = line.split_whitespace().collect();
        match words[..] {
            [_, "records", _, _, ref data @ ..] => {
                let records: Vec<_> = data.iter().map(|data| said(&quoted_bytes(data))).collect();
                Some(records.join("; "))
            }
            [_, "datagram" | "unreachable", _, _, bytes] | ["send", _, _, _, bytes] => {
                Some(describe::amt(&quoted_bytes(bytes)))
            }
            _ => None,
        }
    }
}

fn words(output: &Output) -> String {
    match output {
        Output::Query { query, question } => match question {
            Question::Relays(source) => format!("ask {query} relays of {source}"),
            Question::V4(name) => format!("ask {query} A {name}"),
            Question::V6(name) => format!("ask {query} AAAA {name}"),
        },
        Output::Open { tunnel, remote } => format!("open {tunnel} {remote}"),
        Output::Close { tunnel } => format!("close {tunnel}"),
        Output::Transmit { tunnel, remote, bytes } => format!("send {tunnel} > {remote} {}", hex(bytes)),
        Output::Data { tunnel, packet } => format!("data {tunnel} {}", hex(packet)),
        Output::Default { group, filter } => format!("default {group} {}", filter_words(filter)),
        Output::Route { group, source, tunnel } => {
            let tunnel = tunnel.map_or_else(|| "-".to_owned(), |tunnel| tunnel.to_string());
            format!("route {group} {source} {tunnel}")
        }
        Output::Event(Event::Up { tunnel, relay }) => format!("up {tunnel} {relay}"),
        Output::Event(Event::Down { tunnel, relay, reason }) => format!("down {tunnel} {relay} {reason}"),
        Output::Event(Event::Turned { source, place: at }) => format!("turned {source} {}", place(*at)),
    }
}

fn place(place: Place) -> String {
    match place {
        Place::Nowhere => "nowhere".to_owned(),
        Place::Default(why) => format!("default {}", why.label()),
        Place::Tunnel(tunnel) => format!("tunnel {tunnel}"),
    }
}

fn state(state: CandidateState) -> String {
    match state {
        CandidateState::InUse => "in use".to_owned(),
        CandidateState::Trying => "tried".to_owned(),
        CandidateState::Ready => "ready".to_owned(),
        CandidateState::HeldDown(left) => format!("held down for {}", seconds(left)),
        CandidateState::Unreachable => "unreachable".to_owned(),
        CandidateState::Own => "own".to_owned(),
    }
}

/// A name off the wire.
fn name(text: &str) -> Name {
    let labels = text.split('.').flat_map(|label| [&[label.len() as u8][..], label.as_bytes()].concat());
    Name::parse(&labels.chain([0]).collect::<Vec<_>>(), 0).expect("a name")
}

/// The data of a record in words.
fn record(words: &[&str]) -> String {
    if let ["hex", bytes] = words {
        return (*bytes).to_owned();
    }
    let (precedence, optional, relay) = match words {
        [precedence, "D", relay] => (precedence, true, relay),
        [precedence, relay] => (precedence, false, relay),
        _ => panic!("no record: {words:?}"),
    };
    let relay = match relay.parse() {
        Ok(address) => Relay::Address(address),
        Err(_) if *relay == "none" => Relay::None,
        Err(_) => Relay::Name(name(relay)),
    };
    hex(&Record { precedence: parse(precedence), discovery_optional: optional, relay }.to_vec())
}

/// What the data of a record says.
fn said(data: &[u8]) -> String {
    match Record::parse(data) {
        Ok(Record { precedence, discovery_optional, relay }) => {
            let optional = if discovery_optional { " D" } else { "" };
            let relay = match relay {
                Relay::None => "none".to_owned(),
                Relay::Address(address) => address.to_string(),
                Relay::Name(name) => name.to_string(),
                Relay::Unknown(kind) => format!("unknown type {kind}"),
            };
            format!("{precedence}{optional} {relay}")
        }
        Err(error) => error.to_string(),
    }
}
