//! What is stated, through the machines of a VMR.

use vmcast_common::fib::{EngineWish, FibOp, Link, Members, Rpf};
use vmcast_proto::{
    amt::relay,
    membership::{self, Family},
    mrib,
};
use vmcast_wire::igmp as wire;

use super::*;
use crate::{
    config::RouterConfig,
    router::core::{Core, Effect, Queriers, Settings},
};

const EAST: IfIndex = IfIndex(7);
const WEST: IfIndex = IfIndex(8);
const STATIC: TunnelId = TunnelId(FIRST_TUNNEL);

/// Interfaces `east`, which accepts sources, and `west`, and a tunnel `far` that does.
const CONFIG: &str = "rank = 0
    [[interface]]
    name = 'east'
    accepts_sources = true
    [[interface]]
    name = 'west'
    [[static_tunnel]]
    name = 'far'
    kind = 'gre'
    key = 7
    local = '192.0.2.1'
    remote = '203.0.113.9'
    accepts_sources = true
    [[forward]]
    group = '239.1.2.3'
    ";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn any() -> Stream {
    Stream { source: None, group: ip("239.1.2.3") }
}

fn interface(ifindex: IfIndex) -> Interface {
    Interface {
        ifindex,
        device: IfIndex(2),
        link: Link { tags: [None, None], session: Some(ifindex.0 as u16) },
        peer: Some([2; 6]),
        mac: [4; 6],
        mtu: 1492,
        accepts_sources: ifindex == EAST,
        shared: false,
        engine: EngineWish::Any,
        xdp_members: None,
    }
}

struct Bed {
    now: Instant,
    core: Core,
}

impl Bed {
    fn new(forward: &str) -> Self {
        let config: RouterConfig = toml::from_str(&format!("{CONFIG}{forward}")).unwrap();
        let now = crate::clock::now();
        let settings = Settings {
            relay: relay::Config::new([1; 16]),
            mrib: mrib::Config::default(),
            discover: false,
            relays: None,
            seed: [2; 16],
            record: None,
        };
        let mut core = Core::new(now, settings);
        core.state(Stated::new(now, &config.static_tunnels, &config.forwards));
        let mut bed = Self { now, core };
        bed.appear("east", EAST);
        bed.appear("west", WEST);
        bed
    }

    fn appear(&mut self, name: &str, ifindex: IfIndex) {
        self.core.stated.add_interface(name, ifindex);
        let configs = (ifindex == WEST).then(membership::Config::default).into_iter().collect();
        let querier = Queriers { configs, ..Queriers::default() };
        let addresses = [([192, 0, 2, 65].into(), 26)];
        self.core.set_interface(self.now, interface(ifindex), &addresses, querier).unwrap();
    }

    fn effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.core.poll_effect()).collect()
    }

    /// Changes of streams and members.
    fn streams(&mut self) -> Vec<FibOp> {
        let is_of_stream = |op: &FibOp| {
            matches!(
                op,
                FibOp::SetStream(..)
                    | FibOp::RemoveStream(_)
                    | FibOp::AddMember(..)
                    | FibOp::RemoveMember(..)
            )
        };
        let ops = self.effects().into_iter().filter_map(|effect| match effect {
            Effect::Fib(op) => Some(op),
            _ => None,
        });
        ops.filter(is_of_stream).collect()
    }

    fn report(&mut self, record_type: wire::RecordType) {
        let record = wire::Record { record_type, group: [239, 1, 2, 3].into(), sources: vec![] };
        let payload = wire::Message::ReportV3 { records: vec![record] }.emit();
        let input = membership::Input::Datagram {
            source: [192, 0, 2, 66].into(),
            link_source: None,
            link_unicast: false,
            stranger: false,
            destination: wire::ALL_IGMPV3_ROUTERS.into(),
            ttl: 1,
            router_alert: true,
            payload: &payload,
        };
        self.core.membership_input(self.now, WEST, Family::V4, input);
    }
}

fn set(rpf: Rpf) -> FibOp {
    FibOp::SetStream(any(), rpf, Members::Own)
}

fn add(output: Output) -> FibOp {
    FibOp::AddMember(any(), output)
}

#[test]
fn a_static_tunnel_gets_its_copies_once_the_way_to_it_is_known() {
    let mut bed = Bed::new("to = ['far']");
    let effects = bed.effects();
    let tunnel = effects.iter().find_map(|effect| match effect {
        Effect::Fib(FibOp::SetTunnel(STATIC, tunnel)) => Some(*tunnel),
        _ => None,
    });
    let tunnel = tunnel.expect("the tunnel, for what comes out of it");
    assert_eq!((tunnel.kind, tunnel.next_hop), (vmcast_common::fib::TunnelKind::Gre(Some(7)), None));
    assert!(effects.contains(&Effect::Watch(ip("203.0.113.9"))));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Fib(FibOp::AddMember(..)))));
    bed.core.assign_stated(bed.now, ip("203.0.113.9"), Some(NextHopId(1)), false);
    let ops = bed.effects();
    let way = Tunnel { next_hop: Some(NextHopId(1)), ..tunnel };
    assert_eq!(ops[0], Effect::Fib(FibOp::SetTunnel(STATIC, way)));
    assert!(ops.contains(&Effect::Fib(add(Output::Tunnel(STATIC)))), "{ops:?}");
    assert_eq!(bed.core.stated.groups_of(STATIC), 1);
}

#[test]
fn an_output_that_is_stated_and_joins_is_one_member_until_it_has_gone() {
    let mut bed = Bed::new("to = ['west']");
    assert_eq!(bed.streams(), [set(Rpf::AnyUpstream), add(Output::Interface(WEST))]);
    bed.report(wire::RecordType::ChangeToExcludeMode);
    bed.report(wire::RecordType::ChangeToIncludeMode);
    assert_eq!(bed.streams(), []);
    bed.core.remove_interface(bed.now, WEST);
    let member = Output::Interface(WEST);
    assert_eq!(bed.streams(), [FibOp::RemoveMember(any(), member), FibOp::RemoveStream(any())]);
    // It comes back under another number.
    bed.appear("west", IfIndex(9));
    assert_eq!(bed.streams(), [set(Rpf::AnyUpstream), add(Output::Interface(IfIndex(9)))]);
}

#[test]
fn a_stream_with_an_origin_is_taken_and_asked_for_there_alone() {
    let mut bed = Bed::new("from = 'far'\nto = ['west']");
    let effects = bed.effects();
    let rpf = Rpf::Exact(Input::Tunnel(STATIC));
    assert!(effects.contains(&Effect::Fib(set(rpf))), "{effects:?}");
    let asked = effects
        .iter()
        .any(|effect| matches!(effect, Effect::HostMembership { filter, .. } if !filter.is_none()));
    assert!(!asked, "the network of east is not asked for what comes from elsewhere");

    let mut bed = Bed::new("from = 'east'\nto = ['west']");
    let effects = bed.effects();
    assert!(effects.contains(&Effect::Fib(set(Rpf::Exact(Input::Interface(EAST))))), "{effects:?}");
    let group = [239, 1, 2, 3].into();
    let membership = Effect::HostMembership { ifindex: EAST, group, filter: Filter::any() };
    assert!(effects.contains(&membership), "{effects:?}");
    // From an interface that is gone comes nothing, and nothing is taken from elsewhere instead.
    bed.core.remove_interface(bed.now, EAST);
    let ops = bed.streams();
    assert_eq!(ops.last(), Some(&FibOp::RemoveStream(any())), "{ops:?}");
}

#[test]
fn a_neighbour_is_a_member_while_it_is_one_and_follows_its_next_hop() {
    let mut bed = Bed::new("to = [{ neighbour = '10.5.0.11' }]");
    let assign = |bed: &mut Bed, id: Option<u32>, direct| {
        bed.core.assign_stated(bed.now, ip("10.5.0.11"), id.map(NextHopId), direct);
        bed.streams()
    };
    assert_eq!(bed.streams(), []);
    assert_eq!(assign(&mut bed, Some(1), false), [], "a gateway is not the neighbour");
    let neighbour = |id| Output::Neighbour(NextHopId(id));
    assert_eq!(assign(&mut bed, Some(1), true), [set(Rpf::AnyUpstream), add(neighbour(1))]);
    let moved = assign(&mut bed, Some(2), true);
    assert!(moved.contains(&FibOp::RemoveMember(any(), neighbour(1))), "{moved:?}");
    assert_eq!(moved.last(), Some(&add(neighbour(2))));
    let gone = assign(&mut bed, None, false);
    assert_eq!(gone, [FibOp::RemoveMember(any(), neighbour(2)), FibOp::RemoveStream(any())]);
}

#[test]
fn a_host_by_its_link_layer_address_is_reached_over_the_link_of_its_interface() {
    let mut bed =
        Bed::new("source = '198.51.100.7'\nto = [{ mac = '02:00:5e:00:53:01', interface = 'west' }]");
    let effects = bed.effects();
    let id = NextHopId(FIRST_NEXT_HOP);
    let hop = NextHop {
        ifindex: IfIndex(2),
        link: interface(WEST).link,
        source_mac: [4; 6],
        destination_mac: Some([2, 0, 0x5e, 0, 0x53, 1]),
        mtu: 1492,
    };
    let at = |wanted: FibOp| {
        effects
            .iter()
            .position(|effect| *effect == Effect::Fib(wanted))
            .unwrap_or_else(|| panic!("{effects:?}"))
    };
    let one = Stream { source: Some(ip("198.51.100.7")), ..any() };
    assert!(at(FibOp::SetNextHop(id, hop)) < at(FibOp::AddMember(one, Output::Neighbour(id))));
    bed.core.remove_interface(bed.now, WEST);
    let ops: Vec<_> = bed.effects();
    let at =
        |wanted: FibOp| ops.iter().position(|effect| *effect == Effect::Fib(wanted)).expect("an operation");
    assert!(at(FibOp::RemoveMember(one, Output::Neighbour(id))) < at(FibOp::RemoveNextHop(id)));
}

#[test]
fn a_source_with_an_origin_of_its_own_is_asked_for_there_and_not_elsewhere() {
    let mut stated = Stated::default();
    let (here, there) = (Input::Interface(EAST), Input::Tunnel(STATIC));
    let (a, b, group) = (ip("198.51.100.1"), ip("198.51.100.2"), any().group);
    let include = |sources: &[IpAddr]| Filter::Include(sources.iter().copied().collect());
    assert_eq!(stated.asked_for(group, &Filter::any(), here), Filter::any());
    stated.in_force.inputs.insert(Stream { source: Some(a), group }, Rpf::Exact(there));
    assert_eq!(stated.asked_for(group, &Filter::any(), here), Filter::Exclude([a].into()));
    assert_eq!(stated.asked_for(group, &Filter::any(), there), Filter::any());
    assert_eq!(stated.asked_for(group, &include(&[a, b]), here), include(&[b]));
    assert_eq!(stated.asked_for(group, &include(&[b]), here), include(&[b]));
    stated.in_force.inputs.insert(any(), Rpf::Exact(here));
    assert_eq!(stated.asked_for(group, &Filter::any(), there), include(&[a]));
    assert_eq!(stated.asked_for(group, &include(&[b]), there), Filter::none());
    assert_eq!(stated.asked_for(ip("239.9.9.9"), &Filter::any(), there), Filter::any());
}

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn converted(id: u32) -> Output {
    Output::Converted(ConversionId(id))
}

fn position(effects: &[Effect], wanted: FibOp) -> usize {
    let found = effects.iter().position(|effect| *effect == Effect::Fib(wanted));
    found.unwrap_or_else(|| panic!("{wanted:?} is not in {effects:?}"))
}

#[test]
fn a_host_by_other_addresses_gets_copies_once_the_way_was_looked_up_and_follows_it() {
    let mut bed = Bed::new("to = [{ convert_to = '10.5.0.11:5004', source = '192.0.2.65:5000' }]");
    assert!(bed.core.awaits_ways());
    let effects = bed.effects();
    assert!(effects.contains(&Effect::Watch(ip("10.5.0.11"))), "{effects:?}");
    let members = |effects: &[Effect]| {
        effects.iter().filter(|effect| matches!(effect, Effect::Fib(FibOp::AddMember(..)))).count()
    };
    assert_eq!(members(&effects), 0);
    let by = |way| {
        let (source, destination) = (Some(end("192.0.2.65:5000")), end("10.5.0.11:5004"));
        FibOp::SetConversion(ConversionId(0), Conversion { source, destination, way: Way::NextHop(way) })
    };
    let assign = |bed: &mut Bed, id: Option<u32>| {
        bed.core.assign_stated(bed.now, ip("10.5.0.11"), id.map(NextHopId), false);
        bed.effects()
    };
    // No way: the copies are dropped, counted and seen.
    let effects = assign(&mut bed, None);
    assert!(position(&effects, by(None)) < position(&effects, add(converted(0))));
    assert_eq!(assign(&mut bed, Some(7)), [Effect::Fib(by(Some(NextHopId(7))))]);
    assert!(bed.core.awaits_ways(), "the neighbour is not known");
    assert_eq!(assign(&mut bed, Some(7)), []);
    assert_eq!(assign(&mut bed, None), [Effect::Fib(by(None))]);
}

#[test]
fn another_group_leaves_by_an_interface_while_it_is_there() {
    let mut bed = Bed::new("to = [{ convert_to = '239.9.9.9:5004', interface = 'west' }]");
    let by = |ifindex| {
        let (source, destination) = (None, end("239.9.9.9:5004"));
        FibOp::SetConversion(
            ConversionId(0),
            Conversion { source, destination, way: Way::Interface(ifindex) },
        )
    };
    let effects = bed.effects();
    let set = position(&effects, FibOp::SetInterface(interface(WEST)));
    assert!(set < position(&effects, by(WEST)));
    assert!(position(&effects, by(WEST)) < position(&effects, add(converted(0))));
    bed.core.remove_interface(bed.now, WEST);
    let effects = bed.effects();
    let removed = position(&effects, FibOp::RemoveConversion(ConversionId(0)));
    assert!(position(&effects, FibOp::RemoveMember(any(), converted(0))) < removed);
    assert!(removed < position(&effects, FibOp::RemoveInterface(WEST)));
    bed.appear("west", IfIndex(9));
    let effects = bed.effects();
    assert!(position(&effects, by(IfIndex(9))) < position(&effects, add(converted(0))));
}

#[test]
fn one_destination_of_several_sources_is_one_member() {
    let of = |source: &str| format!("source = '{source}'\nto = [{{ convert_to = '10.5.0.11:5004' }}]\n");
    let tables = format!("{}[[forward]]\ngroup = '239.1.2.3'\n{}", of("198.51.100.1"), of("198.51.100.2"));
    let mut bed = Bed::new(&tables);
    bed.core.assign_stated(bed.now, ip("10.5.0.11"), None, false);
    bed.streams();
    let members: Vec<_> = bed.core.mrib.members_of(any().group).collect();
    assert_eq!(members.len(), 1, "{members:?}");
    assert_eq!((members[0].member, bed.core.stated.conversions().len()), (converted(0), 1));
    let sources = [ip("198.51.100.1"), ip("198.51.100.2")];
    assert_eq!(members[0].filter, Filter::Include(sources.into()));
}

// proves C2: an encoder that sends by unicast may be anywhere behind an interface that accepts sources
#[test]
fn a_stream_by_unicast_is_asked_for_nowhere_and_taken_by_every_interface_that_accepts_sources() {
    let mut bed = Bed::new("from = { unicast = '192.0.2.65:6000', group_port = 5004 }\nto = ['west']");
    let upstream = (end("192.0.2.1:40000"), end("203.0.113.1:2268"));
    bed.core.set_upstream(bed.now, Some(upstream));
    let effects = bed.effects();
    assert!(effects.contains(&Effect::Fib(set(Rpf::AnyUpstream))), "{effects:?}");
    let asked = effects
        .iter()
        .any(|effect| matches!(effect, Effect::HostMembership { filter, .. } if !filter.is_none()));
    assert!(!asked, "{effects:?}");
    let learnt = Stream { source: Some(ip("198.51.100.7")), ..any() };
    let punt = vmcast_dataplane::Punt {
        reason: vmcast_common::verdict::PuntReason::NewSource,
        input: Input::Interface(EAST),
        stream: learnt,
    };
    bed.core.punt(bed.now, punt);
    assert_eq!(bed.streams(), [FibOp::SetStream(learnt, Rpf::AnyUpstream, Members::OfAnySource)]);
    assert_eq!(bed.core.stated.unicast_input(learnt), Some(end("192.0.2.65:6000")));

    let (endpoint, group) = (end("192.0.2.65:6000"), end("239.1.2.3:5004"));
    bed.core.add_unicast_input(endpoint);
    assert_eq!(bed.effects(), [Effect::Fib(FibOp::SetUnicastInput { endpoint, group })]);
    let wanted = crate::router::reconcile::wanted(&bed.core);
    assert_eq!(wanted.unicast_inputs, [(endpoint, group)].into());
    bed.core.remove_unicast_input(endpoint);
    bed.core.remove_unicast_input(endpoint);
    assert_eq!(bed.effects(), [Effect::Fib(FibOp::RemoveUnicastInput(endpoint))]);
    bed.core.add_unicast_input(end("192.0.2.65:6001"));
    assert_eq!(bed.effects(), [], "nothing is stated of that port");
}
