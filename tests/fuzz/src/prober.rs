use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Machine,
    nearest::{Config, Findings, Input, Output, Prober},
};
use vmcast_wire::amt::Message;

use crate::script::{Script, pause, start};

const PORT: u16 = vmcast_common::AMT_PORT;

/// The search for the nearest relay under a script: the first bytes configure it, each step is a
/// datagram of a relay or of a stranger, whole, broken, or answering what was asked; or time.
pub fn prober(data: &[u8]) {
    let mut script = Script::new(data);
    let Some((settings, relays)) = script.step() else { return };
    let mut bed = Bed::new(settings, relays % 12);
    while let Some((step, argument)) = script.step() {
        match step % 8 {
            0 | 1 => bed.now += pause(step % 8 == 1, argument) / 4,
            2 => bed.deliver(relay(step >> 4), argument, script.sized()),
            3 => bed.deliver((Ipv4Addr::new(203, 0, 113, 1), PORT).into(), argument, script.sized()),
            _ => bed.answer(step, argument),
        }
        bed.settle();
    }
    while let Some(next) = bed.prober.poll_timeout() {
        bed.now = next;
        bed.settle();
    }
    assert!(bed.findings.is_some(), "the search ends");
}

struct Bed {
    prober: Prober,
    now: Instant,
    config: Config,
    relays: BTreeSet<SocketAddr>,
    /// When each relay was asked, by nonce.
    asked: BTreeMap<SocketAddr, Vec<(u32, Instant)>>,
    /// The first answer of each relay to a question it was asked.
    answered: BTreeMap<SocketAddr, (u8, Duration)>,
    findings: Option<Findings>,
}

impl Bed {
    fn new(settings: u8, relays: u8) -> Self {
        let config = Config {
            in_flight: usize::from(settings & 3),
            pace: Duration::from_millis(u64::from(settings >> 2 & 3)),
            response_timeout: Duration::from_millis(100),
            attempts: u32::from(settings >> 4 & 3),
        };
        let now = start();
        // Some are named twice, in either form.
        let named = || (0..relays).flat_map(|number| [relay(number), mapped(relay(number & 3))]);
        let prober = Prober::new(config.clone(), 7, now, named());
        let relays = named().map(canonical).collect();
        let (asked, answered) = (BTreeMap::new(), BTreeMap::new());
        let mut bed = Self { prober, now, config, relays, asked, answered, findings: None };
        bed.settle();
        bed
    }

    /// An answer to the first or last question that a relay was asked, from it or from another.
    fn answer(&mut self, step: u8, ttl: u8) {
        let from = relay(step >> 4);
        let whom = if step & 12 == 12 { relay(step >> 5) } else { from };
        let Some(asked) = self.asked.get(&whom) else { return };
        let question = if ttl & 1 == 0 { asked.first() } else { asked.last() };
        let Some(&(nonce, _)) = question else { return };
        let bytes = Message::RelayAdvertisement { nonce, relay: whom.ip() }.to_vec();
        self.deliver(if step & 8 == 0 { from } else { mapped(from) }, ttl, &bytes);
    }

    fn deliver(&mut self, from: SocketAddr, ttl: u8, bytes: &[u8]) {
        if let Ok(Message::RelayAdvertisement { nonce, .. }) = Message::parse(bytes) {
            let asked = self.asked.get(&canonical(from)).into_iter().flatten();
            let asked = asked.filter(|(known, _)| *known == nonce).map(|(_, at)| *at).next();
            if let Some(at) = asked.filter(|_| self.findings.is_none()) {
                let hops = vmcast_proto::nearest::hops(ttl);
                self.answered.entry(canonical(from)).or_insert((hops, self.now.duration_since(at)));
            }
        }
        self.prober.handle_input(self.now, Input::Received { from, ttl, bytes });
    }

    fn settle(&mut self) {
        self.prober.handle_timeout(self.now);
        while let Some(output) = self.prober.poll_output() {
            assert!(self.findings.is_none(), "the findings are the last output");
            match output {
                Output::Transmit { to, bytes } => {
                    let Ok(Message::RelayDiscovery { nonce }) = Message::parse(&bytes) else {
                        panic!("only questions are sent");
                    };
                    assert!(self.relays.contains(&to), "only relays are asked");
                    let asked = self.asked.entry(to).or_default();
                    asked.push((nonce, self.now));
                    assert!(asked.len() <= self.config.attempts.max(1) as usize);
                }
                Output::Done(findings) => self.on_done(findings),
            }
        }
        assert_eq!(self.prober.poll_timeout().is_none(), self.findings.is_some());
        assert!(self.prober.poll_timeout().is_none_or(|next| next > self.now));
    }

    fn on_done(&mut self, findings: Findings) {
        let measured: BTreeMap<_, _> =
            findings.measured.iter().map(|each| (each.endpoint, (each.hops, each.rtt))).collect();
        assert_eq!(measured, self.answered, "who answered what it was asked, and nobody else");
        let all: BTreeSet<_> = measured.into_keys().chain(findings.unanswered.iter().copied()).collect();
        assert_eq!(all, self.relays);
        assert_eq!(findings.measured.len() + findings.unanswered.len(), all.len());
        assert!(findings.measured.is_sorted_by_key(|each| (each.hops, each.rtt)));
        self.findings = Some(findings);
    }
}

fn relay(number: u8) -> SocketAddr {
    let ip = match number % 4 {
        3 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(number)]),
        _ => Ipv4Addr::new(192, 0, 2, number).into(),
    };
    SocketAddr::new(ip, PORT)
}

/// The same endpoint as a socket for both families shows it.
fn mapped(endpoint: SocketAddr) -> SocketAddr {
    match endpoint.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), endpoint.port()),
        IpAddr::V6(_) => endpoint,
    }
}

fn canonical(endpoint: SocketAddr) -> SocketAddr {
    SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port())
}
