//! What each link of the path carries, seen on the link itself.

use std::time::Duration;

use super::{STREAM, Stage, report::HopReport};
use crate::{
    LabError, Namespace,
    traffic::{Carriage, Counts, Meter, Witness},
};

/// A place on the path of the stream.
#[derive(Debug)]
struct Hop {
    name: &'static str,
    carriage: Carriage,
    outgoing: bool,
    witness: Witness,
    meter: Meter,
}

impl Hop {
    fn counts(&self) -> Counts {
        if self.outgoing {
            self.witness.outgoing(self.carriage)
        } else {
            self.witness.incoming(self.carriage)
        }
    }
}

/// Every place on the path that is watched, from the source on.
#[derive(Debug)]
pub(super) struct Hops {
    hops: Vec<Hop>,
}

/// What a hop shows at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct HopView {
    pub(super) name: &'static str,
    pub(super) carriage: Carriage,
    pub(super) counts: Counts,
    pub(super) bit_rate: f64,
}

const SOURCE: &str = "source";
const BACKBONE: &str = "core1 → core2";

impl Hops {
    /// Begins to watch. Beside a VMR it is the far end of the cable that is watched, since XDP takes and
    /// sends packets where a socket on the VMR does not see them.
    pub(super) fn watch(stage: &Stage) -> Result<Self, LabError> {
        let net = &stage.topology;
        let places: [(&str, &Namespace, &str, Carriage, bool); 6] = [
            (SOURCE, &net.source, "eth0", Carriage::Native, true),
            ("→ vmr1", &net.srclan, "vmr1", Carriage::Native, true),
            ("vmr1 → core1", &net.core1, "vmr1", Carriage::Amt, false),
            (BACKBONE, &net.core2, "core1", Carriage::Amt, false),
            ("core2 → vmr2", &net.core2, "vmr2", Carriage::Amt, true),
            ("vmr2 → access", &net.access, "vmr2", Carriage::Amt, false),
        ];
        let hops = places.into_iter().map(|(name, node, interface, carriage, outgoing)| {
            let witness = Witness::start(node, interface, STREAM, stage.clock)?;
            Ok(Hop { name, carriage, outgoing, witness, meter: Meter::default() })
        });
        Ok(Self { hops: hops.collect::<Result<_, LabError>>()? })
    }

    pub(super) fn view(&mut self, now: Duration) -> Vec<HopView> {
        let view = |hop: &mut Hop| {
            let counts = hop.counts();
            let bit_rate = hop.meter.bit_rate(now, counts.bytes);
            HopView { name: hop.name, carriage: hop.carriage, counts, bit_rate }
        };
        self.hops.iter_mut().map(view).collect()
    }

    pub(super) fn report(&self) -> Vec<HopReport> {
        self.hops.iter().map(|hop| HopReport { hop: hop.name, counts: hop.counts() }).collect()
    }

    /// What the links should not have carried.
    pub(super) fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        let at = |name| self.hops.iter().find(|hop| hop.name == name).expect("watched above");
        let (sent, crossed) = (at(SOURCE).counts().packets, at(BACKBONE).counts().packets);
        if crossed > sent {
            violations.push(format!(
                "the backbone carried {crossed} copies of {sent} packets, more than one of each"
            ));
        }
        for hop in self.hops.iter().filter(|hop| hop.carriage == Carriage::Amt) {
            let native = hop.witness.incoming(Carriage::Native).packets
                + hop.witness.outgoing(Carriage::Native).packets;
            if native > 0 {
                violations.push(format!("{}: {native} multicast packets on a unicast link", hop.name));
            }
        }
        violations
    }
}
