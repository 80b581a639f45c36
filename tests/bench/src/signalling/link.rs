//! A host on a link: from its report to the first copy.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;
use vmcast_common::hdr::eth::multicast_mac;
use vmcast_lab::{Namespace, clock::Clock, signals};
use vmcast_wire::{
    igmp::{self, ALL_IGMPV3_ROUTERS, Record, RecordType},
    ipv4::{TOS_INTERNETWORK_CONTROL, encapsulate},
};

use super::{
    family::Family,
    frame::{self, Cable},
};
use crate::wire::FrameSocket;

/// How long nothing comes before the host is taken to have left.
const QUIET: Duration = Duration::from_millis(4);
/// How long the first copy may take, and the last.
const PATIENCE: Duration = Duration::from_secs(5);
/// After how long without one the host says again what it wants, as hosts do against loss.
const AGAIN: Duration = Duration::from_millis(50);
const PROTO_IGMP: u8 = 2;

/// The host.
pub(super) struct Host {
    socket: FrameSocket,
    cable: Cable,
    address: Ipv4Addr,
    clock: Clock,
}

impl Host {
    /// A host in a namespace, at its interface `eth0`.
    pub(super) fn new(node: &Namespace, cable: Cable, address: Ipv4Addr, clock: Clock) -> Result<Self> {
        let socket =
            node.enter(|| FrameSocket::listening(if_nametoindex("eth0")?, Family::V4.ether_type(), QUIET))??;
        Ok(Self { socket, cable, address, clock })
    }

    /// Joins a source that sends, waits for its first packet and leaves; how long that packet took.
    pub(super) fn join(&self, group: Ipv4Addr, source: Ipv4Addr) -> Result<Duration> {
        let report = |record_type| {
            let records = vec![Record { record_type, group, sources: vec![source] }];
            let message = igmp::Message::ReportV3 { records }.emit();
            let (to, class) = (ALL_IGMPV3_ROUTERS, TOS_INTERNETWORK_CONTROL);
            let datagram = encapsulate(self.address, to, 1, class, PROTO_IGMP, true, &message);
            self.cable.frame(multicast_mac(to), Family::V4, &datagram)
        };
        let (join, leave) = (report(RecordType::AllowNewSources), report(RecordType::BlockOldSources));
        let start = self.clock.now();
        self.socket.send(&join)?;
        let mut again = start + AGAIN;
        while !self.hears(group)? {
            if self.clock.now() >= again {
                self.socket.send(&join)?;
                again += AGAIN;
            }
            ensure!(self.clock.now() < start + PATIENCE, "no packet within {PATIENCE:?} of the report");
            signals::check()?;
        }
        let took = self.clock.now() - start;
        self.socket.send(&leave)?;
        let left = self.clock.now();
        let mut again = left + AGAIN;
        while self.hears(group)? {
            if self.clock.now() >= again {
                self.socket.send(&leave)?;
                again += AGAIN;
            }
            ensure!(self.clock.now() < left + PATIENCE, "packets still come {PATIENCE:?} after the leave");
        }
        Ok(took)
    }

    /// Whether the next frame is of the group; false if none comes for a while.
    fn hears(&self, group: Ipv4Addr) -> Result<bool> {
        let mut buffer = [0; 2048];
        loop {
            let Some(frame) = self.socket.receive(&mut buffer)? else { return Ok(false) };
            if frame::udp(frame).is_some_and(|(to, _)| to.ip() == group) {
                return Ok(true);
            }
        }
    }
}
