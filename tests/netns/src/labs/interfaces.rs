//! A router with three hundred interfaces and members on each: the kernel's own multicast routing ends at 32.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::Ipv4Addr,
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

use super::{
    amt_gateway::{AmtGateway, epoch},
    bed::{Bed, Outcome, ensure, trials_by_engines},
    small::{IGMP, SOURCE, STREAM, VMR},
    stream::{Sender, number},
};

pub(super) fn trials() -> Vec<Trial> {
    let what = "of three hundred interfaces each with members gets every packet once";
    trials_by_engines([Engine::Xdp, Engine::Tc, Engine::Software], what, three_hundred).into()
}

/// Interfaces with members: a host by IGMP on each, and an agent's tunnel behind every other one.
const MEMBERS: u16 = 300;
/// Interfaces without.
const BYSTANDERS: u16 = 4;
const ALL: u16 = MEMBERS + BYSTANDERS;
/// Packets that are judged.
const SOME: u64 = 40;
/// The time between two: each makes 450 copies.
const PACE: Duration = Duration::from_millis(50);
/// What gateways join; hosts join [`STREAM`].
const TUNNELLED: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: 5004 };
/// Ethernet, IP and UDP of a native packet.
const NATIVE: usize = 14 + 20 + 8;

fn name(interface: u16) -> String {
    format!("acc{interface}")
}

const fn address(interface: u16, host: u8) -> Ipv4Addr {
    let [high, low] = interface.to_be_bytes();
    Ipv4Addr::new(10, 16 + high, low, host)
}

/// The nodes: all far ends are in one, for three hundred more would only take time.
struct Wide {
    source: Namespace,
    vmr: Namespace,
    hosts: Namespace,
}

impl Wide {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let [source, vmr, hosts] = bed.lab.namespaces(["source", "vmr", "hosts"])?;
        let names: Vec<String> = (0..ALL).map(name).collect();
        let mut cables = vec![((&source, "eth0"), (&vmr, "src0"))];
        cables.extend(names.iter().map(|name| ((&vmr, name.as_str()), (&hosts, name.as_str()))));
        bed.lab.veths(&cables)?;
        source.ip(&format!("addr add {SOURCE}/24 dev eth0"))?;
        let (mut near, mut far) = (format!("addr add {VMR}/24 dev src0\n"), String::new());
        for interface in 0..ALL {
            let name = name(interface);
            writeln!(near, "addr add {}/24 dev {name}", address(interface, 1))?;
            writeln!(far, "addr add {}/24 dev {name}", address(interface, 2))?;
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
    fn watch(hosts: &Namespace) -> Result<Self, Failed> {
        let natives = Self::default();
        let (came, stop) = (Arc::clone(&natives.came), Arc::clone(&natives.stop));
        let socket = hosts.enter(packet_socket_on_all)??;
        thread::Builder::new().name("natives".to_owned()).spawn(move || {
            let mut buffer = [0; 2048];
            while !stop.load(Ordering::Relaxed) {
                match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
                    Ok((length, from)) => {
                        let frame = &buffer[..length];
                        let is_native = frame.get(30..34).is_some_and(|to| {
                            Ipv4Addr::new(to[0], to[1], to[2], to[3]).octets()[..3]
                                == STREAM.group.octets()[..3]
                        });
                        if let (true, Some(from)) = (is_native, from) {
                            // A packet that is not as it was sent has no number.
                            let number = frame.get(NATIVE..).and_then(number).unwrap_or(u64::MAX);
                            let number =
                                if frame[33] == STREAM.group.octets()[3] { number } else { u64::MAX };
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

/// Ordinary hosts' sockets: the kernel of each says by IGMP what is joined.
fn join_on(interfaces: &[u32]) -> std::io::Result<Vec<Socket>> {
    let join = |ifindex: &u32| {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.join_multicast_v4_n(&STREAM.group, &InterfaceIndexOrAddress::Index(*ifindex))?;
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
fn three_hundred(bed: &mut Bed, engine: Engine) -> Outcome {
    let wide = Wide::build(bed)?;
    let mut router = wide.router(bed, engine)?;
    let ifindices: Vec<u32> = wide.hosts.enter(|| {
        (0..ALL).map(|interface| if_nametoindex(name(interface).as_str())).collect::<Result<_, _>>()
    })??;
    let natives = Natives::watch(&wide.hosts)?;
    let (members, bystanders) = ifindices.split_at(usize::from(MEMBERS));
    let sockets = wide.hosts.enter(|| join_on(members))??;
    let start = epoch(bed.clock);
    let now = || start + bed.clock.now();
    let mut tunnelled = wide.hosts.enter(|| {
        let open = |interface: u16| {
            let mut gateway = AmtGateway::open(address(interface, 1), interface.into(), now())?;
            gateway.set(now(), TUNNELLED.group, true);
            Ok(Tunnelled { interface, gateway, numbers: Vec::new(), damaged: 0 })
        };
        (0..MEMBERS).step_by(2).map(open).collect::<std::io::Result<Vec<_>>>()
    })??;
    let turn = |tunnelled: &mut Vec<Tunnelled>| -> Outcome {
        for one in tunnelled {
            for packet in one.gateway.turn(now())?.packets {
                match packet.get(NATIVE - 14..).and_then(number) {
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

    let native = Sender::with_pace(&wide.source, SOURCE, STREAM, PACE)?;
    let other = Sender::with_pace(&wide.source, SOURCE, TUNNELLED, PACE)?;
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
