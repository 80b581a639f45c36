//! A host on a link: from its report to the first copy.

use std::{net::IpAddr, time::Duration};

use anyhow::{Result, ensure};
use nix::net::if_::if_nametoindex;
use vmcast_lab::{Namespace, clock::Clock, signals};
use vmcast_wire::igmp::RecordType;

use super::{
    family::{Family, report_of},
    frame::{self, Cable},
};
use crate::wire::FrameSocket;

/// How long nothing comes before the host is taken to have left.
const QUIET: Duration = Duration::from_millis(4);
/// How long the first copy may take, and the last.
const PATIENCE: Duration = Duration::from_secs(5);
/// After how long without one the host says again what it wants, as hosts do against loss.
const AGAIN: Duration = Duration::from_millis(50);

/// The host, which joins [`Family::stream`].
pub(super) struct Host {
    family: Family,
    socket: FrameSocket,
    cable: Cable,
    clock: Clock,
}

impl Host {
    /// A host in a namespace, at its interface `eth0`.
    pub(super) fn new(node: &Namespace, cable: Cable, family: Family, clock: Clock) -> Result<Self> {
        let socket =
            node.enter(|| FrameSocket::listening(if_nametoindex("eth0")?, family.ether_type(), QUIET))??;
        Ok(Self { family, socket, cable, clock })
    }

    /// Joins the stream by its source, waits for its first packet and leaves; how long that packet took.
    pub(super) fn join(&self) -> Result<Duration> {
        let (family, group) = (self.family, self.family.crowded());
        let report = |record_type| {
            let datagram = report_of(family.host(), record_type, group, &[family.sender()]);
            self.cable.frame(family.routers_mac(), family, &datagram)
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
    fn hears(&self, group: IpAddr) -> Result<bool> {
        let mut buffer = [0; 2048];
        loop {
            let Some(frame) = self.socket.receive(&mut buffer)? else { return Ok(false) };
            if frame::udp(frame).is_some_and(|(to, _)| to.ip() == group) {
                return Ok(true);
            }
        }
    }
}
