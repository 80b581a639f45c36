use vmcast_common::fib::{Output, Tag, TagProtocol};

use super::*;
use crate::netlink::Vlan;

const ETH: Mac = [2, 0, 0, 0, 0, 1];
const PEER: Mac = [2, 0, 0, 0, 0, 9];

const fn q(id: u16) -> Option<Tag> {
    Some(Tag { protocol: TagProtocol::Dot1q, id })
}

const AD: Option<Tag> = Some(Tag { protocol: TagProtocol::Dot1ad, id: 200 });

fn link(ifindex: u32, name: &str, kind: Option<&str>, vlan: Option<(u32, Tag)>) -> Link {
    Link {
        name: name.to_owned(),
        ifindex: IfIndex(ifindex),
        mac: (kind != Some("ppp")).then_some(ETH),
        mtu: 1500,
        up: true,
        running: true,
        loopback: false,
        multicast: true,
        resolves: kind != Some("ppp"),
        bare: kind == Some("ppp"),
        kind: kind.map(str::to_owned),
        vlan: vlan.map(|(on, tag)| Vlan { on: IfIndex(on), tag }),
        master: None,
        xdp: vec![],
        addresses: vec![([10, 0, 0, 1].into(), 24)],
        addresses_v6: vec![],
    }
}

fn session(id: u16, device: &str) -> PppoeSession {
    PppoeSession { id, peer: PEER, device: device.to_owned() }
}

fn host(ppps: u32, sessions: Vec<PppoeSession>) -> Host {
    let ppps = (0..ppps).map(|number| link(20 + number, &format!("ppp{number}"), Some("ppp"), None));
    let links = [
        link(2, "eth0", None, None),
        link(3, "eth0.200", Some("vlan"), AD.map(|tag| (2, tag))),
        link(4, "eth0.200.5", Some("vlan"), q(5).map(|tag| (3, tag))),
    ];
    Host::new(links.into_iter().chain(ppps), sessions)
}

#[test]
fn a_ppp_interface_that_is_not_up_may_yet_get_its_name() {
    let down = Link { up: false, ..link(21, "ppp1", Some("ppp"), None) };
    let host = Host::new([link(2, "eth0", None, None), link(20, "ppp0", Some("ppp"), None), down], vec![]);
    assert_eq!(host.ppp_up().collect::<Vec<_>>(), [IfIndex(20)]);
}

fn interface(text: &str) -> RouterInterface {
    toml::from_str(text).unwrap()
}

/// Device, tags, session and peer.
type Found = (u32, [Option<Tag>; 2], Option<u16>, Option<Mac>);

fn place(host: &Host, text: &str) -> Result<Found, Absent> {
    let place = host.place(&interface(text))?;
    Ok((place.device.0, place.link.tags, place.link.session, place.peer))
}

#[test]
fn a_vlan_of_the_kernel_is_a_link_of_the_device_below() {
    let host = host(0, vec![]);
    assert_eq!(place(&host, "name = 'eth0'"), Ok((2, [None, None], None, None)));
    assert_eq!(place(&host, "name = 'eth0.200'"), Ok((2, [AD, None], None, None)));
    assert_eq!(place(&host, "name = 'eth0.200.5'"), Ok((2, [AD, q(5)], None, None)));
    assert!(matches!(place(&host, "name = 'eth9'"), Err(Absent::Missing { .. })));
}

#[test]
fn a_link_that_the_kernel_has_not_stands_on_its_device() {
    let host = host(0, vec![session(7, "eth0.200")]);
    let virtual_one = host.place(&interface("name = 'west'\ndevice = 'eth0'\nvlan = [7]")).unwrap();
    assert!(!virtual_one.is_kernels && virtual_one.own.addresses.is_empty());
    assert!(virtual_one.own.ifindex.0 >= FIRST_NUMBER && virtual_one.own.ifindex.0 < Output::MAX_NUMBER);
    assert_eq!((virtual_one.device, virtual_one.mac, virtual_one.own.mtu), (IfIndex(2), ETH, 1500));
    let on_vlan = "name = 'a'\ndevice = 'eth0.200'\n";
    assert_eq!(place(&host, &format!("{on_vlan}vlan = [6]")), Ok((2, [AD, q(6)], None, None)));
    let too_many = place(&host, &format!("{on_vlan}vlan = [6, 7]"));
    assert!(matches!(too_many, Err(Absent::TooManyTags { .. })));
    // Its peer is the one that the kernel lists, or the one that is stated.
    let pppoe = format!("{on_vlan}pppoe_session = 7");
    assert_eq!(place(&host, &pppoe), Ok((2, [AD, None], Some(7), Some(PEER))));
    assert_eq!(host.place(&interface(&pppoe)).unwrap().own.mtu, 1492);
    assert!(matches!(place(&host, &pppoe.replace('7', "8")), Err(Absent::NoSession { session: 8, .. })));
    let stated =
        place(&host, "name = 'b'\ndevice = 'eth0'\npppoe_session = 9\npeer_mac = '02:00:00:00:00:05'");
    assert_eq!(stated, Ok((2, [None, None], Some(9), Some([2, 0, 0, 0, 0, 5]))));
}

#[test]
fn a_ppp_interface_is_the_only_session_or_served_as_it_is_unless_it_is_told_which() {
    let one = host(1, vec![session(7, "eth0")]);
    assert_eq!(place(&one, "name = 'ppp0'"), Ok((2, [None, None], Some(7), Some(PEER))));
    for several in [
        host(2, vec![session(7, "eth0"), session(8, "eth0")]),
        host(1, vec![]),
        host(2, vec![session(7, "eth0")]),
        host(1, vec![session(7, "eth9")]),
    ] {
        assert_eq!(place(&several, "name = 'ppp0'"), Ok((20, [None, None], None, None)));
    }
    // No other interface is a session.
    assert_eq!(place(&one, "name = 'eth0'"), Ok((2, [None, None], None, None)));
    let several = host(2, vec![session(7, "eth0"), session(8, "eth0")]);
    let told = several.place(&interface("name = 'ppp0'\ndevice = 'eth0'\npppoe_session = 8")).unwrap();
    assert!(told.is_kernels);
    assert_eq!((told.own.ifindex, told.link.session, told.peer), (IfIndex(20), Some(8), Some(PEER)));
}
