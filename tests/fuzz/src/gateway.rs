use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use vmcast_common::hdr::ipv4::PROTO_IGMP;
use vmcast_proto::{
    Filter, Machine,
    amt::gateway::{Config, Gateway, Input, Output},
};
use vmcast_wire::{
    amt::{GatewayAddress, Message, ResponseMac},
    igmp, ipv4, ipv6, mld,
};

use crate::{
    script::{Script, pause, start},
    seal, seal_ipv4,
};

const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), vmcast_common::AMT_PORT);
/// Datagrams that one input or timer can cause: the records of eight groups, a Teardown, a Request.
const MAX_BURST: usize = 64;
const MTU: u16 = 128;
/// Outer IPv4 and UDP headers.
const OUTER: usize = 20 + 8;

/// The AMT gateway under a script: the first byte configures it, each step is a datagram of the
/// relay or of a stranger, whole, broken, or answering what was asked; what ICMP says of what was sent; a change of
/// what is wanted; or time.
pub fn gateway(data: &[u8]) {
    let Some((&settings, script)) = data.split_first() else { return };
    let mut script = Script::new(script);
    let mut bed = Bed::new(settings);
    while let Some((step, argument)) = script.step() {
        match step % 8 {
            0 | 1 => bed.now += pause(step % 8 == 1, argument),
            2 => bed.deliver(bed.sender(step), script.bytes(argument)),
            3 => bed.advertise(step, argument),
            4 => {
                let general = general_query(step, argument, script.bytes(argument & 8));
                bed.query(step, argument, &general);
            }
            5 => {
                let mut query = script.sized().to_vec();
                seal_ipv4(&mut query);
                bed.query(step, argument, &query);
            }
            6 => bed.data(step, argument, script.bytes(argument & 63)),
            _ => match argument {
                255 => bed.input(Input::Stop),
                250..255 => bed.input(Input::LocalChanged),
                240..250 => bed.unreachable(step, argument, script.bytes(argument & 7)),
                _ => bed.input(membership(argument, script.bytes(step >> 5))),
            },
        }
        bed.settle();
    }
}

struct Bed {
    gateway: Gateway,
    now: Instant,
    discover: bool,
    stopped: bool,
    /// Nonces of the Relay Discoveries and Requests that were sent.
    asked: BTreeSet<u32>,
    last_nonce: u32,
    /// The datagram that was sent last, and where to.
    last_sent: Option<(SocketAddr, Vec<u8>)>,
    /// Relays that an advertisement named in answer to a discovery.
    advertised: BTreeSet<SocketAddr>,
    /// What Membership Queries of a relay gave in answer to a Request.
    granted: BTreeSet<(SocketAddr, ResponseMac, u32)>,
}

impl Bed {
    fn new(settings: u8) -> Self {
        let config = Config {
            discover: settings & 1 != 0,
            keep_warm: settings & 2 == 0,
            tries: u32::from(settings >> 2 & 3),
            max_request_interval: (settings & 16 != 0).then_some(Duration::from_secs(1)),
            mtu: if settings & 32 == 0 { MTU } else { 1280 },
            ..Config::new(RELAY, [3; 16])
        };
        let (now, discover) = (start(), config.discover);
        let gateway = Gateway::new(now, config);
        let mut bed = Self {
            gateway,
            now,
            discover,
            stopped: false,
            asked: BTreeSet::new(),
            last_nonce: 0,
            last_sent: None,
            advertised: BTreeSet::new(),
            granted: BTreeSet::new(),
        };
        bed.settle();
        bed
    }

    /// The relay in use, where to ask for one, or a stranger.
    fn sender(&self, step: u8) -> SocketAddr {
        match step >> 5 {
            0..=3 => self.gateway.relay().unwrap_or(RELAY),
            4..=5 => RELAY,
            6 => (Ipv4Addr::new(192, 0, 2, 1), 4242).into(),
            _ => (Ipv4Addr::new(198, 51, 100, 1), RELAY.port()).into(),
        }
    }

    /// The nonce that was asked with, or nearly.
    const fn nonce(&self, step: u8) -> u32 {
        if step & 24 == 24 { self.last_nonce ^ 1 } else { self.last_nonce }
    }

    fn advertise(&mut self, step: u8, argument: u8) {
        let relay = match argument >> 4 {
            0 => Ipv4Addr::BROADCAST.into(),
            1 => Ipv4Addr::UNSPECIFIED.into(),
            2 => Ipv4Addr::new(239, 0, 0, 1).into(),
            3 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]),
            _ => Ipv4Addr::new(192, 0, 2, argument & 3).into(),
        };
        let message = Message::RelayAdvertisement { nonce: self.nonce(step), relay };
        self.deliver(self.sender(step), &message.to_vec());
    }

    fn query(&mut self, step: u8, argument: u8, query: &[u8]) {
        let us = |port: u8| SocketAddr::from((Ipv4Addr::new(203, 0, 113, 7), 1000 + u16::from(port)));
        let gateway: Option<GatewayAddress> = (argument & 3 != 0).then(|| us(argument & 3).into());
        let message = Message::MembershipQuery {
            response_mac: [argument; 6],
            nonce: self.nonce(step),
            limit: argument & 0xf0 == 0xf0,
            gateway,
            query,
        };
        self.deliver(self.sender(step), &message.to_vec());
    }

    fn data(&mut self, step: u8, argument: u8, payload: &[u8]) {
        let (source, group) = (source(argument >> 4), group(argument));
        let packet = ipv4::encapsulate(source, group, 9, 0, 17, false, payload);
        self.deliver(self.sender(step), &Message::MulticastData { packet: &packet }.to_vec());
    }

    fn deliver(&mut self, remote: SocketAddr, bytes: &[u8]) {
        let message = Message::parse(bytes);
        if let Ok(Message::RelayAdvertisement { nonce, relay }) = message
            && remote == RELAY
            && self.asked.contains(&nonce)
        {
            self.advertised.insert(SocketAddr::new(relay, RELAY.port()));
        }
        let from_relay = self.gateway.relay() == Some(remote);
        if let Ok(Message::MembershipQuery { response_mac, nonce, .. }) = message
            && from_relay
            && self.asked.contains(&nonce)
        {
            self.granted.insert((remote, response_mac, nonce));
        }
        self.gateway.handle_input(self.now, Input::Datagram { remote, tos: 0, bytes });
        if let Ok(Message::MulticastData { packet }) = message
            && from_relay
        {
            self.drain(Some(packet));
        } else {
            self.drain(None);
        }
    }

    /// ICMP says that what was sent last was not delivered, as far as it quotes it; or anything.
    fn unreachable(&mut self, step: u8, argument: u8, forged: &[u8]) {
        let (remote, sent) = self.last_sent.clone().unwrap_or_else(|| (RELAY, Vec::new()));
        let remote = if step & 32 == 0 { remote } else { self.sender(step) };
        let quoted = match argument {
            240..244 => &sent[..],
            244..248 => &sent[..sent.len().min(usize::from(argument - 244) * 5 + 3)],
            _ => forged,
        };
        self.input(Input::Unreachable { remote, quoted });
    }

    fn input(&mut self, input: Input<'_>) {
        self.stopped |= input == Input::Stop;
        self.gateway.handle_input(self.now, input);
        self.drain(None);
    }

    fn settle(&mut self) {
        self.gateway.handle_timeout(self.now);
        assert!(self.gateway.poll_timeout().is_none_or(|next| next > self.now));
        self.drain(None);
        if self.stopped {
            assert_eq!(self.gateway.memberships().count(), 0);
        }
    }

    /// Takes every output; `data` is the packet that the relay just sent, if it did.
    fn drain(&mut self, mut data: Option<&[u8]>) {
        let mut sent = 0;
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Transmit { remote, bytes } => {
                    sent += 1;
                    assert!(sent <= MAX_BURST);
                    self.on_transmit(remote, &bytes);
                }
                Output::Data { packet } => {
                    let data = data.take().expect("one packet for each that the relay sent");
                    assert!(data.starts_with(&packet) && !self.stopped);
                    let v4 = |at: usize| {
                        IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).expect("four bytes"))
                    };
                    let v6 = |at: usize| {
                        IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes"))
                    };
                    let is_v6 = packet[0] >> 4 == 6;
                    let (source, group) = if is_v6 { (v6(8), v6(24)) } else { (v4(12), v4(16)) };
                    let mut wanted = self.gateway.memberships();
                    assert!(wanted.any(|(known, filter)| known == group && filter.wants(source)));
                }
                Output::Event(_) => {}
            }
        }
    }

    fn on_transmit(&mut self, remote: SocketAddr, bytes: &[u8]) {
        let message = Message::parse(bytes).expect("what is sent can be read");
        self.last_sent = Some((remote, bytes.to_vec()));
        let known = if self.discover { self.advertised.contains(&remote) } else { remote == RELAY };
        let IpAddr::V4(to) = remote.ip() else { panic!("the relay is reached over IPv4") };
        assert!(!(to.is_multicast() || to.is_broadcast() || to.is_unspecified()), "{message:?} to {remote}");
        match message {
            Message::RelayDiscovery { nonce } => {
                assert!(self.discover && remote == RELAY && !self.stopped);
                self.ask(nonce);
            }
            Message::Request { nonce, .. } => {
                assert!(known && !self.stopped);
                self.ask(nonce);
            }
            Message::MembershipUpdate { response_mac, nonce, update } => {
                assert!(known && self.granted.contains(&(remote, response_mac, nonce)));
                if update[0] >> 4 == 6 {
                    let datagram = ipv6::decapsulate(update).expect("a sound datagram");
                    let (source, destination) = (datagram.source, datagram.destination);
                    let report = mld::Message::parse(source, destination, datagram.payload);
                    let to = match report.expect("a sound report") {
                        mld::Message::Done { .. } => mld::ALL_ROUTERS,
                        _ => mld::ALL_MLDV2_ROUTERS,
                    };
                    assert_eq!((datagram.destination, datagram.hop_limit), (to, 1));
                } else {
                    let datagram = ipv4::decapsulate(update).expect("a sound datagram");
                    let to = match igmp::Message::parse(datagram.payload).expect("a sound report") {
                        igmp::Message::LeaveGroup { .. } => igmp::ALL_ROUTERS,
                        _ => igmp::ALL_IGMPV3_ROUTERS,
                    };
                    assert_eq!((datagram.destination, datagram.ttl), (to, 1));
                }
                assert!(bytes.len() + OUTER <= 1280);
            }
            Message::Teardown { response_mac, nonce, .. } => {
                assert!(known && self.granted.contains(&(remote, response_mac, nonce)));
            }
            Message::RelayAdvertisement { .. }
            | Message::MembershipQuery { .. }
            | Message::MulticastData { .. } => panic!("{message:?} is not what a gateway sends"),
        }
    }

    fn ask(&mut self, nonce: u32) {
        self.asked.insert(nonce);
        self.last_nonce = nonce;
    }
}

fn group(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(239, 1, 2, number & 7)
}

fn source(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, number & 7)
}

fn membership(argument: u8, sources: &[u8]) -> Input<'static> {
    let listed = sources.iter().map(|number| source(*number).into()).collect();
    let filter = if argument & 8 == 0 { Filter::Include(listed) } else { Filter::Exclude(listed) };
    let ipv6 = IpAddr::from([0xff3e, 0, 0, 0, 0, 0, 0, 1]);
    let group = if argument & 0xf0 == 0xe0 { ipv6 } else { group(argument).into() };
    Input::SetMembership { group, filter }
}

/// A General Query in its datagram; `numbers` are robustness and interval, if there are any.
fn general_query(step: u8, argument: u8, numbers: &[u8]) -> Vec<u8> {
    let mut query = vec![0x11, 100, 0, 0, 0, 0, 0, 0, 2, 125, 0, 0];
    for (field, number) in query[8..10].iter_mut().zip(numbers) {
        *field = *number;
    }
    seal(&mut query, 2);
    let router_alert = step & argument & 4 == 0;
    ipv4::encapsulate(Ipv4Addr::UNSPECIFIED, igmp::ALL_SYSTEMS, 1, 0xc0, PROTO_IGMP, router_alert, &query)
}
