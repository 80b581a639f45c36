//! Floods: a million messages a second come in, beside a stream and somebody who joins.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use vmcast_common::hdr::eth::multicast_mac;
use vmcast_lab::{Namespace, clock::Clock};
use vmcast_wire::{
    amt::{self, Message},
    igmp::{self, ALL_IGMPV3_ROUTERS, Record, RecordType},
    ipv4::encapsulate,
};

use super::{
    RELAY,
    frame::{self, Cable},
    live::Live,
};
use crate::{join::NUMBER_LEN, wire::FrameSocket};

/// How often a message comes in a row, each time from another sender and with another content. What comes together takes
/// some 20 ms before it begins.
const IN_A_ROW: u32 = 262_144;
/// How long nothing comes before the stream is taken to have ended.
const QUIET: Duration = Duration::from_millis(200);
const PROTO_IGMP: u8 = 2;
/// AMT's header, the IPv4 header and that of UDP before what a copy of the stream carries.
const INNER_LEN: usize = 2 + 20 + 8;

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Reports,
    Tunnels,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Reports, Self::Tunnels];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Reports => "IGMPv3 reports of forged hosts on a link",
            Self::Tunnels => "AMT Requests, Discoveries and forged Updates",
        }
    }

    /// Where it comes in.
    const fn interface(self) -> &'static str {
        match self {
            Self::Reports => "lan0",
            Self::Tunnels => "acc0",
        }
    }

    /// The last byte of its link-layer address.
    pub(super) const fn near(self) -> u8 {
        match self {
            Self::Reports => 3,
            Self::Tunnels => 1,
        }
    }

    /// The counters of what was read and of what was refused or dropped.
    const fn counters(self) -> (&'static str, &'static [&'static str], &'static [&'static str]) {
        match self {
            Self::Reports => {
                ("igmp", &["reports_received"], &["overrun", "thinned", "strangers_over_share", "bad_source"])
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

    /// Where a frame has two words of 16 bits that are to differ: in a report the group, and what is reserved before
    /// the records, in messages of AMT the nonce, or the Response MAC.
    const fn words(self) -> [i16; 2] {
        match self {
            Self::Reports => [52, 42],
            Self::Tunnels => [48, 46],
        }
    }

    /// The frames, as they come to this end of a cable.
    fn frames(self, near: [u8; 6]) -> Vec<Vec<u8>> {
        let sender = Cable { near: [2, 7, 7, 7, 0, 0], far: near };
        let address = Ipv4Addr::new(11, 0, 0, 0);
        match self {
            Self::Reports => {
                let (record_type, group) = (RecordType::ChangeToExcludeMode, Ipv4Addr::new(239, 200, 0, 0));
                let records = vec![Record { record_type, group, sources: Vec::new() }];
                let message = igmp::Message::ReportV3 { records }.emit();
                let to = ALL_IGMPV3_ROUTERS;
                let packet = encapsulate(address, to, 1, 0xc0, PROTO_IGMP, true, &message);
                vec![sender.frame(multicast_mac(to), &packet)]
            }
            Self::Tunnels => {
                let (from, to) = (SocketAddrV4::new(address, 10_000), SocketAddrV4::new(RELAY, amt::PORT));
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    pub(super) frames: u64,
    pub(super) took: Duration,
}

/// Lets a flood come in at a router for so long; `near` is the link-layer address of its interface.
pub(super) fn run(
    vmr: &Namespace,
    kind: Kind,
    near: [u8; 6],
    time: Duration,
    clock: Clock,
    stop: &AtomicBool,
) -> Result<Came> {
    let came = vmr.enter(|| -> Result<Came> {
        let (live, ifindex) = (Live::load(kind.words())?, if_nametoindex(kind.interface())?);
        let all = kind.frames(near);
        let (start, mut frames) = (clock.now(), 0);
        for frame in all.iter().cycle() {
            let took = clock.now() - start;
            if took >= time {
                return Ok(Came { frames, took });
            }
            live.receive(ifindex, frame, IN_A_ROW)?;
            frames += u64::from(IN_A_ROW);
        }
        unreachable!("there are frames")
    });
    stop.store(true, Ordering::Relaxed);
    came?
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
    pub(super) fn start(members: &Namespace, gateway: SocketAddrV4, stop: Arc<AtomicBool>) -> Result<Self> {
        let socket = members.enter(|| FrameSocket::listening(if_nametoindex("eth0")?, QUIET))??;
        Ok(Self(std::thread::spawn(move || watch(&socket, gateway, &stop))))
    }

    pub(super) fn end(self) -> Result<Heard> {
        self.0.join().map_err(|_| anyhow::anyhow!("who receives the stream panicked"))?
    }
}

fn watch(socket: &FrameSocket, gateway: SocketAddrV4, stop: &AtomicBool) -> Result<Heard> {
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
