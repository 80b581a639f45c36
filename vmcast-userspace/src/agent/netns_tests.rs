//! The whole agent in a network namespace, with a relay stand-in on the far side of a wire.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    time::Duration,
};

use tokio::time::timeout;
use vmcast_api::{GroupState, Page, Request, Response, UpstreamState};
use vmcast_proto::{
    Filter, Machine,
    amt::relay::{self, Relay},
};
use vmcast_wire::ipv4;

use super::{run::Agent, tunnel::Buffers};
use crate::{
    clock,
    config::{self, AgentConfig},
    daemon::Process,
    netlink::netns::{NetNs, skip_without_root},
    sockets::{Buffer, HostMembership, UdpEndpoint},
};

/// Longer than anything here takes, so that a broken test ends.
const PATIENCE: Duration = Duration::from_secs(20);
const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 9);
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 1, 2);
const OTHER_GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 1, 1);
const PORT: u16 = 5004;

fn agent_config() -> AgentConfig {
    let text = "name = \"client\"\n[upstream]\nfrom = \"static\"\naddress = \"10.1.0.2\"\n";
    config::parse(Path::new("agent.toml"), text).expect("a configuration").0
}

/// A VMR as far as an agent sees it: an AMT relay on a socket.
struct Vmr {
    endpoint: UdpEndpoint,
    relay: Relay,
    tunnels: BTreeMap<u32, SocketAddr>,
    memberships: BTreeMap<IpAddr, Filter>,
}

impl Vmr {
    fn new() -> Self {
        let local = SocketAddr::from((Ipv4Addr::new(10, 1, 0, 2), vmcast_common::AMT_PORT));
        Self {
            endpoint: UdpEndpoint::bind(local).expect("a socket"),
            relay: Relay::new(clock::now(), relay::Config::new([5; 16])),
            tunnels: BTreeMap::new(),
            memberships: BTreeMap::new(),
        }
    }

    /// Serves until the memberships are as wanted.
    async fn serve_until(&mut self, wanted: impl Fn(&BTreeMap<IpAddr, Filter>) -> bool) {
        let mut buffer = Buffer::new();
        while !wanted(&self.memberships) {
            let heard = self.endpoint.recv(&mut buffer).await.expect("a datagram");
            let received = heard.datagram().expect("a datagram");
            let (local, remote) = (received.local, received.remote);
            let input = relay::Input::Datagram { local, remote, bytes: received.bytes };
            self.relay.handle_input(clock::now(), input);
            while let Some(output) = self.relay.poll_output() {
                match output {
                    relay::Output::Transmit { remote, bytes, .. } => {
                        self.endpoint.send(Ipv4Addr::UNSPECIFIED.into(), remote, &bytes).expect("sent");
                    }
                    relay::Output::Event(relay::Event::TunnelUp { id, remote, .. }) => {
                        self.tunnels.insert(id, remote);
                    }
                    relay::Output::Event(relay::Event::Ecn { .. }) => {}
                    relay::Output::Event(relay::Event::Membership { group, filter, .. }) => {
                        if filter.is_none() {
                            self.memberships.remove(&group);
                        } else {
                            self.memberships.insert(group, filter);
                        }
                    }
                    relay::Output::Event(relay::Event::TunnelDown { id, .. }) => {
                        self.tunnels.remove(&id);
                    }
                }
            }
        }
    }

    /// Sends one datagram of a stream to every tunnel, as AMT data (RFC 7450 §5.1.6).
    fn stream(&self, group: Ipv4Addr, ttl: u8, payload: &[u8]) {
        let mut udp = Vec::new();
        udp.extend(6000u16.to_be_bytes());
        udp.extend(PORT.to_be_bytes());
        udp.extend(((8 + payload.len()) as u16).to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        let mut bytes = vec![6, 0];
        bytes.extend(ipv4::encapsulate(SOURCE, group, ttl, 0, 17, false, &udp));
        for remote in self.tunnels.values() {
            self.endpoint.send(Ipv4Addr::UNSPECIFIED.into(), *remote, &bytes).expect("sent");
        }
    }
}

/// An application that knows nothing of vmcast.
fn player(join: Option<Ipv4Addr>) -> tokio::net::UdpSocket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).expect("a socket");
    socket.set_reuse_address(true).expect("a shared port");
    socket.set_multicast_all_v4(false).expect("only what this socket joined");
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)).into()).expect("bound");
    socket.set_nonblocking(true).expect("non-blocking");
    let socket = UdpSocket::from(socket);
    if let Some(group) = join {
        socket.join_multicast_v4(&group, &Ipv4Addr::UNSPECIFIED).expect("joined");
    }
    tokio::net::UdpSocket::from_std(socket).expect("registered")
}

/// Starts an agent that needs no certificate.
async fn start() -> anyhow::Result<Agent> {
    let config = agent_config();
    let process = Process::new(vmcast_api::Role::Agent, config.name.as_str());
    Agent::start(config, None, process).await
}

/// Drives the agent while `work` runs.
async fn drive<T>(agent: &mut Agent, work: impl Future<Output = T>) -> T {
    let (mut packet, mut datagram) = (vec![0; 65_535], Buffers::new());
    let mut work = std::pin::pin!(timeout(PATIENCE, work));
    loop {
        tokio::select! {
            done = &mut work => return done.expect("in time"),
            turn = agent.turn(&mut packet, &mut datagram) => turn.expect("the agent runs"),
        }
    }
}

#[test]
fn an_ordinary_socket_receives_its_group_through_the_agent_and_another_socket_nothing() {
    // proves A7, A14, E1, E2
    if skip_without_root("the agent") {
        return;
    }
    let (client, network) = (NetNs::new(), NetNs::new());
    client.connect("eth1", "10.1.0.1/24", &network, "eth2", "10.1.0.2/24");
    client.ip("route add default via 10.1.0.2");
    client.block_on(async || {
        let mut vmr = network.run(Vmr::new);
        let mut agent = start().await.expect("the agent");
        let joined = player(Some(GROUP));
        let other = player(Some(OTHER_GROUP));
        let idle = player(None);
        let both = |memberships: &BTreeMap<IpAddr, Filter>| memberships.len() == 2;
        drive(&mut agent, vmr.serve_until(both)).await;
        assert_eq!(vmr.memberships[&GROUP.into()], Filter::any());
        assert_eq!(vmr.tunnels.len(), 1);

        let mut room = [0; 2000];
        let count = 20;
        for n in 0..count {
            // A time to live of 1 does not keep a packet from the own host.
            vmr.stream(GROUP, if n % 2 == 0 { 1 } else { 57 }, &[n; 1316]);
        }
        for n in 0..count {
            let (len, from) = drive(&mut agent, joined.recv_from(&mut room)).await.expect("a datagram");
            assert_eq!((&room[..len], from), (&[n; 1316][..], (SOURCE, 6000).into()), "whole and in order");
        }
        for stranger in [&other, &idle] {
            assert!(stranger.try_recv_from(&mut room).is_err(), "nobody else hears it");
        }

        let Response::Status(status) = agent.answer(&Request::Status) else { panic!("a status") };
        assert_eq!(status.upstream.expect("an upstream").state, UpstreamState::Up);
        let Response::Groups(groups) =
            agent.answer(&Request::GroupList { group: None, source: None, page: Page::default() })
        else {
            panic!("groups")
        };
        let stream =
            groups.groups.iter().find(|stream| stream.group == IpAddr::from(GROUP)).expect("the stream");
        assert_eq!(
            (stream.source, stream.packets, stream.state),
            (Some(SOURCE.into()), 20, GroupState::Forwarding)
        );
        let Response::Members(members) =
            agent.answer(&Request::MemberList { group: None, page: Page::default() })
        else {
            panic!("members")
        };
        assert_eq!(members.members.len(), 2);
        let Response::Tunnels(tunnels) = agent.answer(&Request::TunnelList { page: Page::default() }) else {
            panic!("tunnels")
        };
        let SocketAddr::V4(seen) = vmr.tunnels.values().next().copied().expect("a tunnel") else { panic!() };
        assert_eq!(tunnels.tunnels[0].local, seen.into());
        let Response::Stats(stats) = agent.answer(&Request::Stats) else { panic!("stats") };
        assert_eq!(stats.control["amt_gateway"]["data"], 20);

        // A leave is at once, and what still comes for the group is dropped and counted.
        drop(joined);
        let left = |memberships: &BTreeMap<IpAddr, Filter>| !memberships.contains_key(&GROUP.into());
        drive(&mut agent, vmr.serve_until(left)).await;
        vmr.stream(GROUP, 9, b"too late");
        let unwanted = async {
            vmr.stream(OTHER_GROUP, 9, b"for the other");
            other.recv_from(&mut room).await
        };
        drive(&mut agent, unwanted).await.expect("the other group");
        let Response::Stats(stats) = agent.answer(&Request::Stats) else { panic!("stats") };
        assert_eq!(stats.control["amt_gateway"]["unwanted_data"], 1);
        assert!(idle.try_recv_from(&mut room).is_err());

        // What an application sends goes nowhere yet, and is counted.
        idle.send_to(b"data", (GROUP, PORT)).await.expect("sent into the interface");
        drive(&mut agent, tokio::time::sleep(Duration::from_millis(50))).await;
        let Response::Stats(stats) = agent.answer(&Request::Stats) else { panic!("stats") };
        assert_eq!(stats.drops["sending_not_supported"], 1);

        // The end leaves the VMR and takes the interface away.
        let mut datagram = Buffers::new();
        let nothing = |memberships: &BTreeMap<IpAddr, Filter>| memberships.is_empty();
        timeout(PATIENCE, async { tokio::join!(agent.end(&mut datagram), vmr.serve_until(nothing)) })
            .await
            .expect("in time");
        assert!(!interfaces().contains("vmcast0"));
    });
}

/// An IPv6 datagram of a stream.
fn datagram_v6(source: Ipv6Addr, group: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let header = etherparse::UdpHeader {
        source_port: 6000,
        destination_port: PORT,
        length: (8 + payload.len()) as u16,
        checksum: 0,
    };
    let checksum =
        header.calc_checksum_ipv6_raw(source.octets(), group.octets(), payload).expect("a checksum");
    let udp = [&etherparse::UdpHeader { checksum, ..header }.to_bytes()[..], payload].concat();
    vmcast_wire::ipv6::encapsulate(source, group, 9, 0, 17, false, &udp)
}

// proves E2 on IPv6: the route brings the join to the interface, and the agent is MLD router there
#[test]
fn an_application_joins_an_ipv6_group_and_gets_it_by_the_interface_that_its_route_names() {
    if skip_without_root("IPv6 groups of the agent") {
        return;
    }
    let (client, network) = (NetNs::new(), NetNs::new());
    client.connect("eth1", "10.1.0.1/24", &network, "eth2", "10.1.0.2/24");
    let group = Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, 0x1234);
    let (source, other) =
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 8));
    client.block_on(async || {
        let mut agent = start().await.expect("the agent");
        let joined = |agent: &mut Agent| {
            let request = Request::MemberList { group: Some(group.into()), page: Page::default() };
            let Response::Members(members) = agent.answer(&request) else { panic!("members") };
            members.members.into_iter().map(|member| member.filter.sources).collect::<Vec<_>>()
        };
        let player = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bound");
        player.set_nonblocking(true).expect("non-blocking");
        let player = tokio::net::UdpSocket::from_std(player).expect("registered");
        let mut membership = HostMembership::new(agent.host.ifindex);
        membership.set(group.into(), &Filter::Include([source.into()].into())).expect("joined");
        // No interface is named: the route decides, though eth1 has ff00::/8 as well.
        let routed = Ipv6Addr::new(0xff35, 0, 0, 0, 0, 0, 0, 7);
        player.join_multicast_v6(&routed, 0).expect("joined where the route leads");
        for _ in 0..100 {
            drive(&mut agent, tokio::time::sleep(Duration::from_millis(50))).await;
            if !joined(&mut agent).is_empty() {
                break;
            }
        }
        assert_eq!(joined(&mut agent), [[IpAddr::from(source)]]);
        let mut room = [0; 2000];
        for (from, payload) in [(other, b"of another source"), (source, b"what was wanted..")] {
            agent.host.tun.send(&datagram_v6(from, group, payload)).expect("handed over");
        }
        let (length, from) = drive(&mut agent, player.recv_from(&mut room)).await.expect("a datagram");
        assert_eq!((&room[..length], from.ip()), (&b"what was wanted.."[..], source.into()));

        assert!(igmp6().lines().any(|line| line.contains("vmcast0") && line.contains("ff35000000000000")));
        membership.set(group.into(), &Filter::none()).expect("left");
        for _ in 0..100 {
            drive(&mut agent, tokio::time::sleep(Duration::from_millis(50))).await;
            if joined(&mut agent).is_empty() {
                break;
            }
        }
        assert_eq!(joined(&mut agent), Vec::<Vec<IpAddr>>::new());
        assert!(player.try_recv_from(&mut room).is_err(), "nothing else came");
    });
}

/// The IPv6 groups of every interface.
fn igmp6() -> String {
    std::fs::read_to_string("/proc/thread-self/net/igmp6").expect("the groups")
}

fn interfaces() -> String {
    std::fs::read_to_string("/proc/thread-self/net/dev").expect("the interfaces")
}

#[test]
fn a_second_agent_on_the_host_is_refused_with_a_hint() {
    if skip_without_root("a second agent") {
        return;
    }
    let client = NetNs::new();
    client.block_on(async || {
        let _first = start().await.expect("the first agent");
        let error = start().await.err().expect("the second is refused");
        assert!(format!("{error:#}").contains("one host needs only one"), "{error:#}");
    });
}
