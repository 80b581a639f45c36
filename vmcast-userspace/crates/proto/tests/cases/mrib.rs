//! Cases of the routing base: what members want becomes streams, members of them, and what is asked for upstream.
//!
//! An interface is `iN`, a tunnel `tN`. Inputs: `interface iN ADDRESS/BITS... [sources]`, `above iN`, `upstream tN`
//! (`-` for none), `member iN GROUP FILTER`, `left iN`, `source iN SOURCE GROUP`, `active SOURCE GROUP PACKETS`.

use std::{net::IpAddr, time::Instant};

use vmcast_common::fib::{self, FibOp, IfIndex, Members, Rpf, Stream, TunnelId};
use vmcast_proto::{
    Machine as _,
    mrib::{Account, Config as MribConfig, Event, Input, Mrib, Output},
    record::filter as filter_words,
};

use super::{
    case::Config,
    words::{filter, parse, take, take_duration},
};

pub(crate) struct Subject {
    mrib: Mrib,
}

impl Subject {
    pub(crate) fn new(config: &mut Config) -> Self {
        let mut of = MribConfig::default();
        of.streams = take(config, "streams").unwrap_or(of.streams);
        of.keepalive_period = take_duration(config, "keepalive_period").unwrap_or(of.keepalive_period);
        Self { mrib: Mrib::new(of) }
    }
}

fn interface(word: &str) -> IfIndex {
    IfIndex(parse(word.strip_prefix('i').expect("an interface")))
}

fn tunnel(word: &str) -> TunnelId {
    TunnelId(parse(word.strip_prefix('t').expect("a tunnel")))
}

/// `None` for `-`.
fn optional<T>(word: &str, read: impl Fn(&str) -> T) -> Option<T> {
    (word != "-").then(|| read(word))
}

fn member(word: &str) -> fib::Output {
    if word.starts_with('i') {
        fib::Output::Interface(interface(word))
    } else {
        fib::Output::Tunnel(tunnel(word))
    }
}

fn account(member: fib::Output) -> Option<Account> {
    match member {
        fib::Output::Interface(ifindex) => Some(Account::Interface(ifindex)),
        fib::Output::Neighbour(_) | fib::Output::Tunnel(_) | fib::Output::Converted(_) => None,
    }
}

fn network(word: &str) -> (IpAddr, u8) {
    let (address, bits) = word.split_once('/').expect("an address and the length of its prefix");
    (parse(address), parse(bits))
}

fn stream(source: &str, group: &str) -> Stream {
    Stream { source: Some(parse(source)), group: parse(group) }
}

impl super::Subject for Subject {
    fn input(&mut self, now: Instant, words: &[&str]) {
        let input = match words {
            ["interface", ifindex, rest @ ..] => {
                let (networks, accepts_sources) = match rest {
                    [networks @ .., "sources"] => (networks, true),
                    networks => (networks, false),
                };
                let on_link = networks.iter().map(|word| network(word)).collect();
                Input::SetInterface { ifindex: interface(ifindex), on_link, accepts_sources }
            }
            ["above", ifindex] => Input::SetUpstreamInterface(optional(ifindex, interface)),
            ["upstream", id] => Input::SetUpstream(optional(id, tunnel)),
            ["member", of, group, wanted] => {
                let (member, filter) = (member(of), filter(wanted));
                let account = account(member).filter(|_| !filter.is_none());
                Input::Membership { member, group: parse(group), filter, account }
            }
            ["left", of] => Input::MemberGone { member: member(of) },
            ["source", ifindex, source, group] => {
                let input = fib::Input::Interface(interface(ifindex));
                Input::NewSource { stream: stream(source, group), input }
            }
            ["active", source, group, packets] => {
                Input::StreamActive { stream: stream(source, group), packets: parse(packets) }
            }
            _ => panic!("no input: {words:?}"),
        };
        self.mrib.handle_input(now, input);
    }

    fn timeout(&mut self, now: Instant) {
        self.mrib.handle_timeout(now);
    }

    fn next(&self) -> Option<Instant> {
        self.mrib.poll_timeout()
    }

    fn outputs(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.mrib.poll_output()).map(|output| said(&output)).collect()
    }

    fn show(&self, _now: Instant) -> Vec<String> {
        let mut lines = Vec::new();
        for of in self.mrib.groups() {
            lines.push(format!("group {} interest {}", of.group, filter_words(of.interest)));
            for of in self.mrib.streams(of.group) {
                let to: Vec<_> = self.mrib.receivers(of.stream).map(end).collect();
                let to = if to.is_empty() { "nobody".to_owned() } else { to.join(" ") };
                lines.push(format!("{} from {} to {to}", of.stream, from(of.rpf)));
            }
        }
        lines
    }

    fn expand(&self, _words: &[&str]) -> Option<String> {
        None
    }

    fn describe(&self, line: &str) -> Option<String> {
        let what = match line.split_whitespace().next()? {
            "interest" => "as a host, upstream",
            _ => return None,
        };
        Some(what.to_owned())
    }
}

fn end(output: fib::Output) -> String {
    match output {
        fib::Output::Interface(ifindex) => format!("i{}", ifindex.0),
        fib::Output::Tunnel(id) => format!("t{}", id.0),
        fib::Output::Neighbour(id) => format!("n{}", id.0),
        fib::Output::Converted(id) => format!("c{}", id.0),
    }
}

fn beginning(input: fib::Input) -> String {
    match input {
        fib::Input::Interface(ifindex) => format!("i{}", ifindex.0),
        fib::Input::Tunnel(id) => format!("t{}", id.0),
    }
}

fn from(rpf: Rpf) -> String {
    match rpf {
        Rpf::Exact(input) => beginning(input),
        Rpf::AnyUpstream => "any".to_owned(),
    }
}

fn said(output: &Output) -> String {
    match output {
        Output::Fib(FibOp::SetStream(stream, rpf, members)) => {
            let members = match members {
                Members::Own => "own",
                Members::OfAnySource => "any-source",
            };
            format!("stream {stream} from {} members {members}", from(*rpf))
        }
        Output::Fib(FibOp::RemoveStream(stream)) => format!("no-stream {stream}"),
        Output::Fib(FibOp::AddMember(stream, member)) => format!("to {} of {stream}", end(*member)),
        Output::Fib(FibOp::RemoveMember(stream, member)) => format!("not-to {} of {stream}", end(*member)),
        Output::Fib(other) => panic!("{other:?} is not the routing base's to give"),
        Output::Interest { group, filter } => format!("interest {group} {}", filter_words(filter)),
        Output::Event(Event::MembershipChanged { group, member, old, new }) => {
            format!("changed {} {group} {} {}", end(*member), filter_words(old), filter_words(new))
        }
        Output::Event(Event::SourceLearnt { stream, input }) => {
            format!("learnt {stream} from {}", beginning(*input))
        }
        Output::Event(Event::SourceSilent { stream }) => format!("silent {stream}"),
        Output::Event(Event::AnySourceClosed { group }) => format!("closed {group}"),
        Output::Event(Event::NoRoom { group, member, .. }) => format!("no-room {} {group}", end(*member)),
    }
}
