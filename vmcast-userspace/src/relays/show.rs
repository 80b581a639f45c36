//! What operators are shown of sources and their relays.

use std::time::Instant;

use vmcast_api::{Page, Source, SourcePlace, SourceRelay, SourceRelayState, Sources};
use vmcast_proto::amt::{
    Discovery,
    discovery::{CandidateState, Place, SourceInfo},
};

/// A page of the sources that are looked up; `number` is that of a tunnel in the list of tunnels.
pub(crate) fn sources(
    discovery: Option<&Discovery>,
    page: &Page,
    now: Instant,
    number: fn(u32) -> u32,
) -> Sources {
    let all = discovery.into_iter().flat_map(|discovery| discovery.sources(now));
    let (sources, next) = page.cut(all, |info| source(&info, number));
    Sources { next, sources }
}

pub(crate) fn source(info: &SourceInfo<'_>, number: fn(u32) -> u32) -> Source {
    let (place, reason, tunnel) = match info.place {
        Place::Nowhere => (SourcePlace::Nowhere, None, None),
        Place::Default(why) => (SourcePlace::Upstream, Some(why.label().to_owned()), None),
        Place::Tunnel(tunnel) => (SourcePlace::Relay, None, Some(number(tunnel))),
    };
    let relays = info.candidates.iter().map(|candidate| {
        let (state, held) = match candidate.state {
            CandidateState::InUse => (SourceRelayState::InUse, None),
            CandidateState::Trying => (SourceRelayState::Trying, None),
            CandidateState::Ready => (SourceRelayState::Ready, None),
            CandidateState::HeldDown(left) => (SourceRelayState::HeldDown, Some(left)),
            CandidateState::Unreachable => (SourceRelayState::Unreachable, None),
            CandidateState::Own => (SourceRelayState::Own, None),
        };
        SourceRelay {
            precedence: candidate.precedence,
            discovery_optional: candidate.discovery_optional,
            remote: candidate.relay,
            name: candidate.name.map(ToString::to_string),
            state,
            held_ms: held.map(|left| left.as_millis() as u64),
        }
    });
    Source {
        source: info.source,
        place,
        reason,
        tunnel,
        flows: info.flows,
        asking: info.asking,
        relays: relays.collect(),
    }
}
