//! What packets pass on their way: nothing but a cable, the kernel's forwarding, or the plane.

use std::time::Duration;

use anyhow::{Context as _, Result};
use vmcast_lab::{Lab, mroute::MulticastRouter};

use super::{Round, sender::Sender};
use crate::{
    copies::{
        ipmr,
        plane::{self, Members, Plane},
        stand::Stand,
        stream,
    },
    kernel::clock::Clock,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Cable,
    Ipmr,
    Plane(plane::Kind),
}

impl Kind {
    /// The cable comes first: what the others add is counted from there.
    pub(super) const ALL: [Self; 4] =
        [Self::Cable, Self::Ipmr, Self::Plane(plane::Kind::Xdp), Self::Plane(plane::Kind::Tc)];

    pub(super) const fn label(self) -> &'static str {
        match self {
            Self::Cable => "veth alone",
            Self::Ipmr => "kernel ipmr",
            Self::Plane(kind) => kind.label(),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Cable => "cable",
            Self::Ipmr => "ipmr",
            Self::Plane(kind) => kind.name(),
        }
    }
}

/// Who forwards; it does as long as this is there.
enum Forwarder {
    Nobody,
    Kernel(#[expect(dead_code, reason = "its socket keeps the kernel forwarding")] MulticastRouter),
    Plane(#[expect(dead_code, reason = "its programs forward while it is there")] Box<Plane>),
}

pub(super) struct Hop {
    pub(super) kind: Kind,
    outputs: u64,
    sender: Sender,
    clock: Clock,
    _forwarder: Forwarder,
    _stand: Stand,
}

impl Hop {
    pub(super) fn build(lab: &mut Lab, kind: Kind, outputs: usize) -> Result<Self> {
        const RANGE: u8 = 0;
        let outputs = if kind == Kind::Cable { 1 } else { outputs };
        let stand = Stand::build(lab, kind.name(), outputs)?;
        let mut clock = Clock::load()?;
        if kind == Kind::Cable {
            stand.dut.enter(|| clock.attach([stand.ingress.ifindex]))??;
        } else {
            stand.far.enter(|| clock.attach(stand.egress.iter().map(|cable| cable.far_ifindex)))??;
        }
        let forwarder = match kind {
            Kind::Cable => Forwarder::Nobody,
            Kind::Ipmr => {
                let router = ipmr::open(&stand)?;
                router.add(stream::SOURCE, stream::group(RANGE, 0), outputs)?;
                Forwarder::Kernel(router)
            }
            Kind::Plane(kind) => {
                let mut plane = Plane::open(&stand, kind)?;
                plane.set_streams(&stand, RANGE, 1, &Members::interfaces(&stand, outputs))?;
                Forwarder::Plane(Box::new(plane))
            }
        };
        let sender = Sender::open(&stand, RANGE)?;
        Ok(Self { kind, outputs: outputs as u64, sender, clock, _forwarder: forwarder, _stand: stand })
    }

    /// Packets per second that it takes at most.
    pub(super) fn capacity(&mut self, time: Duration) -> Result<f64> {
        let sent = self.sender.send_at_once(time)?;
        self.clock.take()?;
        Ok(sent.per_second)
    }

    /// The delays at a rate.
    pub(super) fn round(&mut self, per_second: f64, time: Duration) -> Result<Round> {
        let sent = self.sender.send_at_random(per_second, time)?;
        let delays = self.clock.take()?;
        let at = |percent| {
            let label = self.kind.label();
            delays.percentile(percent).with_context(|| format!("{label}: no packet arrived"))
        };
        Ok(Round {
            packets_per_s: sent.per_second,
            p50: at(50.0)?,
            p99: at(99.0)?,
            p999: at(99.9)?,
            delivered: delays.count(),
            expected: sent.packets * self.outputs,
        })
    }
}
