//! Many AMT gateways on few addresses, each joining one (S,G) by the three-way exchange.

use std::{
    fmt::Write as _,
    io,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use vmcast_lab::clock::Clock;
use vmcast_wire::{
    amt::{self, Message},
    igmp::{self, ALL_IGMPV3_ROUTERS, Record, RecordType},
    ipv4::{TOS_INTERNETWORK_CONTROL, encapsulate},
};

const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 60, 1, 0);
const FIRST_GROUP: Ipv4Addr = Ipv4Addr::new(232, 5, 0, 0);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const FIRST_PORT: u16 = 10_000;
/// Gateways that wait for an answer at a time: their messages fit into the router's socket.
const WINDOW: u16 = 100;
/// Joins per second: below the relay's limit of answers to Requests, which protects it from floods.
const RATE: f64 = 15_000.0;
/// How long an answer may take before the Request is repeated, and how often it is.
const ANSWER: Duration = Duration::from_millis(1_000);
const ATTEMPTS: u32 = 5;
const PROTO_IGMP: u8 = 2;

/// The gateways.
pub(super) struct Gateways {
    pub(super) relay: Ipv4Addr,
    pub(super) addresses: u16,
    /// Gateways on each address.
    pub(super) ports: u16,
}

/// Lines of `ip` that give the interface these addresses.
pub(super) fn addresses(count: u16) -> String {
    let mut lines = String::new();
    for number in 0..count {
        writeln!(lines, "addr add {}/16 dev eth0", address(number)).expect("writing to a string");
    }
    lines
}

/// Each address is in a network of its own, as for each there is a limit of answers.
fn address(number: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(FIRST_ADDRESS) + (u32::from(number) << 8))
}

fn nth(first: Ipv4Addr, number: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + u32::from(number))
}

impl Gateways {
    /// Makes every gateway join; the calling thread must be in their namespace. A gateway is forgotten
    /// once it has sent its Membership Update: to the relay it is there until its membership expires.
    pub(super) fn join_all(&self, mut joined: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let clock = Clock::start();
        let mut done = 0_u32;
        for number in 0..self.addresses {
            let address = address(number);
            let update = update(nth(FIRST_GROUP, number));
            for first in (0..self.ports).step_by(usize::from(WINDOW)) {
                let last = (first + WINDOW).min(self.ports);
                let gateways: Vec<Gateway> = (first..last)
                    .map(|port| Gateway::open(SocketAddrV4::new(address, FIRST_PORT + port), self.relay))
                    .collect::<Result<_>>()?;
                gateways.iter().try_for_each(Gateway::request)?;
                gateways.iter().try_for_each(|gateway| gateway.finish(&update))?;
                joined(u64::from(last - first))?;
                done += u32::from(last - first);
                thread::sleep(Duration::from_secs_f64(f64::from(done) / RATE).saturating_sub(clock.now()));
            }
        }
        Ok(())
    }
}

/// The datagram that joins (S,G): a report of a host behind the gateway.
fn update(group: Ipv4Addr) -> Vec<u8> {
    let record = Record { record_type: RecordType::ModeIsInclude, group, sources: vec![SOURCE] };
    let report = igmp::Message::ReportV3 { records: vec![record] }.emit();
    let (source, ttl) = (Ipv4Addr::UNSPECIFIED, 1);
    encapsulate(source, ALL_IGMPV3_ROUTERS, ttl, TOS_INTERNETWORK_CONTROL, PROTO_IGMP, true, &report)
}

/// One gateway between its Request and its Membership Update.
struct Gateway {
    socket: UdpSocket,
    local: SocketAddrV4,
    nonce: u32,
}

impl Gateway {
    fn open(local: SocketAddrV4, relay: Ipv4Addr) -> Result<Self> {
        let socket = UdpSocket::bind(local).with_context(|| format!("a gateway on {local}"))?;
        socket.connect((relay, amt::PORT))?;
        socket.set_read_timeout(Some(ANSWER))?;
        let nonce = u32::from(*local.ip()).rotate_left(16) ^ u32::from(local.port());
        Ok(Self { socket, local, nonce })
    }

    fn request(&self) -> Result<()> {
        self.socket.send(&Message::Request { ipv6: false, ecn: false, nonce: self.nonce }.to_vec())?;
        Ok(())
    }

    /// Answers the Membership Query with what is to be joined.
    fn finish(&self, update: &[u8]) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let mut buffer = [0; 1500];
            let length = match self.socket.recv(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.request()?;
                    continue;
                }
                Err(error) => return Err(error).with_context(|| format!("{}: no relay", self.local)),
            };
            let message = Message::parse(&buffer[..length])?;
            let Message::MembershipQuery { response_mac, nonce, limit, .. } = message else {
                bail!("{}: a {} instead of a Membership Query", self.local, message.message_type().name());
            };
            ensure!(nonce == self.nonce, "{}: a Membership Query for another Request", self.local);
            ensure!(!limit, "{}: the relay takes no more tunnels", self.local);
            self.socket.send(&Message::MembershipUpdate { response_mac, nonce, update }.to_vec())?;
            return Ok(());
        }
        bail!("{}: no answer to {ATTEMPTS} Requests", self.local);
    }
}
