//! AMT gateways in great numbers, behind one router, on one packet socket: what they say costs little to make.

use std::{collections::BTreeSet, net::SocketAddr, ops::Range, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use nix::net::if_::if_nametoindex;
use vmcast_lab::{Namespace, clock::Clock, signals};
use vmcast_wire::amt::{GatewayAddress, Message, ResponseMac};

use super::{
    family::Family,
    frame::{self, Cable},
};
use crate::wire::{Burst, FrameSocket};

const FIRST_PORT: u16 = 10_000;
/// Gateways that wait for an answer at a time, and messages without an answer that are sent in a row: they fit into
/// the router's socket and into the ring of the cable.
const WINDOW: usize = 100;
/// How long an answer may take before who waits asks again, and how often it does.
const ANSWER: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 10;
/// The number of the gateway that asks so as to know that all before it was taken in.
const LAST: u32 = 3_000_000;

/// All gateways.
pub(super) struct Gateways {
    socket: FrameSocket,
    cable: Cable,
    /// Who they talk to.
    pub(super) relay: SocketAddr,
    family: Family,
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
        (family, relay): (Family, SocketAddr),
        count: u32,
        clock: Clock,
    ) -> Result<Self> {
        let socket =
            node.enter(|| FrameSocket::listening(if_nametoindex("eth0")?, family.ether_type(), ANSWER))??;
        let macs = vec![[0; 6]; count as usize];
        Ok(Self { socket, cable, relay, family, of_address: 1, macs, asked: 0, clock })
    }

    /// Where a gateway is.
    pub(super) fn address(&self, number: u32) -> SocketAddr {
        let address = self.family.gateway(number / self.of_address);
        let port = FIRST_PORT + u16::try_from(number % self.of_address).expect("fewer gateways than ports");
        SocketAddr::new(address, port)
    }

    fn number(&self, address: SocketAddr) -> Option<u32> {
        let of_network = self.family.number(address.ip())?;
        let port = u32::from(address.port().checked_sub(FIRST_PORT)?);
        (port < self.of_address).then(|| of_network * self.of_address + port)
    }

    fn frame(&self, number: u32, message: &Message<'_>) -> Vec<u8> {
        self.cable.udp(self.address(number), self.relay, &message.to_vec())
    }

    fn send(&self, number: u32, message: &Message<'_>) -> Result<()> {
        self.socket.send(&self.frame(number, message))
    }

    fn request(&self, number: u32, nonce: u32) -> Vec<u8> {
        self.frame(number, &Message::Request { ipv6: self.family == Family::V6, ecn: false, nonce })
    }

    fn update_of(&self, number: u32, update: &[u8]) -> Result<Vec<u8>> {
        let response_mac = *self.macs.get(number as usize).context("a gateway beyond the last")?;
        Ok(self.frame(number, &Message::MembershipUpdate { response_mac, nonce: number, update }))
    }

    /// Sends a Membership Update.
    pub(super) fn update(&self, number: u32, update: &[u8]) -> Result<()> {
        self.socket.send(&self.update_of(number, update)?)
    }

    /// For whom a frame has a Membership Query, and what is in it; `None` if it has none.
    fn query_in(&self, frame: &[u8]) -> Result<Option<(u32, u32, ResponseMac)>> {
        let Some((to, payload)) = frame::udp(frame) else { return Ok(None) };
        let (Some(number), Ok(message)) = (self.number(to), Message::parse(payload)) else { return Ok(None) };
        let Message::MembershipQuery { response_mac, nonce, limit, .. } = message else { return Ok(None) };
        ensure!(!limit, "the relay takes no more tunnels");
        Ok(Some((number, nonce, response_mac)))
    }

    /// The next Membership Query: for whom, and what is in it; `None` if none came in time.
    fn query(&self) -> Result<Option<(u32, u32, ResponseMac)>> {
        let mut buffer = [0; 1500];
        // Data may come all the time.
        let deadline = self.clock.now() + ANSWER;
        while self.clock.now() < deadline {
            let Some(frame) = self.socket.receive(&mut buffer)? else { return Ok(None) };
            if let Some(query) = self.query_in(frame)? {
                return Ok(Some(query));
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
            self.socket.send(&self.request(number, nonce))?;
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
        let (mut waiting, mut frames, mut burst) = (BTreeSet::new(), Vec::new(), Burst::new());
        let mut attempts = 0;
        while next < numbers.end || !waiting.is_empty() {
            while waiting.len() < WINDOW && next < numbers.end {
                frames.push(self.request(next, next));
                waiting.insert(next);
                next += 1;
            }
            self.socket.send_all(&frames)?;
            frames.clear();
            self.socket.receive_all(&mut burst)?;
            let mut answered = false;
            for frame in burst.frames() {
                if let Some((number, nonce, mac)) = self.query_in(frame)?
                    && nonce == number
                    && waiting.remove(&number)
                {
                    answered = true;
                    *self.macs.get_mut(number as usize).context("a gateway beyond the last")? = mac;
                    if let Some(update) = update(number) {
                        frames.push(self.update_of(number, &update)?);
                    }
                }
            }
            if answered {
                attempts = 0;
            } else if burst.frames().next().is_none() {
                signals::check()?;
                attempts += 1;
                ensure!(attempts <= ATTEMPTS, "{} gateways get no answer", waiting.len());
                frames.extend(waiting.iter().map(|number| self.request(*number, *number)));
            }
        }
        self.socket.send_all(&frames)?;
        self.wait_taken_in()
    }

    /// Lets gateways that have a tunnel send a Membership Update each.
    pub(super) fn updates(&mut self, numbers: Range<u32>, update: impl Fn(u32) -> Vec<u8>) -> Result<()> {
        self.each(numbers, |gateways, number| gateways.update_of(number, &update(number)))
    }

    /// Lets gateways end their tunnels.
    pub(super) fn teardown(&mut self, numbers: Range<u32>) -> Result<()> {
        self.each(numbers, |gateways, number| {
            let response_mac = *gateways.macs.get(number as usize).context("a gateway beyond the last")?;
            let gateway = GatewayAddress::from(gateways.address(number));
            Ok(gateways.frame(number, &Message::Teardown { response_mac, nonce: number, gateway }))
        })
    }

    fn each(&mut self, numbers: Range<u32>, frame: impl Fn(&Self, u32) -> Result<Vec<u8>>) -> Result<()> {
        for first in numbers.clone().step_by(WINDOW) {
            let last = (first + WINDOW as u32).min(numbers.end);
            let frames: Vec<_> = (first..last).map(|number| frame(self, number)).collect::<Result<_>>()?;
            self.socket.send_all(&frames)?;
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
            self.socket.send(&self.request(LAST, nonce))?;
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
