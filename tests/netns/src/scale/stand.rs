//! The place of a plane with many members: an interface that packets come in by, others that copies go out
//! by, and one socket that sees what comes out of any of them.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, OwnedFd},
    process::Command,
    sync::mpsc,
    thread,
};

use etherparse::PacketBuilder;
use nix::{
    errno::Errno,
    ifaddrs::getifaddrs,
    net::if_::if_nametoindex,
    sys::socket::{LinkAddr, recvfrom, setsockopt, sockopt},
};
use socket2::{Domain, Protocol, Socket, Type};
use vmcast_common::{
    AMT_PORT,
    fib::{
        EcnMode, EngineWish, FibOp, IfIndex, Input, Interface, Link, Members, NextHop, NextHopId, Rpf,
        Stream, Tunnel, TunnelId, TunnelKind,
    },
    hdr::eth::{multicast_mac, multicast_mac_v6},
};
use vmcast_lab::{Lab, LabError, Namespace, netns::Plug, traffic::packet_socket_on_all};

use crate::wire::Wire;

/// Sources have this address and those behind it.
const SOURCE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// UDP port of the first member of a device; those of the others follow.
const FIRST_PORT: u16 = 10_000;
const UDP_PORT: u16 = 5004;
const TTL: u8 = 16;
const MTU: u16 = 1500;
/// Ethernet, IPv4, UDP and the two bytes of AMT data.
const OUTER: usize = 14 + 20 + 8 + 2;

/// The version of IP of what is sent to the groups; tunnels are over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// How tests are named after it.
    pub(super) const fn of_name(self) -> &'static str {
        match self {
            Self::V4 => "",
            Self::V6 => " by IPv6",
        }
    }

    /// Bytes of an IP header, and where the last byte of the source's and of the group's address stand in it.
    const fn header(self) -> (usize, usize, usize) {
        match self {
            Self::V4 => (20, 15, 19),
            Self::V6 => (40, 23, 39),
        }
    }

    /// A packet without what numbers it (RFC 6864) and the checksum of that.
    fn unnumbered(self, packet: &[u8]) -> Vec<u8> {
        let mut packet = packet.to_vec();
        if self == Self::V4 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        packet
    }

    fn source(self, number: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(source(number)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7 + u16::from(number))),
        }
    }

    fn group(self, number: u16) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(group(number)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, number)),
        }
    }
}

/// A member, by its device and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Member {
    pub(super) device: u8,
    pub(super) number: u16,
}

impl Member {
    pub(super) fn id(self) -> TunnelId {
        TunnelId(u32::from(self.device) << 16 | u32::from(self.number))
    }

    /// What makes it known to a plane.
    pub(super) fn tunnel(self) -> FibOp {
        let tunnel = Tunnel {
            kind: TunnelKind::Amt,
            local: SocketAddr::from((near(self.device), AMT_PORT)),
            remote: SocketAddr::from((far(self.device), FIRST_PORT + self.number)),
            ecn: EcnMode::Compatibility,
            accepts_sources: false,
            next_hop: Some(NextHopId(self.device.into())),
        };
        FibOp::SetTunnel(self.id(), tunnel)
    }
}

/// A copy that came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) member: Member,
    pub(super) source: u8,
    pub(super) group: u16,
    pub(super) number: u64,
}

/// The plane's end of a cable, and the link-layer address of the other.
#[derive(Clone, Copy, Debug)]
struct Cable {
    ifindex: IfIndex,
    mac: [u8; 6],
    far_mac: [u8; 6],
}

/// The plane's namespace and what is around it.
pub(super) struct Stand {
    dut: Namespace,
    far: Namespace,
    ingress: Vec<Cable>,
    egress: Vec<Cable>,
    /// Our devices by the number of their far ends.
    devices: BTreeMap<usize, u8>,
    sources: Vec<Wire>,
    sink: OwnedFd,
    family: Family,
    _lab: Lab,
}

/// One of the plane's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Ingress(usize),
    Egress(usize),
}

fn near(device: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, device, 1)
}

fn far(device: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 200, device, 2)
}

fn group(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(239, 200, high, low)
}

fn source(number: u8) -> Ipv4Addr {
    let [a, b, c, first] = SOURCE.octets();
    Ipv4Addr::new(a, b, c, first + number)
}

/// What a source sends to a group.
pub(super) fn stream_of(number: u8, group_number: u16) -> Stream {
    Stream { source: Some(IpAddr::V4(source(number))), ..any_source(group_number) }
}

/// What any source sends to a group.
pub(super) fn any_source(number: u16) -> Stream {
    Stream { source: None, group: IpAddr::V4(group(number)) }
}

impl Stand {
    pub(super) fn build(name: &str, devices: u8) -> Result<Self, LabError> {
        Self::build_with(name, 1, devices, Lab::veths)
    }

    /// One whose sources and groups have addresses of a family.
    pub(super) fn of_family(name: &str, devices: u8, family: Family) -> Result<Self, LabError> {
        Ok(Self { family, ..Self::build(name, devices)? })
    }

    /// What the first source sends to a group.
    pub(super) fn stream(&self, number: u16) -> Stream {
        Stream { source: Some(self.family.source(0)), group: self.family.group(number) }
    }

    /// One with several interfaces that packets come in by, each with a queue for every one of them. A frame
    /// that one of the first so many cores sends into the plane takes the queue of that core.
    pub(super) fn with_queues(name: &str, ingresses: usize, devices: u8) -> Result<Self, LabError> {
        let stand =
            Self::build_with(name, ingresses, devices, |lab, cables| lab.veths_of_queues(cables, ingresses))?;
        for ingress in 0..ingresses {
            for queue in 0..ingresses {
                let core = format!("{:x}", 1u32 << queue);
                // `ip netns exec` shows the namespace's own devices below /sys.
                let mut set = Command::new("ip");
                set.args(["netns", "exec", stand.far.name(), "sh", "-c"]);
                set.arg(format!("echo {core} > /sys/class/net/in{ingress}/queues/tx-{queue}/xps_cpus"));
                stand.far.run(set)?;
            }
        }
        Ok(stand)
    }

    fn build_with(
        name: &str,
        ingresses: usize,
        devices: u8,
        lay: impl FnOnce(&Lab, &[(Plug<'_>, Plug<'_>)]) -> Result<(), LabError>,
    ) -> Result<Self, LabError> {
        let mut lab = Lab::new(name)?;
        let [dut, far] = lab.namespaces(["dut", "far"])?;
        for namespace in [&dut, &far] {
            namespace
                .sysctl(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
        }
        let ingress_names = || (0..ingresses).map(|ingress| format!("in{ingress}"));
        let names: Vec<String> =
            ingress_names().chain((0..devices).map(|device| format!("e{device}"))).collect();
        let cables: Vec<_> =
            names.iter().map(|name| ((&dut, name.as_str()), (&far, name.as_str()))).collect();
        lay(&lab, &cables)?;
        let mut lines = String::new();
        for device in 0..devices {
            writeln!(lines, "addr add {}/24 dev e{device}", near(device)).expect("writing to a string");
        }
        dut.ip(&lines)?;
        let (here, there) = (dut.enter(|| interfaces(&names))?, far.enter(|| interfaces(&names))?);
        let mut egress: Vec<Cable> = here
            .iter()
            .zip(&there)
            .map(|(here, there)| Cable { ifindex: IfIndex(here.0), mac: here.1, far_mac: there.1 })
            .collect();
        let ingress = egress.drain(..ingresses).collect();
        let devices = there[ingresses..].iter().map(|there| there.0 as usize).zip(0..).collect();
        let open = || -> io::Result<_> {
            let sources = ingress_names().map(|name| Wire::open(&name)).collect::<io::Result<_>>()?;
            Ok((sources, packet_socket_on_all()?))
        };
        let (sources, sink) = far.enter(open)?.map_err(LabError::io("opening packet sockets"))?;
        Ok(Self { dut, far, ingress, egress, devices, sources, sink, family: Family::V4, _lab: lab })
    }

    /// What a plane must know of the stand before any member.
    pub(super) fn base(&self) -> Vec<FibOp> {
        self.base_at(|_| false)
    }

    /// The same, with some interfaces that ask to be served at TC.
    pub(super) fn base_at(&self, at_tc: impl Fn(Port) -> bool) -> Vec<FibOp> {
        let interface = |port: Port, cable: &Cable| {
            FibOp::SetInterface(Interface {
                ifindex: cable.ifindex,
                device: cable.ifindex,
                link: Link::PLAIN,
                peer: None,
                mac: cable.mac,
                mtu: MTU,
                accepts_sources: matches!(port, Port::Ingress(_)),
                engine: if at_tc(port) { EngineWish::Tc } else { EngineWish::Any },
                xdp_members: None,
                shared: false,
            })
        };
        let next_hop = |(id, cable): (u32, &Cable)| {
            let hop = NextHop {
                ifindex: cable.ifindex,
                link: Link::PLAIN,
                source_mac: cable.mac,
                destination_mac: Some(cable.far_mac),
                mtu: MTU,
            };
            FibOp::SetNextHop(NextHopId(id), hop)
        };
        let ingress = self.ingress.iter().enumerate().map(|(at, cable)| interface(Port::Ingress(at), cable));
        let egress = self.egress.iter().enumerate().map(|(at, cable)| interface(Port::Egress(at), cable));
        ingress.chain(egress).chain((0..).zip(&self.egress).map(next_hop)).collect()
    }

    /// What makes a stream known that comes in by our first interface.
    pub(super) fn set_stream(&self, number: u16) -> FibOp {
        FibOp::SetStream(self.stream(number), self.only_from(0), Members::Own)
    }

    /// The rule that packets come in by one interface alone.
    pub(super) fn only_from(&self, ingress: usize) -> Rpf {
        Rpf::Exact(Input::Interface(self.ingress[ingress].ifindex))
    }

    /// Sends a packet of a group into the plane.
    pub(super) fn send(&self, group: u16, number: u64) -> io::Result<()> {
        self.send_from(0, 0, group, number)
    }

    /// Sends packets of a group that come into the plane at once: the kernel cuts them apart after they have been handed
    /// to the device.
    pub(super) fn send_at_once(
        &self,
        group_number: u16,
        numbers: std::ops::Range<u64>,
    ) -> Result<(), LabError> {
        let size: libc::c_int = size_of::<u64>() as libc::c_int;
        let address = format!("addr replace {SOURCE}/24 dev in0");
        self.far.ip(&address)?;
        let send = || -> io::Result<()> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::from((SOURCE, UDP_PORT)).into())?;
            socket.set_multicast_if_v4(&SOURCE)?;
            socket.set_multicast_ttl_v4(TTL.into())?;
            setsockopt(&socket, sockopt::UdpGsoSegment, &size)?;
            let numbers: Vec<u64> = numbers.collect();
            // As many as the kernel takes in one call (`UDP_MAX_SEGMENTS`, 64 before Linux 6.9).
            for numbers in numbers.chunks(64) {
                let packets: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
                socket.send_to(&packets, &SocketAddr::from((group(group_number), UDP_PORT)).into())?;
            }
            Ok(())
        };
        self.far.enter(send)?.map_err(LabError::io("sending packets at once"))
    }

    /// The kernel's number of a device that copies go out by.
    pub(super) fn device(&self, device: u8) -> IfIndex {
        self.egress[usize::from(device)].ifindex
    }

    /// Gives a device a queueing discipline, which counts what it sends.
    pub(super) fn queue(&self, device: u8) -> Result<(), String> {
        self.tc(&format!("qdisc add dev e{device} root pfifo limit 1000")).map(drop)
    }

    fn tc(&self, line: &str) -> Result<String, String> {
        let mut command = Command::new("tc");
        command.args(line.split_whitespace());
        let output = self.dut.run(command).map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(format!("tc {line}: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How many frames a device's queueing discipline has sent.
    pub(super) fn sent_by_queue(&self, device: u8) -> Result<u64, String> {
        let said = self.tc(&format!("-s qdisc show dev e{device}"))?;
        let mut words = said.split_whitespace().skip_while(|word| *word != "Sent");
        words.nth(3).and_then(|packets| packets.parse().ok()).ok_or_else(|| format!("tc said {said}"))
    }

    /// How many copies had no room in the socket that sees them, since it was last asked.
    pub(super) fn unseen(&self) -> io::Result<u64> {
        let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut size = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the value and its size outlive the call.
        let got = unsafe {
            libc::getsockopt(
                self.sink.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut size,
            )
        };
        if got < 0 { Err(io::Error::last_os_error()) } else { Ok(statistics.tp_drops.into()) }
    }

    /// Sends a packet of a source into one of the plane's interfaces.
    pub(super) fn send_from(&self, ingress: usize, source: u8, group: u16, number: u64) -> io::Result<()> {
        self.sources[ingress].send(&frame(self.family, source, group, number, TTL))
    }

    /// The next copy that waits, if one does.
    ///
    /// # Errors
    /// If what comes out is no copy of what was sent, or came out of the wrong device.
    pub(super) fn receive(&self) -> Result<Option<Copy>, String> {
        let mut buffer = [0; 2048];
        loop {
            match recvfrom::<LinkAddr>(self.sink.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let frame = &buffer[..length];
                    let ifindex = from.map_or(0, |from| from.ifindex());
                    match self.devices.get(&ifindex) {
                        Some(&device) => return self.copy(device, frame).map(Some),
                        None => return Err(format!("out of no device of ours came {frame:02x?}")),
                    }
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(format!("reading copies: {error}")),
            }
        }
    }

    fn copy(&self, device: u8, bytes: &[u8]) -> Result<Copy, String> {
        let strange = || format!("out of device {device} came {bytes:02x?}");
        let cable = &self.egress[usize::from(device)];
        let (header, source_at, group_at) = self.family.header();
        let inner = bytes.get(OUTER..).filter(|inner| inner.len() >= header + 16).ok_or_else(strange)?;
        let right = bytes[..6] == cable.far_mac
            && bytes[6..12] == cable.mac
            && bytes[26..30] == near(device).octets()
            && bytes[30..34] == far(device).octets()
            && bytes[34..36] == AMT_PORT.to_be_bytes();
        let port = u16::from_be_bytes([bytes[36], bytes[37]]);
        let number = u64::from_be_bytes(*inner[header + 8..].first_chunk().ok_or_else(strange)?);
        let source = inner[source_at].wrapping_sub(source(0).octets()[3]);
        let group = u16::from_be_bytes([inner[group_at - 1], inner[group_at]]);
        // Whole and unchanged, but for its TTL; the kernel numbers what it sends at once.
        let sent = frame(self.family, source, group, number, TTL - 1);
        let unlike = self.family.unnumbered(inner) != self.family.unnumbered(&sent[14..]);
        if !right || port < FIRST_PORT || unlike {
            return Err(strange());
        }
        Ok(Copy { member: Member { device, number: port - FIRST_PORT }, source, group, number })
    }
}

/// What came of a plane and of what was done beside it.
pub(super) struct Done<S, W, L> {
    /// Of the packets that were sent meanwhile.
    pub(super) served: Result<S, String>,
    /// Of the work on the plane.
    pub(super) worked: W,
    /// Of a last look at it.
    pub(super) seen: L,
}

/// Sets a plane up in a thread that lives in its namespace, and lets `work` change it there while `serve` sends
/// packets here; then `look` sees the plane once more.
///
/// # Errors
/// If the plane cannot be set up, or `work` or `look` fails.
pub(super) fn beside<P, S, W: Send, L: Send>(
    stand: &Stand,
    set_up: impl FnOnce() -> Result<P, String> + Send,
    work: impl FnOnce(&mut P) -> Result<W, String> + Send,
    look: impl FnOnce(&mut P) -> Result<L, String> + Send,
    serve: impl FnOnce() -> Result<S, String>,
) -> Result<Done<S, W, L>, String> {
    let (told, ready) = mpsc::channel();
    let (over, end) = mpsc::channel::<()>();
    thread::scope(|scope| {
        let plane = scope.spawn(move || -> Result<(W, L), String> {
            stand.dut.enter_here().map_err(|error| error.to_string())?;
            let mut plane = set_up()?;
            told.send(()).map_err(|error| error.to_string())?;
            let worked = work(&mut plane);
            // The other side hangs up.
            let _ = end.recv();
            let seen = look(&mut plane)?;
            Ok((worked?, seen))
        });
        let served = match ready.recv() {
            Ok(()) => serve(),
            Err(_) => Err("the plane was not set up".to_owned()),
        };
        drop(over);
        let (worked, seen) = plane.join().map_err(|_| "the plane panicked")??;
        Ok(Done { served, worked, seen })
    })
}

/// The packet with this number of a source to a group.
fn frame(family: Family, number_of_source: u8, number_of_group: u16, number: u64, ttl: u8) -> Vec<u8> {
    const MAC: [u8; 6] = [0x02, 0xaa, 0, 0, 0, 1];
    let mut frame = Vec::new();
    let packet = match (family.source(number_of_source), family.group(number_of_group)) {
        (IpAddr::V4(source), IpAddr::V4(group)) => PacketBuilder::ethernet2(MAC, multicast_mac(group))
            .ipv4(source.octets(), group.octets(), ttl)
            .udp(UDP_PORT, UDP_PORT),
        (IpAddr::V6(source), IpAddr::V6(group)) => {
            PacketBuilder::ethernet2(MAC, multicast_mac_v6(&group.octets()))
                .ipv6(source.octets(), group.octets(), ttl)
                .udp(UDP_PORT, UDP_PORT)
        }
        (source, group) => unreachable!("{source} and {group} are of one family"),
    };
    packet.write(&mut frame, &number.to_be_bytes()).expect("a short datagram");
    frame
}

/// Numbers and link-layer addresses of interfaces of the calling thread's namespace.
fn interfaces(names: &[String]) -> Vec<(u32, [u8; 6])> {
    let all: Vec<_> = getifaddrs().expect("listing interfaces").collect();
    let one = |name: &String| {
        let mac = all
            .iter()
            .filter(|entry| entry.interface_name == *name)
            .find_map(|entry| entry.address?.as_link_addr()?.addr());
        (if_nametoindex(name.as_str()).expect("just made"), mac.expect("an Ethernet address"))
    };
    names.iter().map(one).collect()
}
