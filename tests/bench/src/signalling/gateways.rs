//! AMT gateways in great numbers, behind one router, on one packet socket: what they say costs little to make.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
    ops::Range,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::net::if_::if_nametoindex;
use vmcast_lab::{Namespace, clock::Clock, signals};
use vmcast_wire::{
    amt::{self, GatewayAddress, Message, ResponseMac},
    igmp::{self, ALL_IGMPV3_ROUTERS, Record, RecordType},
    ipv4::{TOS_INTERNETWORK_CONTROL, encapsulate},
};

use super::frame::{self, Cable};
use crate::wire::FrameSocket;

/// The gateways' addresses, which are routed to the members' namespace.
pub(super) const NETWORK: &str = "10.64.0.0/10";
const FIRST_ADDRESS: u32 = u32::from_be_bytes([10, 64, 0, 1]);
const FIRST_PORT: u16 = 10_000;
/// Gateways that wait for an answer at a time, and messages without an answer that are sent in a row: they fit into
/// the router's socket and into the ring of the cable.
const WINDOW: usize = 100;
/// How long an answer may take before who waits asks again, and how often it does.
const ANSWER: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 10;
/// The number of the gateway that asks so as to know that all before it was taken in.
const LAST: u32 = 3_000_000;
const PROTO_IGMP: u8 = 2;

/// The datagram with which a host behind a gateway tells of a source of a group.
pub(super) fn report(record_type: RecordType, group: Ipv4Addr, source: Ipv4Addr) -> Vec<u8> {
    let records = vec![Record { record_type, group, sources: vec![source] }];
    let message = igmp::Message::ReportV3 { records }.emit();
    let (host, ttl) = (Ipv4Addr::UNSPECIFIED, 1);
    encapsulate(host, ALL_IGMPV3_ROUTERS, ttl, TOS_INTERNETWORK_CONTROL, PROTO_IGMP, true, &message)
}

/// All gateways.
pub(super) struct Gateways {
    socket: FrameSocket,
    cable: Cable,
    relay: SocketAddrV4,
    /// How many have one address.
    pub(super) of_address: u32,
    /// What the relay gave each.
    macs: Vec<ResponseMac>,
    asked: u32,
    clock: Clock,
}

impl Gateways {
    /// So many gateways in a namespace, at its interface `eth0`.
    pub(super) fn new(
        node: &Namespace,
        cable: Cable,
        relay: Ipv4Addr,
        count: u32,
        clock: Clock,
    ) -> Result<Self> {
        let socket = node.enter(|| FrameSocket::listening(if_nametoindex("eth0")?, ANSWER))??;
        let relay = SocketAddrV4::new(relay, amt::PORT);
        Ok(Self { socket, cable, relay, of_address: 1, macs: vec![[0; 6]; count as usize], asked: 0, clock })
    }

    /// Where a gateway is.
    pub(super) fn address(&self, number: u32) -> SocketAddrV4 {
        let address = Ipv4Addr::from(FIRST_ADDRESS + number / self.of_address);
        let port = FIRST_PORT + u16::try_from(number % self.of_address).expect("fewer gateways than ports");
        SocketAddrV4::new(address, port)
    }

    fn number(&self, address: SocketAddrV4) -> Option<u32> {
        let of_network = u32::from(*address.ip()).checked_sub(FIRST_ADDRESS)?;
        let port = u32::from(address.port().checked_sub(FIRST_PORT)?);
        (port < self.of_address).then(|| of_network * self.of_address + port)
    }

    fn send(&self, number: u32, message: &Message<'_>) -> Result<()> {
        self.socket.send(&self.cable.udp(self.address(number), self.relay, &message.to_vec()))
    }

    fn request(&self, number: u32, nonce: u32) -> Result<()> {
        self.send(number, &Message::Request { ipv6: false, ecn: false, nonce })
    }

    /// Sends a Membership Update.
    pub(super) fn update(&self, number: u32, update: &[u8]) -> Result<()> {
        let response_mac = *self.macs.get(number as usize).context("a gateway beyond the last")?;
        self.send(number, &Message::MembershipUpdate { response_mac, nonce: number, update })
    }

    /// The next Membership Query: for whom, and what is in it; `None` if none came in time.
    fn query(&self) -> Result<Option<(u32, u32, ResponseMac)>> {
        let mut buffer = [0; 1500];
        // Data may come all the time.
        let deadline = self.clock.now() + ANSWER;
        while self.clock.now() < deadline {
            let Some(frame) = self.socket.receive(&mut buffer)? else { return Ok(None) };
            let Some((to, payload)) = frame::udp(frame) else { continue };
            let (Some(number), Ok(message)) = (self.number(to), Message::parse(payload)) else { continue };
            if let Message::MembershipQuery { response_mac, nonce, limit, .. } = message {
                ensure!(!limit, "the relay takes no more tunnels");
                return Ok(Some((number, nonce, response_mac)));
            }
        }
        Ok(None)
    }

    /// Lets one gateway join, and waits until that is taken in; it asks by itself, and again if it gets no answer.
    pub(super) fn join(&self, number: u32, update: &[u8]) -> Result<()> {
        let response_mac = self.ask(number, number)?;
        self.send(number, &Message::MembershipUpdate { response_mac, nonce: number, update })?;
        self.ask(number, u32::MAX - number).map(drop)
    }

    fn ask(&self, number: u32, nonce: u32) -> Result<ResponseMac> {
        for _ in 0..ATTEMPTS {
            self.request(number, nonce)?;
            while let Some((answered, of, mac)) = self.query()? {
                if (answered, of) == (number, nonce) {
                    return Ok(mac);
                }
            }
            signals::check()?;
        }
        bail!("gateway {number} gets no answer")
    }

    /// Lets gateways ask for a Membership Query, and each go on with a Membership Update as soon as it has one.
    pub(super) fn handshake(
        &mut self,
        numbers: Range<u32>,
        update: impl Fn(u32) -> Option<Vec<u8>>,
    ) -> Result<()> {
        let mut next = numbers.start;
        let mut waiting = BTreeSet::new();
        let mut attempts = 0;
        while next < numbers.end || !waiting.is_empty() {
            while waiting.len() < WINDOW && next < numbers.end {
                self.request(next, next)?;
                waiting.insert(next);
                next += 1;
            }
            match self.query()? {
                Some((number, nonce, mac)) if nonce == number && waiting.remove(&number) => {
                    *self.macs.get_mut(number as usize).context("a gateway beyond the last")? = mac;
                    if let Some(update) = update(number) {
                        self.update(number, &update)?;
                    }
                    attempts = 0;
                }
                Some(_) => {}
                None => {
                    signals::check()?;
                    attempts += 1;
                    ensure!(attempts <= ATTEMPTS, "{} gateways get no answer", waiting.len());
                    waiting.iter().try_for_each(|number| self.request(*number, *number))?;
                }
            }
        }
        self.wait_taken_in()
    }

    /// Lets gateways that have a tunnel send a Membership Update each.
    pub(super) fn updates(&mut self, numbers: Range<u32>, update: impl Fn(u32) -> Vec<u8>) -> Result<()> {
        self.each(numbers, |gateways, number| gateways.update(number, &update(number)))
    }

    /// Lets gateways end their tunnels.
    pub(super) fn teardown(&mut self, numbers: Range<u32>) -> Result<()> {
        self.each(numbers, |gateways, number| {
            let response_mac = *gateways.macs.get(number as usize).context("a gateway beyond the last")?;
            let gateway = GatewayAddress::from(std::net::SocketAddr::from(gateways.address(number)));
            gateways.send(number, &Message::Teardown { response_mac, nonce: number, gateway })
        })
    }

    fn each(&mut self, numbers: Range<u32>, send: impl Fn(&Self, u32) -> Result<()>) -> Result<()> {
        for first in numbers.clone().step_by(WINDOW) {
            let last = (first + WINDOW as u32).min(numbers.end);
            (first..last).try_for_each(|number| send(self, number))?;
            self.wait_taken_in()?;
        }
        Ok(())
    }

    /// Waits until the router has done what all messages so far ask for: it takes them in and does what comes of them
    /// one after the other, and this is the answer to one that comes last.
    pub(super) fn wait_taken_in(&mut self) -> Result<()> {
        self.asked += 1;
        let nonce = self.asked;
        for _ in 0..ATTEMPTS {
            self.request(LAST, nonce)?;
            while let Some((number, answered, _)) = self.query()? {
                if (number, answered) == (LAST, nonce) {
                    return Ok(());
                }
            }
            signals::check()?;
        }
        bail!("the router does not answer any more")
    }
}
