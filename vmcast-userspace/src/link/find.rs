//! Finding the nearest VMR: ask the admin; if it knows, take its word; if not, measure all of them
//! and report.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tracing::{info, warn};
use vmcast_proto::{
    nearest,
    registry::{AnswerKind, Measurement, NodeId},
};

use vmcast_signal::v1;

use super::{AdminClient, AdminError, Ask, Vmr, probe, probed};
use crate::sockets::source_towards;

/// Of a VMR whose probe came and whose answer did not.
const UNKNOWN_RTT: Duration = Duration::from_micros(u32::MAX as u64);

/// A VMR to attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankedVmr {
    /// Its id.
    pub id: NodeId,
    /// What people call it.
    pub name: String,
    /// Where its relay is reached.
    pub endpoint: SocketAddr,
    /// Its distance from the source.
    pub rank: u32,
    /// Hops and round-trip time, if this node measured them itself.
    pub distance: Option<(u8, Duration)>,
}

/// VMRs to attach to, the nearest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankedVmrs {
    /// Whether the admin knew or this node measured.
    pub kind: AnswerKind,
    /// The VMRs; none if none is to be had.
    pub vmrs: Vec<RankedVmr>,
    /// Whether they are what an admin gave to an earlier process, and none has answered this one yet.
    pub kept: bool,
}

/// Who asks, and how it measures.
#[derive(Clone, Debug)]
pub(super) struct Finder {
    pub(super) client: AdminClient,
    pub(super) ask: Ask,
    /// Where VMRs did not serve.
    pub(super) dead: BTreeSet<(NodeId, SocketAddr)>,
    pub(super) local: Option<IpAddr>,
    pub(super) probe: nearest::Config,
    /// For the nonces of this search.
    pub(super) seed: u64,
}

impl Finder {
    /// Finds the nearest VMRs.
    pub(super) async fn find(self) -> Result<RankedVmrs, AdminError> {
        let mut answer = self.client.nearest(&self.ask).await?;
        if answer.vmrs.is_empty() && !self.ask.excluded.is_empty() {
            // There is none but those that did not serve. One of them may have another address by now.
            answer = self.client.nearest(&Ask { excluded: BTreeSet::new(), ..self.ask.clone() }).await?;
            self.leave_out_dead(&mut answer.vmrs);
            self.leave_out_dead(&mut answer.others);
        }
        if answer.vmrs.is_empty() {
            return Ok(RankedVmrs { kind: answer.kind, vmrs: Vec::new(), kept: false });
        }
        match answer.kind {
            AnswerKind::CachedAddress | AnswerKind::CachedPrefix => {
                let vmrs = answer.vmrs.into_iter().chain(answer.others).map(|vmr| {
                    let endpoint = vmr.endpoints[0];
                    RankedVmr { id: vmr.id, name: vmr.name, endpoint, rank: vmr.rank, distance: None }
                });
                Ok(RankedVmrs { kind: answer.kind, vmrs: vmrs.collect(), kept: false })
            }
            AnswerKind::All => {
                let vmrs = match answer.probing {
                    Some(probing) => match self.be_probed(&answer.vmrs, probing).await {
                        vmrs if vmrs.is_empty() => {
                            info!("no probe of a VMR came; measuring");
                            // It is good for this node until it asks again. To others the admin would tell it as what probes
                            // have found.
                            self.measure(answer.vmrs).await
                        }
                        vmrs => {
                            self.report(&vmrs, true).await;
                            vmrs
                        }
                    },
                    None => {
                        let vmrs = self.measure(answer.vmrs).await;
                        self.report(&vmrs, false).await;
                        vmrs
                    }
                };
                Ok(RankedVmrs { kind: AnswerKind::All, vmrs, kept: false })
            }
        }
    }

    fn leave_out_dead(&self, vmrs: &mut Vec<Vmr>) {
        vmrs.retain_mut(|vmr| {
            vmr.endpoints.retain(|endpoint| !self.dead.contains(&(vmr.id.clone(), *endpoint)));
            !vmr.endpoints.is_empty()
        });
    }

    /// Every VMR whose probe comes, in the order of their arrival.
    async fn be_probed(&self, vmrs: &[Vmr], probing: v1::Probing) -> Vec<RankedVmr> {
        let first = |vmr: &Vmr| {
            probed_from(&vmr.endpoints, self.local, |endpoint| source_towards(endpoint).is_some())
        };
        let owners: BTreeMap<_, _> = vmrs.iter().filter_map(|vmr| Some((first(vmr)?, vmr))).collect();
        let relays: Vec<_> = vmrs.iter().filter_map(first).collect();
        let ask = async {
            if let Err(failure) = self.client.probe_me(&self.ask.id, probing).await {
                warn!(%failure, "the admin has not let VMRs probe");
            }
        };
        let arrivals = match probed(&relays, probing, self.local, ask).await {
            Ok(arrivals) => arrivals,
            Err(error) => {
                warn!(%error, "cannot wait for probes of VMRs");
                Vec::new()
            }
        };
        let ranked = arrivals.into_iter().filter_map(|arrival| {
            let vmr = owners.get(&arrival.endpoint)?;
            Some(RankedVmr {
                id: vmr.id.clone(),
                name: vmr.name.clone(),
                endpoint: arrival.endpoint,
                rank: vmr.rank,
                distance: Some((arrival.hops, arrival.rtt.unwrap_or(UNKNOWN_RTT))),
            })
        });
        ranked.collect()
    }

    /// Every VMR that answers, by its nearest endpoint.
    async fn measure(&self, vmrs: Vec<Vmr>) -> Vec<RankedVmr> {
        let owners: BTreeMap<_, _> =
            vmrs.iter().flat_map(|vmr| vmr.endpoints.iter().map(move |&endpoint| (endpoint, vmr))).collect();
        let relays: Vec<_> = vmrs.iter().flat_map(|vmr| vmr.endpoints.iter().copied()).collect();
        let findings = match probe(&relays, self.probe.clone(), self.seed, self.local).await {
            Ok((findings, _)) => findings,
            Err(error) => {
                warn!(%error, "cannot measure the distance of VMRs");
                return Vec::new();
            }
        };
        if !findings.unanswered.is_empty() {
            info!(relays = ?findings.unanswered, "relays did not answer");
        }
        let mut known = BTreeSet::new();
        let ranked = findings.measured.into_iter().filter_map(|measured| {
            let vmr = owners.get(&measured.endpoint)?;
            known.insert(&vmr.id).then(|| RankedVmr {
                id: vmr.id.clone(),
                name: vmr.name.clone(),
                endpoint: measured.endpoint,
                rank: vmr.rank,
                distance: Some((measured.hops, measured.rtt)),
            })
        });
        ranked.collect()
    }

    /// Tells the admin. What was measured is good for this node even if the admin cannot take it.
    async fn report(&self, vmrs: &[RankedVmr], by_arrival: bool) {
        let measurements: Vec<_> = vmrs
            .iter()
            .filter_map(|vmr| {
                let (hops, rtt) = vmr.distance?;
                Some(Measurement { vmr: vmr.id.clone(), endpoint: vmr.endpoint, hops, rtt })
            })
            .collect();
        let Some(chosen) = measurements.first() else {
            return;
        };
        // The order of arrival is not that of hops, which the admin would expect of a list.
        let (measurements, arrived) =
            if by_arrival { (&measurements[..1], &measurements[..]) } else { (&measurements[..], &[][..]) };
        info!(vmr = %chosen.vmr, endpoint = %chosen.endpoint, hops = chosen.hops, rtt = ?chosen.rtt, "nearest VMR");
        let Ask { id, addresses, .. } = &self.ask;
        if let Err(error) = self.client.report(id, addresses, chosen, measurements, arrived).await {
            warn!(%error, "the admin did not take the report");
        }
    }
}

/// The endpoint that a VMR is to probe from, which sends one probe: the first one that this host has a way to.
fn probed_from(
    endpoints: &[SocketAddr],
    local: Option<IpAddr>,
    has_way: impl Fn(SocketAddr) -> bool,
) -> Option<SocketAddr> {
    let is_usable = |endpoint: &SocketAddr| match local {
        Some(own) => own.is_ipv4() == endpoint.is_ipv4(),
        None => has_way(*endpoint),
    };
    endpoints.iter().copied().find(is_usable)
}

#[cfg(test)]
mod tests {
    use super::*;

    // proves A5: a host of one family is probed by VMRs of both
    #[test]
    fn a_vmr_probes_from_the_first_endpoint_that_the_host_has_a_way_to() {
        let ends = ["192.0.2.1:2268", "[2001:db8::1]:2268"].map(|end| end.parse::<SocketAddr>().unwrap());
        let [v4, v6] = ends.map(Some);
        assert_eq!(probed_from(&ends, None, |_| true), v4);
        assert_eq!(probed_from(&ends, None, |end| end.is_ipv6()), v6);
        assert_eq!(probed_from(&ends, None, |_| false), None);
        assert_eq!(probed_from(&ends, v6.map(|end| end.ip()), |_| false), v6, "it is told its own address");
        assert_eq!(probed_from(&ends[1..], v4.map(|end| end.ip()), |_| true), None);
    }
}
