//! The relay's machine by itself: no sockets, no tables of the kernel.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::time::{ClockId, clock_gettime};
use vmcast_lab::signals;
use vmcast_proto::{
    Machine as _,
    amt::relay::{self, Input, Output, Relay},
};
use vmcast_wire::{
    amt::{self, Message, ResponseMac},
    igmp::RecordType,
};

use super::{
    Effort, Figures,
    family::{Family, report},
};

const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), amt::PORT);

/// The thread's own time.
fn core_time() -> Result<Duration> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?))
}

fn gateway(number: u32) -> SocketAddr {
    SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 10_000))
}

/// Takes what comes of a message, as a router would; the last Response MAC in it.
fn drain(relay: &mut Relay) -> Option<ResponseMac> {
    let mut mac = None;
    while let Some(output) = relay.poll_output() {
        if let Output::Transmit { bytes, .. } = output
            && let Ok(Message::MembershipQuery { response_mac, .. }) = Message::parse(&bytes)
        {
            mac = Some(response_mac);
        }
    }
    mac
}

/// Joins by the whole exchange, joins through tunnels that are there, and leaves.
pub(super) fn measure(effort: Effort) -> Result<[Figures; 3]> {
    let mut figures = [const { Figures::NONE }; 3];
    for _ in 0..effort.rounds {
        signals::check()?;
        for (all, one) in figures.iter_mut().zip(round(effort.gateways)?) {
            all.add(effort.gateways, one, one);
        }
    }
    Ok(figures)
}

fn round(gateways: u32) -> Result<[Duration; 3]> {
    let now = vmcast_sim::epoch();
    let unlimited = relay::Config {
        answers_per_second: u32::MAX,
        answers_per_prefix_per_second: u32::MAX,
        max_tunnels_per_prefix: u32::MAX,
        ..relay::Config::new([7; 16])
    };
    let mut relay = Relay::new(now, unlimited);
    let joins: Vec<_> = (0..super::GROUPS)
        .map(|number| report(RecordType::AllowNewSources, Family::V4.group(number), Family::V4.source()))
        .collect();
    let other = super::GROUPS;
    let [join, leave] = [RecordType::AllowNewSources, RecordType::BlockOldSources]
        .map(|record_type| report(record_type, Family::V4.group(other), Family::V4.source()));

    let mut macs = Vec::with_capacity(gateways as usize);
    let start = core_time()?;
    for number in 0..gateways {
        let remote = gateway(number);
        give(&mut relay, now, remote, &Message::Request { ipv6: false, ecn: false, nonce: number });
        let Some(response_mac) = drain(&mut relay) else { bail!("a Request without an answer") };
        let update = joins.get((number % super::GROUPS) as usize).context("a group of its own")?;
        give(&mut relay, now, remote, &Message::MembershipUpdate { response_mac, nonce: number, update });
        drain(&mut relay);
        macs.push(response_mac);
    }
    let joined = core_time()?;
    let mut all = |update: &[u8]| {
        for (&response_mac, number) in macs.iter().zip(0..) {
            let message = Message::MembershipUpdate { response_mac, nonce: number, update };
            give(&mut relay, now, gateway(number), &message);
            drain(&mut relay);
        }
        core_time()
    };
    let more = all(&join)?;
    let left = all(&leave)?;
    Ok([joined - start, more - joined, left - more])
}

fn give(relay: &mut Relay, now: Instant, remote: SocketAddr, message: &Message<'_>) {
    relay.handle_input(now, Input::Datagram { local: RELAY, remote, bytes: &message.to_vec() });
}
