//! The contests: a part of engines × members × payloads × groups, so that each has its rows, and whatever
//! is divided takes turns.

use super::{
    case::{Case, Output},
    ipmr::MAX_OUTPUTS,
    plan::{Contest, Entry, Id, Pace, Target},
    plane::Kind,
};
use crate::report::Bound;

/// Bytes in a datagram: seven packets of an MPEG transport stream.
const MEDIA: usize = 1316;
/// Bytes in a datagram where the packet rate is what counts.
const SMALL: usize = 64;
/// The fan-out of a small site.
const SITE: usize = 64;
/// The fan-outs below the largest.
const SIZES: [usize; 5] = [1, 8, SITE, 256, 1_000];
const MANY: usize = 10_000;
/// Members of each group where there are many groups.
pub(crate) const GROUP_MEMBERS: usize = 16;
const SOME_GROUPS: u32 = 64;
const MANY_GROUPS: u32 = 4_096;
/// Fan-outs of other groups, and how many of them there are.
const OTHER_GROUPS: [(usize, u32); 4] =
    [(1, MANY_GROUPS), (8, MANY_GROUPS), (SITE, SOME_GROUPS), (1_000, SOME_GROUPS)];

/// Those with the rows that matter most.
pub(super) fn quick() -> Vec<Contest> {
    vec![
        fan_out(SITE, MEDIA, &[Id::Gso]),
        statistics(Kind::Xdp, Kind::XdpUncounted, MEDIA),
        many_members(&[Kind::Xdp], MEDIA),
        many_groups(&[Kind::Xdp], &[1, MANY_GROUPS], MEDIA),
        native(&[Id::XDP, Id::Ipmr, Id::TOUCHED], MAX_OUTPUTS, MEDIA),
    ]
}

/// All of them.
pub(super) fn full() -> Vec<Contest> {
    let payloads = [MEDIA, SMALL];
    let planes = [Kind::Xdp, Kind::Tc, Kind::Software];
    let mut contests = Vec::new();
    for payload in payloads {
        for members in SIZES {
            let peers: &[Id] = match (payload, members) {
                // Nobody needs a list for one.
                (MEDIA, 1) => &[Id::Gso],
                (MEDIA, _) | (SMALL, SITE) => &[Id::Gso, Id::Vxlan, Id::Bridge],
                _ => &[],
            };
            contests.push(fan_out(members, payload, peers));
        }
    }
    contests.extend(payloads.map(|payload| statistics(Kind::Xdp, Kind::XdpUncounted, payload)));
    contests.push(statistics(Kind::Tc, Kind::TcUncounted, MEDIA));
    contests.push(over_ipv6(MEDIA));
    contests.extend(payloads.map(|payload| many_members(&planes, payload)));
    contests.extend(payloads.map(|payload| many_groups(&planes, &[1, SOME_GROUPS, MANY_GROUPS], payload)));
    contests.extend(OTHER_GROUPS.map(|(members, groups)| groups_of_another_size(members, groups)));
    let engines = [Id::XDP, Id::TOUCHED, Id::Ipmr, Id::FLOOR, Id::TC, Id::SOFTWARE];
    contests.extend(
        [(MAX_OUTPUTS, MEDIA), (MAX_OUTPUTS, SMALL), (8, MEDIA)]
            .map(|(outputs, payload)| native(&engines, outputs, payload)),
    );
    contests
}

const fn unicast(members: usize, groups: u32, payload: usize) -> Case {
    Case { output: Output::Unicast, members, groups, payload }
}

const fn entry(engine: Id, case: Case) -> Entry {
    Entry { engine, case }
}

/// What makes copies as this engine does, and rewrites as little of them as this kernel allows to one that rewrites.
const fn floor_of(engine: Id) -> Option<Id> {
    match engine {
        Id::Plane(Kind::Xdp | Kind::XdpUncounted) => Some(Id::TOUCHED),
        Id::Plane(Kind::Tc | Kind::TcUncounted) => Some(Id::Clones),
        Id::Plane(Kind::Software)
        | Id::Relay
        | Id::Gso
        | Id::Ipmr
        | Id::Vxlan
        | Id::Bridge
        | Id::Floor(_)
        | Id::Clones => None,
    }
}

/// These planes, and what makes copies as they do.
fn with_floors(planes: &[Kind]) -> Vec<Id> {
    let planes = planes.iter().map(|plane| Id::Plane(*plane));
    planes.clone().chain(planes.filter_map(floor_of)).collect()
}

/// What a floor reaches against the same opponent.
fn limit_against(engine: Id, case: Case, opponent: Entry) -> Option<(Entry, Entry)> {
    floor_of(engine).map(|floor| (entry(floor, case), opponent))
}

/// The planes, a relay, these peers and the floors, which all send a copy of its own to each member.
fn fan_out(members: usize, payload: usize, peers: &[Id]) -> Contest {
    let case = unicast(members, 1, payload);
    let mut engines = vec![Id::XDP, Id::TOUCHED, Id::FLOOR, Id::Relay, Id::TC, Id::Clones, Id::SOFTWARE];
    engines.extend(peers);
    let relay = entry(Id::Relay, case);
    let mut targets = Vec::new();
    if (SITE..=1_000).contains(&members) && payload == MEDIA {
        for (kind, least, stretch) in [(Kind::Xdp, 8.0, 10.0), (Kind::Tc, 3.5, 4.0)] {
            let engine = Id::Plane(kind);
            let name = kind.label();
            targets.push(Target {
                name: format!("{name} against the sendmmsg relay, {members} members, AMT, {payload} bytes"),
                over: entry(engine, case),
                under: relay,
                bound: Bound::AtLeast(least),
                stretch: Some(stretch),
                limit: limit_against(engine, case, relay),
            });
        }
    }
    Contest {
        title: format!("copies to {members} members, {payload} bytes"),
        entries: engines.into_iter().map(|engine| entry(engine, case)).collect(),
        pace: Pace::where_there_are(&targets),
        targets,
        unlisted: Vec::new(),
    }
}

/// IPv6 groups in tunnels over IPv6, beside IPv4 in IPv4.
fn over_ipv6(payload: usize) -> Contest {
    let v4 = unicast(SITE, 1, payload);
    let v6 = Case { output: Output::UnicastV6, ..v4 };
    let both = |case| [Id::XDP, Id::TC].map(|engine| entry(engine, case));
    Contest {
        title: format!("copies over IPv6 to {SITE} members, {payload} bytes"),
        entries: [both(v6), both(v4)].concat(),
        targets: Vec::new(),
        unlisted: both(v4).into(),
        pace: Pace::Usual,
    }
}

/// What the counters of streams cost: the same engine with them and without, in turns. What slows the machine for a
/// moment is to meet both alike, so nothing else takes part.
fn statistics(on: Kind, off: Kind, payload: usize) -> Contest {
    let case = unicast(SITE, 1, payload);
    let (plane, on, off) = (on.label(), entry(Id::Plane(on), case), entry(Id::Plane(off), case));
    Contest {
        title: format!("statistics of {plane}, {SITE} members, {payload} bytes"),
        entries: vec![on, off],
        targets: vec![Target {
            name: format!("{plane}, throughput with statistics ÷ without, {SITE} members, {payload} bytes"),
            over: on,
            under: off,
            bound: Bound::AtLeast(0.95),
            stretch: None,
            limit: None,
        }],
        // It has a row among the others.
        unlisted: vec![on],
        pace: Pace::Pairs,
    }
}

/// The largest fan-out, and the usual one in the same rounds.
fn many_members(planes: &[Kind], payload: usize) -> Contest {
    let (usual, many) = (unicast(SITE, 1, payload), unicast(MANY, 1, payload));
    let engines = with_floors(planes);
    let mut entries: Vec<Entry> =
        engines.iter().flat_map(|engine| [entry(*engine, usual), entry(*engine, many)]).collect();
    if planes.contains(&Kind::Software) {
        entries.extend([entry(Id::Relay, usual), entry(Id::Relay, many)]);
    }
    let unlisted = entries.iter().filter(|entry| entry.case == usual).copied().collect();
    // What leaves by sockets is compared with what does that alone.
    let limit_of = |plane| floor_of(Id::Plane(plane)).unwrap_or(Id::Relay);
    let targets = planes.iter().map(|plane| Target {
        name: format!("{}, ns per copy at {MANY} members ÷ at {SITE}, {payload} bytes", plane.label()),
        over: entry(Id::Plane(*plane), usual),
        under: entry(Id::Plane(*plane), many),
        bound: Bound::AtMost(1.15),
        stretch: None,
        limit: Some((entry(limit_of(*plane), usual), entry(limit_of(*plane), many))),
    });
    Contest {
        title: format!("copies to {MANY} members, {payload} bytes"),
        targets: targets.collect(),
        entries,
        unlisted,
        pace: Pace::Usual,
    }
}

/// Many groups against one, with as many members each.
fn many_groups(planes: &[Kind], groups: &[u32], payload: usize) -> Contest {
    let case = |groups| unicast(GROUP_MEMBERS, groups, payload);
    let engines = with_floors(planes);
    let entries =
        engines.iter().flat_map(|engine| groups.iter().map(|groups| entry(*engine, case(*groups)))).collect();
    let targets = planes.iter().map(|plane| as_many_groups(*plane, case(MANY_GROUPS)));
    Contest {
        title: format!("copies of {MANY_GROUPS} groups, {payload} bytes"),
        targets: targets.collect(),
        entries,
        unlisted: Vec::new(),
        pace: Pace::Usual,
    }
}

/// The throughput of many groups against that of one, with the same copies.
fn as_many_groups(plane: Kind, many: Case) -> Target {
    let (plane_id, one) = (Id::Plane(plane), Case { groups: 1, ..many });
    let Case { members, groups, payload, .. } = many;
    Target {
        name: format!(
            "{}, throughput with {groups} groups of {members} ÷ with 1, {payload} bytes",
            plane.label()
        ),
        over: entry(plane_id, many),
        under: entry(plane_id, one),
        bound: Bound::AtLeast(0.8),
        stretch: None,
        limit: floor_of(plane_id).map(|floor| (entry(floor, many), entry(floor, one))),
    }
}

/// Groups with less or with more members, and one of them in the same rounds.
fn groups_of_another_size(members: usize, groups: u32) -> Contest {
    let (one, many) = (unicast(members, 1, MEDIA), unicast(members, groups, MEDIA));
    let planes = [Kind::Xdp, Kind::Tc];
    let engines = with_floors(&planes);
    Contest {
        title: format!("copies of {groups} groups of {members}, {MEDIA} bytes"),
        entries: engines.iter().flat_map(|engine| [entry(*engine, one), entry(*engine, many)]).collect(),
        targets: planes.map(|plane| as_many_groups(plane, many)).into(),
        unlisted: engines.iter().map(|engine| entry(*engine, one)).collect(),
        pace: Pace::Few,
    }
}

/// What sends what came natively to a number of interfaces.
fn native(engines: &[Id], outputs: usize, payload: usize) -> Contest {
    let case = Case { output: Output::Native, members: outputs, groups: 1, payload };
    let mut targets = Vec::new();
    if outputs == MAX_OUTPUTS && payload == MEDIA {
        let ipmr = entry(Id::Ipmr, case);
        targets.push(Target {
            name: format!(
                "XDP broadcast against the kernel's ipmr, {outputs} outputs, native, {payload} bytes"
            ),
            over: entry(Id::XDP, case),
            under: ipmr,
            bound: Bound::AtLeast(4.0),
            stretch: Some(5.0),
            limit: limit_against(Id::XDP, case, ipmr),
        });
    }
    Contest {
        title: format!("copies to {outputs} interfaces, {payload} bytes"),
        entries: engines.iter().map(|engine| entry(*engine, case)).collect(),
        pace: Pace::where_there_are(&targets),
        targets,
        unlisted: Vec::new(),
    }
}
