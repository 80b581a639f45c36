//! A host with vmcast on its interfaces notices nothing: what is not vmcast's passes as before.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use socket2::{Domain, Protocol, Socket, Type};
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::IGMP,
    stream::{Listener, Sender, payload},
};
use crate::wire::Wire;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("unicast of every kind passes a host with vmcast untouched, into it and through it", unicast),
        trial("tagged frames pass a host with vmcast untouched", tagged),
        trial("multicast that nobody joined through vmcast reaches the host's own listeners", multicast),
    ]
}

/// A peer, the host with vmcast, and another peer behind it.
struct Line {
    peer: Namespace,
    host: Namespace,
    far: Namespace,
    _router: Role,
}

const PEER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

impl Line {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [peer, host, far] = bed.lab.namespaces(["peer", "host", "far"])?;
        bed.lab.veths(&[((&peer, "eth0"), (&host, "eth0")), ((&host, "eth1"), (&far, "eth0"))])?;
        peer.ip(
            "addr add 10.1.0.2/24 dev eth0\naddr add fd00:1::2/64 dev eth0\nroute add default via 10.1.0.1\n\
             route add default via fd00:1::1",
        )?;
        host.ip(
            "addr add 10.1.0.1/24 dev eth0\naddr add 10.2.0.1/24 dev eth1\naddr add fd00:1::1/64 dev eth0\n\
             addr add fd00:2::1/64 dev eth1\nroute add 224.0.0.0/4 dev eth0",
        )?;
        far.ip(
            "addr add 10.2.0.2/24 dev eth0\naddr add fd00:2::2/64 dev eth0\nroute add default via 10.2.0.1\n\
             route add default via fd00:2::1",
        )?;
        host.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        let tables = format!(
            "[dataplane]\nengine = \"xdp\"\n{IGMP}[[interface]]\nname = \"eth0\"\naccepts_sources = true\n\
             querier = true\n[[interface]]\nname = \"eth1\"\naccepts_sources = true\nquerier = true\n"
        );
        let mut router = bed.launcher.start(&host, "router", "rank = 0\n", &tables)?;
        wait_ready([&mut router], bed.clock)?;
        let engine = router.engine().map(|(label, _)| label);
        ensure!(engine.as_deref() != Some(Engine::Software.label()), "the engine is {engine:?}");
        Ok(Self { peer, host, far, _router: router })
    }
}

// proves that unknown traffic is passed on untouched
fn unicast(bed: &mut Bed) -> Outcome {
    let line = Line::build(bed)?;
    for to in ["10.1.0.1", "10.2.0.2", "fd00:1::1", "fd00:2::2"] {
        let to: IpAddr = to.parse()?;
        // The last does not fit a frame and goes in fragments.
        for length in [0, 56, 1400, 4000, 20_000] {
            bed.until(&format!("{to} answers a ping of {length} bytes"), || ping(&line.peer, to, length))?;
        }
    }
    // Resolved anew: ARP and neighbour discovery pass.
    line.peer.ip("neigh flush dev eth0")?;
    line.host.ip("neigh flush dev eth0")?;
    for to in ["10.1.0.1", "fd00:1::1"] {
        let to = to.parse()?;
        bed.until(&format!("{to} answers after its address was forgotten"), || ping(&line.peer, to, 56))?;
    }
    transfer(&line.peer, &line.host, HOST)?;
    transfer(&line.peer, &line.far, FAR)?;
    transfer(&line.far, &line.peer, PEER)?;
    for port in [53, 2268, 5004] {
        // On the VMR itself its own port is taken.
        if port != 2268 {
            datagrams(bed, &line.peer, &line.host, SocketAddr::from((HOST, port)))?;
        }
        datagrams(bed, &line.peer, &line.far, SocketAddr::from((FAR, port)))?;
    }
    Ok(())
}

/// Sends one echo request and says whether it came back whole.
fn ping(from: &Namespace, to: IpAddr, length: usize) -> Result<bool, Failed> {
    let (domain, protocol) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6),
    };
    let (request, reply) = if to.is_ipv4() { (8, 0) } else { (128, 129) };
    let mut message = vec![request, 0, 0, 0, 0x76, 0x6d, 0, 1];
    message.extend((0..length).map(|index| index as u8));
    if to.is_ipv4() {
        // The kernel fills in that of IPv6.
        let checksum = internet_checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    let answered = from.enter(|| -> io::Result<bool> {
        let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        socket.send_to(&message, &SocketAddr::new(to, 0).into())?;
        let mut buffer = vec![0; 65536];
        // Other ICMP of this host comes here, too.
        for _ in 0..20 {
            let Ok(received) = (&socket).read(&mut buffer) else { return Ok(false) };
            let header = if to.is_ipv4() { 20 } else { 0 };
            let bytes = buffer.get(header..received).unwrap_or_default();
            if bytes.first() == Some(&reply) && bytes.get(4..) == Some(&message[4..]) {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    Ok(answered?)
}

pub(super) fn internet_checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Carries a few megabytes over TCP and compares them.
fn transfer(client: &Namespace, server: &Namespace, address: Ipv4Addr) -> Outcome {
    let sent: Vec<u8> = (0..2000).flat_map(payload).collect();
    let listener = server.enter(|| TcpListener::bind((address, 0)))??;
    let port = listener.local_addr()?.port();
    let receiver = server.thread("tcp", move || -> io::Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    })?;
    let limit = Duration::from_secs(20);
    let mut stream = client.enter(|| TcpStream::connect_timeout(&(address, port).into(), limit))??;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(&sent)?;
    drop(stream);
    let received = receiver.join().map_err(|_| "the receiver panicked")???;
    ensure!(
        received == sent,
        "of {} bytes over TCP to {address} {} came, or others",
        sent.len(),
        received.len()
    );
    Ok(())
}

/// Asks a server on this port over UDP, as DNS does.
fn datagrams(bed: &Bed, client: &Namespace, server: &Namespace, at: SocketAddr) -> Outcome {
    let socket = server.enter(|| UdpSocket::bind(at))??;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let asker = client.enter(|| UdpSocket::bind(("0.0.0.0", 0)))??;
    asker.set_read_timeout(Some(Duration::from_millis(100)))?;
    // Each type of AMT first: on another's port, or on the way through, it is nobody's business here.
    for question in (0..8).map(|kind| [&[kind, 0][..], &payload(kind.into())].concat()) {
        bed.until(&format!("{at} answers"), || {
            let mut buffer = [0; 2048];
            asker.send_to(&question, at)?;
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { return Ok(false) };
            ensure!(buffer[..length] == question, "a question to {at} was changed");
            socket.send_to(&buffer[..length], from)?;
            let Ok((length, _)) = asker.recv_from(&mut buffer) else { return Ok(false) };
            ensure!(buffer[..length] == question, "the answer of {at} was changed");
            Ok(true)
        })?;
    }
    Ok(())
}

fn tagged(bed: &mut Bed) -> Outcome {
    let line = Line::build(bed)?;
    let near = line.host.enter(|| Wire::open("eth0"))??;
    let wire = line.peer.enter(|| Wire::open("eth0"))??;
    // A tag of 802.1Q and of 802.1ad around multicast, two in a row, and PPPoE.
    let types: [&[u8]; 4] = [
        &[0x81, 0x00, 0x00, 0x64, 0x08, 0x00],
        &[0x88, 0xa8, 0x00, 0xc8, 0x08, 0x00],
        &[0x88, 0xa8, 0x00, 0xc8, 0x81, 0x00, 0x00, 0x05, 0x08, 0x00],
        &[0x88, 0x64, 0x11, 0x00, 0x00, 0x01, 0x00, 0x40, 0x00, 0x21],
    ];
    for (number, kind) in (1..).zip(types) {
        let inner = payload(number.into());
        let frame = [&[1, 0, 0x5e, 0x40, 7, 1, 2, 0, 0, 0, 0, 1], kind, &inner].concat();
        wire.send(&frame)?;
        wire.send_sentinel(number)?;
        let passed = near.until_sentinel(number, &wire);
        let whole = passed.iter().filter(|passed| passed.ends_with(&inner)).count();
        ensure!(whole == 1, "the frame of type {kind:02x?} reached the host {whole} times");
    }
    Ok(())
}

fn multicast(bed: &mut Bed) -> Outcome {
    let line = Line::build(bed)?;
    line.peer.ip("route add 224.0.0.0/4 dev eth0")?;
    // Link-local as mDNS, SSDP, and a group that vmcast could carry.
    for (group, port) in [([224, 0, 0, 251], 5353), ([239, 255, 255, 250], 1900), ([239, 192, 9, 9], 5004)] {
        let stream = GroupPort { group: group.into(), port };
        let listener = Listener::join(&line.host, stream, None)?;
        let bystander = vmcast_lab::traffic::Witness::start(&line.far, "eth0", stream, bed.clock)?;
        bystander.forbid(true);
        let sender = Sender::start(&line.peer, PEER, stream)?;
        listener.more(bed, 100)?;
        let last = sender.stop()? - 1;
        listener.until_last(bed, last)?;
        listener.heard().is_whole().map_err(|failed| format!("{}: {failed:?}", stream.group))?;
        ensure!(bystander.stray().packets == 0, "{} was forwarded: {:?}", stream.group, bystander.stray());
    }
    Ok(())
}
