//! What each link of the path carries, seen on the link itself.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use super::{
    STREAM, Stage,
    flow::{Flow, Span},
    report::HopReport,
};
use crate::{
    LabError, Namespace,
    judge::Judgement,
    traffic::{Carriage, Counts, Meter, Recorder, Witness},
};

/// A place on the path of the stream.
#[derive(Debug)]
struct Hop {
    name: &'static str,
    carriage: Carriage,
    outgoing: bool,
    witness: Witness,
    meter: Meter,
    /// At the source none; on the access network one for each membership; else one for all of them.
    flows: Vec<Flow>,
}

impl Hop {
    fn counts(&self) -> Counts {
        if self.outgoing {
            self.witness.outgoing(self.carriage)
        } else {
            self.witness.incoming(self.carriage)
        }
    }

    /// Makes or prolongs the flows to one place, a flow for each span.
    fn follow(&mut self, to: Option<Ipv4Addr>, spans: &[Span]) {
        let mut known = 0;
        for (flow, span) in self.flows.iter_mut().filter(|flow| flow.is_to(to)).zip(spans) {
            flow.set_span(*span);
            known += 1;
        }
        self.flows.extend(spans[known..].iter().map(|span| Flow::new(to, *span)));
    }

    fn update(&mut self, recorder: &Recorder, now: Duration) {
        let mut flows: Vec<_> = self.flows.iter_mut().filter(|flow| !flow.is_finished()).collect();
        for packet in self.witness.take() {
            if packet.carriage == self.carriage && packet.outgoing == self.outgoing {
                flows.iter_mut().for_each(|flow| flow.offer(&packet));
            }
        }
        // Read after what passed, so that it contains all of it.
        flows.iter_mut().for_each(|flow| flow.update(|place| recorder.sent_from(place), now));
    }

    fn judgement(&self) -> Judgement {
        let mut total = Judgement::default();
        self.flows.iter().for_each(|flow| total += flow.judgement());
        total
    }

    /// How many copies were lost between the place before and this one.
    fn lost_since(&self, before: &Self) -> usize {
        let before: BTreeSet<_> = before.flows.iter().flat_map(Flow::missing_places).collect();
        self.flows.iter().map(|flow| flow.missing_places().difference(&before).count()).sum()
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
    pub(super) lost: u64,
    pub(super) loss: f64,
}

const SOURCE: &str = "source";
const BACKBONE: &str = "core1 → core2";
const ACCESS: &str = "vmr2 → access";

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
            (ACCESS, &net.access, "vmr2", Carriage::Amt, false),
        ];
        let hops = places.into_iter().map(|(name, node, interface, carriage, outgoing)| {
            let witness = Witness::start(node, interface, STREAM, stage.clock)?;
            if name != SOURCE {
                witness.keep();
            }
            Ok(Hop { name, carriage, outgoing, witness, meter: Meter::default(), flows: Vec::new() })
        });
        Ok(Self { hops: hops.collect::<Result<_, LabError>>()? })
    }

    /// Learns the memberships of the clients so far: they say when the links have to carry the stream.
    pub(super) fn follow(&mut self, clients: &[(Ipv4Addr, &[Span])]) {
        let all = Span::hull(clients.iter().flat_map(|(_, spans)| *spans));
        for hop in self.hops.iter_mut().filter(|hop| hop.name != SOURCE) {
            if hop.name == ACCESS {
                clients.iter().for_each(|(address, spans)| hop.follow(Some(*address), spans));
            } else {
                hop.follow(None, all.as_slice());
            }
        }
    }

    /// Judges what passed up to now.
    pub(super) fn update(&mut self, recorder: &Recorder, now: Duration) {
        self.hops.iter_mut().for_each(|hop| hop.update(recorder, now));
    }

    pub(super) fn view(&mut self, recorder: &Recorder, now: Duration) -> Vec<HopView> {
        self.update(recorder, now);
        let view = |hop: &mut Hop| {
            let (counts, judgement) = (hop.counts(), hop.judgement());
            let bit_rate = hop.meter.bit_rate(now, counts.bytes);
            let (lost, loss) = (judgement.missing(), judgement.loss());
            HopView { name: hop.name, carriage: hop.carriage, counts, bit_rate, lost, loss }
        };
        self.hops.iter_mut().map(view).collect()
    }

    pub(super) fn report(&self) -> Vec<HopReport> {
        let report = |hop: &Hop| {
            let judgement = hop.judgement();
            let (lost, duplicated) = (judgement.missing(), judgement.duplicated);
            HopReport { hop: hop.name, counts: hop.counts(), lost, duplicated }
        };
        self.hops.iter().map(report).collect()
    }

    /// The first place that carried copies twice.
    pub(super) fn duplication(&self) -> Option<String> {
        let mut twice = self.hops.iter().map(|hop| (hop.name, hop.judgement().duplicated));
        let (name, copies) = twice.find(|(_, copies)| *copies > 0)?;
        Some(format!("{name}: the first to carry packets twice, {copies} of them"))
    }

    /// Where packets were lost that members miss.
    pub(super) fn losses(&self) -> Vec<String> {
        let mut losses = Vec::new();
        for pair in self.hops.windows(2) {
            let [before, hop] = pair else { unreachable!("windows of two") };
            let lost = hop.lost_since(before);
            if hop.counts().packets == 0 && before.counts().packets > 0 {
                losses.push(format!("{}: nothing came here of what passed {}", hop.name, before.name));
            } else if lost > 0 {
                losses.push(format!("{}: {lost} packets were lost that passed {}", hop.name, before.name));
            }
        }
        losses
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
