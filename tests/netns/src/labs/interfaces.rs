//! A router with three hundred interfaces and members on each, by either version of IP: the kernel's own multicast
//! routing ends at 32.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{LinkAddr, recvfrom},
};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};
use std::os::fd::AsRawFd as _;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::{GroupPort, packet_socket_on_all},
};
use vmcast_proto::Filter;

use super::{
    amt_gateway::{AmtGateway, epoch},
    bed::{Bed, Outcome, ensure, trials_by_engines},
    small::{IGMP, SOURCE, STREAM, VMR},
    stream::{Sender, number},
};

pub(super) fn trials() -> Vec<Trial> {
    const ALL: [Engine; 3] = [Engine::Xdp, Engine::Tc, Engine::Software];
    let what = "of three hundred interfaces each with members gets every packet once";
    let by_v6 = "of three hundred interfaces each with members by IPv6 gets every packet once";
    [
        trials_by_engines(ALL, what, |bed, engine| three_hundred(bed, engine, Family::V4)),
        trials_by_engines(ALL, by_v6, |bed, engine| three_hundred(bed, engine, Family::V6)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Interfaces with members: a host by IGMP or MLD on each, and an agent's tunnel behind every other one.
const MEMBERS: u16 = 300;
/// Interfaces without.
const BYSTANDERS: u16 = 4;
const ALL: u16 = MEMBERS + BYSTANDERS;
/// Packets that are judged.
const SOME: u64 = 40;
/// The time between two: each makes 450 copies.
const PACE: Duration = Duration::from_millis(50);
const ETHERNET: usize = 14;
const UDP: usize = 8;

fn name(interface: u16) -> String {
    format!("acc{interface}")
}

/// The version of IP of addresses and groups, within tunnels and outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn source(self) -> IpAddr {
        match self {
            Self::V4 => SOURCE.into(),
            Self::V6 => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2).into(),
        }
    }

    /// The VMR on the source's network.
    fn vmr(self) -> IpAddr {
        match self {
            Self::V4 => VMR.into(),
            Self::V6 => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    fn address(self, interface: u16, host: u8) -> IpAddr {
        let [high, low] = interface.to_be_bytes();
        match self {
            Self::V4 => Ipv4Addr::new(10, 16 + high, low, host).into(),
            Self::V6 => Ipv6Addr::new(0xfd10, interface, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }

    /// The line of `ip` that gives a device an address.
    fn line(self, address: IpAddr, device: &str) -> String {
        match self {
            Self::V4 => format!("addr add {address}/24 dev {device}"),
            Self::V6 => format!("addr add {address}/64 dev {device} nodad"),
        }
    }

    /// What hosts join.
    const fn native(self) -> SocketAddr {
        self.stream(1)
    }

    /// What gateways join.
    const fn tunnelled(self) -> SocketAddr {
        self.stream(2)
    }

    const fn stream(self, last: u8) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(239, 192, 7, last), STREAM.port)),
            Self::V6 => {
                let group = Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, last as u16);
                SocketAddr::V6(SocketAddrV6::new(group, STREAM.port, 0, 0))
            }
        }
    }

    /// Bytes of an IP header and of one of UDP.
    const fn headers(self) -> usize {
        match self {
            Self::V4 => 20 + UDP,
            Self::V6 => 40 + UDP,
        }
    }

    /// Where a native frame goes to, if it is of this version and no message of IGMP or MLD.
    fn destination(self, frame: &[u8]) -> Option<IpAddr> {
        const UDP_NUMBER: u8 = 17;
        let packet = frame.get(ETHERNET..)?;
        let at = |at: usize| packet.get(at).copied();
        match self {
            Self::V4 if (at(0)?, at(9)?) == (0x45, UDP_NUMBER) => {
                Some(IpAddr::from(*packet.get(16..)?.first_chunk::<4>()?))
            }
            Self::V6 if (at(0)? >> 4, at(6)?) == (6, UDP_NUMBER) => {
                Some(IpAddr::from(*packet.get(24..)?.first_chunk::<16>()?))
            }
            Self::V4 | Self::V6 => None,
        }
    }

    fn send(self, source: &Namespace, to: SocketAddr) -> Result<Sender, Failed> {
        match (self.source(), to) {
            (IpAddr::V4(from), SocketAddr::V4(to)) => {
                Sender::with_pace(source, from, GroupPort { group: *to.ip(), port: to.port() }, PACE)
            }
            (IpAddr::V6(from), SocketAddr::V6(to)) => Sender::with_pace_v6(source, from, to, "eth0", PACE),
            (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => {
                Err("a source and its group are of one family".into())
            }
        }
    }
}

/// The nodes: all far ends are in one, for three hundred more would only take time.
struct Wide {
    source: Namespace,
    vmr: Namespace,
    hosts: Namespace,
}

impl Wide {
    fn build(bed: &mut Bed, family: Family) -> Result<Self, Failed> {
        let [source, vmr, hosts] = bed.lab.namespaces(["source", "vmr", "hosts"])?;
        let names: Vec<String> = (0..ALL).map(name).collect();
        let mut cables = vec![((&source, "eth0"), (&vmr, "src0"))];
        cables.extend(names.iter().map(|name| ((&vmr, name.as_str()), (&hosts, name.as_str()))));
        bed.lab.veths(&cables)?;
        source.ip(&family.line(family.source(), "eth0"))?;
        let (mut near, mut far) = (family.line(family.vmr(), "src0") + "\n", String::new());
        for interface in 0..ALL {
            let name = name(interface);
            writeln!(near, "{}", family.line(family.address(interface, 1), &name))?;
            writeln!(far, "{}", family.line(family.address(interface, 2), &name))?;
        }
        vmr.ip(&near)?;
        hosts.ip(&far)?;
        Ok(Self { source, vmr, hosts })
    }

    fn router(&self, bed: &Bed, engine: Engine) -> Result<Role, Failed> {
        let mut tables = format!(
            "[dataplane]\nengine = \"{}\"\non_exit = \"remove\"\n{IGMP}\
             [[interface]]\nname = \"src0\"\naccepts_sources = true\n",
            engine.label()
        );
        for interface in 0..ALL {
            writeln!(tables, "[[interface]]\nname = \"{}\"\nquerier = true", name(interface))?;
        }
        let mut role = bed.launcher.start(&self.vmr, "router", "rank = 0\n", &tables)?;
        wait_ready([&mut role], bed.clock)?;
        Ok(role)
    }
}

/// The numbers of the packets that came natively by each interface, in order.
#[derive(Default)]
struct Natives {
    came: Arc<Mutex<BTreeMap<usize, Vec<u64>>>>,
    stop: Arc<AtomicBool>,
}

impl Natives {
    fn watch(hosts: &Namespace, family: Family) -> Result<Self, Failed> {
        let natives = Self::default();
        let (came, stop) = (Arc::clone(&natives.came), Arc::clone(&natives.stop));
        let socket = hosts.enter(packet_socket_on_all)??;
        thread::Builder::new().name("natives".to_owned()).spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
                    Ok((length, from)) => {
                        let frame = &buffer[..length];
                        let to = family.destination(frame).filter(IpAddr::is_multicast);
                        if let (Some(to), Some(from)) = (to, from) {
                            // A packet that is not as it was sent has no number, nor has one to somebody else.
                            let number = frame.get(ETHERNET + family.headers()..).and_then(number);
                            let number = number.filter(|_| to == family.native().ip()).unwrap_or(u64::MAX);
                            came.lock()
                                .expect("not poisoned")
                                .entry(from.ifindex())
                                .or_default()
                                .push(number);
                        }
                    }
                    Err(Errno::EAGAIN) => thread::sleep(Duration::from_millis(1)),
                    Err(_) => {}
                }
            }
        })?;
        Ok(natives)
    }

    fn of(&self, ifindex: usize) -> Vec<u64> {
        self.came.lock().expect("not poisoned").get(&ifindex).cloned().unwrap_or_default()
    }
}

impl Drop for Natives {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Ordinary hosts' sockets: the kernel of each says by IGMP or MLD what is joined.
fn join_on(interfaces: &[u32], family: Family) -> std::io::Result<Vec<Socket>> {
    let group = family.native();
    let join = |ifindex: &u32| {
        let socket = Socket::new(Domain::for_address(group), Type::DGRAM, Some(Protocol::UDP))?;
        match group.ip() {
            IpAddr::V4(group) => {
                socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(*ifindex))?;
            }
            IpAddr::V6(group) => socket.join_multicast_v6(&group, *ifindex)?,
        }
        Ok(socket)
    };
    interfaces.iter().map(join).collect()
}

/// A gateway behind an interface, and what came to it.
struct Tunnelled {
    interface: u16,
    gateway: AmtGateway,
    numbers: Vec<u64>,
    damaged: u64,
}

// proves issue 3: no limit of 32 interfaces anywhere
fn three_hundred(bed: &mut Bed, engine: Engine, family: Family) -> Outcome {
    let wide = Wide::build(bed, family)?;
    let mut router = wide.router(bed, engine)?;
    let ifindices: Vec<u32> = wide.hosts.enter(|| {
        (0..ALL).map(|interface| if_nametoindex(name(interface).as_str())).collect::<Result<_, _>>()
    })??;
    let natives = Natives::watch(&wide.hosts, family)?;
    let (members, bystanders) = ifindices.split_at(usize::from(MEMBERS));
    let sockets = wide.hosts.enter(|| join_on(members, family))??;
    let start = epoch(bed.clock);
    let now = || start + bed.clock.now();
    let mut tunnelled = wide.hosts.enter(|| {
        let open = |interface: u16| {
            let mut gateway = AmtGateway::open(family.address(interface, 1), interface.into(), now())?;
            gateway.set_filter(now(), family.tunnelled().ip(), Filter::any());
            Ok(Tunnelled { interface, gateway, numbers: Vec::new(), damaged: 0 })
        };
        (0..MEMBERS).step_by(2).map(open).collect::<std::io::Result<Vec<_>>>()
    })??;
    let turn = |tunnelled: &mut Vec<Tunnelled>| -> Outcome {
        for one in tunnelled {
            for packet in one.gateway.turn(now())?.packets {
                match packet.get(family.headers()..).and_then(number) {
                    Some(number) => one.numbers.push(number),
                    None => one.damaged += 1,
                }
            }
        }
        Ok(())
    };
    let all = members.len() + tunnelled.len();
    bed.until("every member is known", || {
        turn(&mut tunnelled)?;
        let known = router.ask(&["status"]).and_then(|status| status["members"].as_u64());
        Ok(known == Some(all as u64))
    })?;

    let native = family.send(&wide.source, family.native())?;
    let other = family.send(&wide.source, family.tunnelled())?;
    bed.until("enough was sent", || {
        turn(&mut tunnelled)?;
        Ok(native.sent() >= SOME && other.sent() >= SOME)
    })?;
    let (native, other) = (native.stop()?, other.stop()?);
    bed.until("the last packets have come to everybody", || {
        turn(&mut tunnelled)?;
        let complete =
            members.iter().all(|ifindex| natives.of(*ifindex as usize).last() == Some(&(native - 1)));
        Ok(complete && tunnelled.iter().all(|one| one.numbers.last() == Some(&(other - 1))))
    })
    .map_err(|failed| {
        let stats = router.ask(&["stats"]).unwrap_or_default();
        format!("{}; the drops are {}", failed.message().unwrap_or_default(), stats["drops"])
    })?;
    let (every_native, every_other): (Vec<u64>, Vec<u64>) = ((0..native).collect(), (0..other).collect());
    for (interface, ifindex) in members.iter().enumerate() {
        let came = natives.of(*ifindex as usize);
        ensure!(
            came == every_native,
            "of {native} packets these came by {}: {came:?}",
            name(interface as u16)
        );
    }
    for one in &tunnelled {
        let right = one.numbers == every_other && one.damaged == 0;
        ensure!(
            right,
            "of {other} packets these came by the tunnel behind {}: {:?}",
            name(one.interface),
            one.numbers
        );
    }
    for ifindex in bystanders {
        let came = natives.of(*ifindex as usize);
        ensure!(came.is_empty(), "these came by an interface without members: {came:?}");
    }
    let shown = router.ask(&["interface", "list"]).unwrap_or_default();
    let attached = shown["interfaces"]
        .as_array()
        .map_or(0, |all| all.iter().filter(|one| !one["attached"].is_null()).count());
    ensure!(attached == usize::from(ALL) + 1, "{attached} interfaces are in use");
    router.check_alive()?;
    drop(sockets);
    Ok(())
}
