//! Floods: a million messages a second come in, beside a stream and somebody who joins.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{net::if_::if_nametoindex, sched::sched_getcpu};
use serde_json::Value;
use vmcast_lab::{Namespace, clock::Clock};
use vmcast_wire::{
    amt::{self, Message},
    igmp::RecordType,
};

use super::{
    RELAY, ROUTERS_CORE,
    family::{Family, report_of},
    frame::{self, Cable},
    live::{Live, Varying},
};
use crate::{join::NUMBER_LEN, machine::pin_to_core, wire::FrameSocket};

/// How often a message comes in a row, each time from another sender and with another content. What comes together takes
/// some 20 ms before it begins.
const IN_A_ROW: u32 = 262_144;
/// How long nothing comes before the stream is taken to have ended.
const QUIET: Duration = Duration::from_millis(200);
/// AMT's header, the IPv4 header and that of UDP before what a copy of the stream carries.
const INNER_LEN: usize = 2 + 20 + 8;

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reports(Family),
    Tunnels,
}

impl Kind {
    /// The family of the host on the link.
    pub(super) const fn family(self) -> Family {
        match self {
            Self::Reports(family) => family,
            Self::Tunnels => Family::V4,
        }
    }

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Reports(Family::V4) => "IGMPv3 reports of forged hosts on a link",
            Self::Reports(Family::V6) => "MLDv2 reports of forged hosts on a link",
            Self::Tunnels => "AMT Requests, Discoveries and forged Updates",
        }
    }

    /// Where it comes in.
    pub(super) const fn interface(self) -> &'static str {
        match self {
            Self::Reports(_) => "lan0",
            Self::Tunnels => "acc0",
        }
    }

    /// The last byte of its link-layer address.
    pub(super) const fn near(self) -> u8 {
        match self {
            Self::Reports(_) => 3,
            Self::Tunnels => 1,
        }
    }

    /// The counters of what was read and of what was refused or dropped.
    const fn counters(self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Reports(family) => {
                let table = match family {
                    Family::V4 => "igmp",
                    Family::V6 => "mld",
                };
                (table, &["reports_received"], &["overrun", "thinned", "strangers_over_share", "bad_source"])
            }
            Self::Tunnels => (
                "relay",
                &["requests", "discoveries"],
                &[
                    "overrun",
                    "source_over_share",
                    "strangers_over_share",
                    "bad_mac",
                    "rate_limited",
                    "rate_limited_per_prefix",
                ],
            ),
        }
    }

    /// What is to differ: in a report the group, with what is reserved before the records, in messages of AMT the nonce, or
    /// the Response MAC. For the sender's address the identification of an IPv4 packet makes up; of IPv6, another part of
    /// the address.
    const fn varying(self) -> Varying {
        match self {
            Self::Reports(Family::V4) => Varying { sender: [28, 18], message: [52, 42] },
            Self::Reports(Family::V6) => Varying { sender: [36, 34], message: [88, 66] },
            Self::Tunnels => Varying { sender: [28, 18], message: [48, 46] },
        }
    }

    /// The frames, as they come to this end of a cable.
    fn frames(self, near: [u8; 6]) -> Vec<Vec<u8>> {
        let sender = Cable { near: [2, 7, 7, 7, 0, 0], far: near };
        let address = Ipv4Addr::new(11, 0, 0, 0);
        match self {
            Self::Reports(family) => {
                let (host, group): (IpAddr, IpAddr) = match family {
                    Family::V4 => (address.into(), Ipv4Addr::new(239, 200, 0, 0).into()),
                    Family::V6 => (
                        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0).into(),
                        Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0x200, 0).into(),
                    ),
                };
                let packet = report_of(host, RecordType::ChangeToExcludeMode, group, &[]);
                vec![sender.frame(family.routers_mac(), family, &packet)]
            }
            Self::Tunnels => {
                let (from, to) = (SocketAddr::from((address, 10_000)), SocketAddr::from((RELAY, amt::PORT)));
                let messages = [
                    Message::Request { ipv6: false, ecn: false, nonce: 0 },
                    Message::RelayDiscovery { nonce: 0 },
                    Message::MembershipUpdate { response_mac: [7; 6], nonce: 0, update: &[0; 40] },
                ];
                messages.map(|message| sender.udp(from, to, &message.to_vec())).into()
            }
        }
    }

    /// What a router's statistics say was read, and what was refused or dropped.
    pub(super) fn counted(self, stats: &Value) -> (u64, u64) {
        let (table, read, dropped) = self.counters();
        let sum = |labels: &[&str]| {
            labels.iter().map(|label| stats["control"][table][label].as_u64().unwrap_or(0)).sum()
        };
        (sum(read), sum(dropped))
    }
}

/// A flood that came in.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Came {
    pub(super) frames: u64,
    /// How many in a second.
    pub(super) per_s: f64,
}

/// Lets a flood come in at a router for so long, on the router's core and on this one as from a NIC with two queues;
/// `near` is the link-layer address of its interface.
pub(super) fn run(
    vmr: &Namespace,
    kind: Kind,
    near: [u8; 6],
    time: Duration,
    clock: Clock,
    stop: &AtomicBool,
) -> Result<Came> {
    let cores = BTreeSet::from([ROUTERS_CORE, sched_getcpu()?]);
    let came = std::thread::scope(|scope| {
        let on = |core| scope.spawn(move || on_core(core, vmr, kind, near, time, clock));
        let parts: Vec<_> = cores.into_iter().map(on).collect();
        let parts = parts
            .into_iter()
            .map(|part| part.join().map_err(|_| anyhow::anyhow!("a core's part of the flood panicked"))?);
        parts.collect::<Result<Vec<Came>>>()
    });
    stop.store(true, Ordering::Relaxed);
    let sum =
        |sum: Came, part: Came| Came { frames: sum.frames + part.frames, per_s: sum.per_s + part.per_s };
    Ok(came?.into_iter().fold(Came::default(), sum))
}

fn on_core(
    core: usize,
    vmr: &Namespace,
    kind: Kind,
    near: [u8; 6],
    time: Duration,
    clock: Clock,
) -> Result<Came> {
    pin_to_core(core).context("staying on one core")?;
    vmr.enter(|| {
        let (live, ifindex) = (Live::load(kind.varying())?, if_nametoindex(kind.interface())?);
        let all = kind.frames(near);
        let (start, mut frames) = (clock.now(), 0);
        for frame in all.iter().cycle() {
            let took = clock.now() - start;
            if took >= time {
                return Ok(Came { frames, per_s: frames as f64 / took.as_secs_f64() });
            }
            live.receive(ifindex, frame, IN_A_ROW)?;
            frames += u64::from(IN_A_ROW);
        }
        unreachable!("there are frames")
    })?
}

/// Who receives the stream through a tunnel.
pub(super) struct Watcher(std::thread::JoinHandle<Result<Heard>>);

/// What came of a stream.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    pub(super) packets: u64,
    pub(super) lost: u64,
    /// Those that came twice, or late.
    pub(super) out_of_order: u64,
}

impl Watcher {
    /// Listens in the namespace of the gateways for what comes to one of them, until told to stop.
    pub(super) fn start(members: &Namespace, gateway: SocketAddr, stop: Arc<AtomicBool>) -> Result<Self> {
        let socket = members
            .enter(|| FrameSocket::listening(if_nametoindex("eth0")?, Family::V4.ether_type(), QUIET))??;
        Ok(Self(std::thread::spawn(move || watch(&socket, gateway, &stop))))
    }

    pub(super) fn end(self) -> Result<Heard> {
        self.0.join().map_err(|_| anyhow::anyhow!("who receives the stream panicked"))?
    }
}

fn watch(socket: &FrameSocket, gateway: SocketAddr, stop: &AtomicBool) -> Result<Heard> {
    let mut buffer = [0; 2048];
    let (mut heard, mut next) = (Heard::default(), None);
    while !stop.load(Ordering::Relaxed) {
        let Some(frame) = socket.receive(&mut buffer)? else { continue };
        let Some((to, payload)) = frame::udp(frame) else { continue };
        let number = payload.get(INNER_LEN..INNER_LEN + NUMBER_LEN).and_then(|bytes| bytes.try_into().ok());
        let Some(number) = number.filter(|_| to == gateway).map(u64::from_be_bytes) else { continue };
        let expected = *next.get_or_insert(number);
        heard.packets += 1;
        if number < expected {
            heard.out_of_order += 1;
        } else {
            heard.lost += number - expected;
            next = Some(number + 1);
        }
    }
    ensure!(heard.packets > 0, "nothing came of the stream");
    Ok(heard)
}

/// The statistics of the router, as its operator sees them.
pub(super) fn resident(stats: &Value) -> Result<u64> {
    stats["resident_bytes"].as_u64().context("no resident_bytes in the statistics")
}
