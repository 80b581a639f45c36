//! A device under test: a namespace with three interfaces, their far ends in another.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use libtest_mimic::Failed;
use vmcast_common::{
    fib::{EngineWish, FibOp, IfIndex, Interface, Output, Stream},
    maps::{DroppedCopies, StreamCounters},
};
use vmcast_dataplane::{
    ApplyError, Capacities, Counters, Dataplane as _, Fib, PacketTooBig, Punt,
    conformance::{Device, Devices, Observed, PlaneUnderTest},
    kernel::{KernelPlane, OnExit, Options, Rule, Statistics},
    software::Disposition,
};
use vmcast_lab::{
    clock::Clock,
    netns::{Lab, Namespace, Offload},
};

use crate::wire::Wire;

const NAMES: [&str; 3] = ["port0", "port1", "port2"];
/// Where a frame goes on that no program at TC took.
const HOSTS: [&str; 3] = ["host0", "host1", "host2"];

/// A test that waits longer than this hangs; nothing is measured by it.
const HANG: Duration = Duration::from_secs(60);

/// Frames, each with the device that it leaves by.
pub(crate) type Frames = Vec<(IfIndex, Vec<u8>)>;

/// Where the plane under test works. A packet socket sees a frame after XDP and before TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// XDP for every device.
    Xdp,
    /// TC for every device.
    Tc,
    /// TC for every device, with a pause between every two members.
    Pauses,
    /// Packets come in at XDP; members behind the second device are served at TC, the others one by one.
    Mixed,
    /// Packets come in at TC and are handed to XDP, where two members at a time are served.
    Handed,
}

impl At {
    pub(crate) const ALL: [Self; 5] = [Self::Xdp, Self::Tc, Self::Pauses, Self::Mixed, Self::Handed];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::Pauses => "pauses",
            Self::Mixed => "mixed",
            Self::Handed => "handed",
        }
    }

    /// How many copies a case must make to show more than elsewhere: where packets are looked at as in another place,
    /// only their copies go another way.
    pub(crate) const fn least_copies(self) -> usize {
        match self {
            Self::Xdp | Self::Tc => 0,
            Self::Mixed | Self::Handed => 1,
            Self::Pauses => 2,
        }
    }

    fn options(self) -> Options {
        let (rule, chunk) = match self {
            Self::Xdp => (Rule::Auto, None),
            Self::Tc => (Rule::Tc, None),
            Self::Pauses => (Rule::Tc, Some(1)),
            Self::Mixed => (Rule::Auto, Some(1)),
            Self::Handed => (Rule::Auto, Some(2)),
        };
        Options { rule, chunk, ..Options::default() }
    }

    /// The device that is served at TC while others are not.
    fn at_tc(self, devices: &Devices) -> Option<IfIndex> {
        match self {
            Self::Xdp | Self::Tc | Self::Pauses => None,
            Self::Mixed => Some(devices.b.ifindex),
            Self::Handed => Some(devices.a.ifindex),
        }
    }

    /// Time for copies that go through a relay device: a frame behind them does not go the same way.
    fn pause(self) -> Option<Duration> {
        match self {
            Self::Xdp | Self::Tc => None,
            Self::Pauses | Self::Mixed | Self::Handed => Some(Duration::from_millis(3)),
        }
    }
}

/// The interfaces, and a socket at both ends of each.
pub(crate) struct Dut {
    lab: Lab,
    dut: Namespace,
    peers: Namespace,
    pub(crate) devices: Devices,
    near: [Wire; 3],
    far: [Wire; 3],
    /// What the host gets, if that is not what is seen at the near ends.
    host: Option<[Wire; 3]>,
    at: At,
    sentinel: u32,
}

impl Dut {
    /// Makes the namespaces and moves the calling thread into that of the device under test.
    pub(crate) fn enter(name: &str, at: At) -> Result<Self, vmcast_lab::LabError> {
        let mut lab = Lab::new(name)?;
        let [dut, peers] = lab.namespaces(["dut", "peers"])?;
        for namespace in [&dut, &peers] {
            namespace
                .sysctl(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
        }
        let cables = NAMES.map(|name| ((&dut, name), (&peers, name)));
        lab.veths(&cables)?;
        let far = open(&peers, NAMES)?;
        let host = match at {
            At::Xdp => None,
            At::Tc | At::Pauses | At::Mixed | At::Handed => {
                lab.veths(&HOSTS.map(|name| ((&dut, name), (&peers, name))))?;
                forward_to_hosts(&dut)?;
                Some(open(&peers, HOSTS)?)
            }
        };
        dut.enter_here()?;
        let near = open(&dut, NAMES)?;
        let [a, b, c] = NAMES.map(device);
        Ok(Self { lab, dut, peers, devices: Devices { a, b, c }, near, far, host, at, sentinel: 0 })
    }

    /// One more device, whose far end is looked at by nobody but who asks for it.
    pub(crate) fn add_cable(&mut self, name: &str) -> Result<Device, vmcast_lab::LabError> {
        self.lab.veths(&[((&self.dut, name), (&self.peers, name))])?;
        Ok(device(name))
    }

    /// Sets the MTU of the devices and of their far ends.
    pub(crate) fn set_mtu(&mut self, mtu: u16) -> Result<(), vmcast_lab::LabError> {
        for (name, device) in
            NAMES.iter().zip([&mut self.devices.a, &mut self.devices.b, &mut self.devices.c])
        {
            let ip = || {
                let mut ip = Command::new("ip");
                ip.args(["link", "set", name, "mtu", &mtu.to_string()]);
                ip
            };
            self.peers.run(ip())?;
            self.dut.run(ip())?;
            device.mtu = mtu;
        }
        Ok(())
    }

    /// Makes a device one that takes frames redirected at XDP, or takes none.
    pub(crate) fn take_redirected(&self, device: IfIndex, takes: bool) -> Result<(), vmcast_lab::LabError> {
        self.peers.set_offload(NAMES[self.position(device)], Offload::Gro, takes)
    }

    fn position(&self, ifindex: IfIndex) -> usize {
        self.devices.all().iter().position(|device| device.ifindex == ifindex).expect("a device of ours")
    }

    /// One more socket at the far end of a device.
    pub(crate) fn far_end(&self, device: IfIndex) -> Result<Wire, vmcast_lab::LabError> {
        let name = NAMES[self.position(device)];
        self.peers.enter(|| Wire::open(name).expect("opening a packet socket"))
    }

    /// A socket at the far end of one more device.
    pub(crate) fn far_end_of(&self, name: &str) -> Result<Wire, vmcast_lab::LabError> {
        self.peers.enter(|| Wire::open(name).expect("opening a packet socket"))
    }

    /// Makes a device of this name and number again, which takes frames redirected at XDP, and a socket at its far end.
    pub(crate) fn add_again(&self, name: &str, number: IfIndex) -> Result<Wire, vmcast_lab::LabError> {
        let far = format!("{name}f");
        self.ip(&format!("link add {name} index {} type veth peer name {far}", number.0))?;
        self.dut.set_offload(&far, Offload::Gro, true)?;
        self.ip(&format!("link set {far} up"))?;
        self.ip(&format!("link set {name} up"))?;
        self.dut.enter(|| Wire::open(&far).expect("opening a packet socket"))
    }

    /// Runs `ip` in the namespace of the device under test.
    pub(crate) fn ip(&self, arguments: &str) -> Result<(), vmcast_lab::LabError> {
        let mut ip = Command::new("ip");
        ip.args(arguments.split_whitespace());
        self.dut.run(ip).map(drop)
    }

    /// Runs `ip` in the namespace of the far ends.
    pub(crate) fn ip_of_peers(&self, arguments: &str) -> Result<(), vmcast_lab::LabError> {
        let mut ip = Command::new("ip");
        ip.args(arguments.split_whitespace());
        self.peers.run(ip).map(drop)
    }

    /// Does something in the namespace of the far ends.
    pub(crate) fn at_peers<R: Send>(
        &self,
        work: impl FnOnce() -> R + Send,
    ) -> Result<R, vmcast_lab::LabError> {
        self.peers.enter(work)
    }

    /// A directory where a plane keeps its programs.
    pub(crate) fn pins(&self) -> Result<PathBuf, vmcast_lab::LabError> {
        Ok(self.lab.bpffs()?.join("plane"))
    }

    /// Takes the far end of a device down, or up again.
    fn set_far_end(&self, device: IfIndex, up: bool) -> Result<(), vmcast_lab::LabError> {
        let mut ip = Command::new("ip");
        ip.args(["link", "set", NAMES[self.position(device)], if up { "up" } else { "down" }]);
        self.peers.run(ip).map(drop)
    }

    /// Sends a frame, and waits until the plane is done with it. Returns what became of it.
    fn send(&mut self, ingress: IfIndex, frame: &[u8]) -> Disposition {
        match self.send_all(ingress, &[frame]).as_slice() {
            [] => Disposition::Consumed,
            [seen] => {
                assert!(seen == frame, "passed, but not untouched: {seen:02x?}");
                Disposition::Pass
            }
            more => panic!("the host got {} frames for one", more.len()),
        }
    }

    /// Sends frames without a pause, and waits until the plane is done with them. Returns what the host gets.
    fn send_all(&mut self, ingress: IfIndex, frames: &[impl AsRef<[u8]>]) -> Vec<Vec<u8>> {
        self.sentinel += 1;
        let at = self.position(ingress);
        for frame in frames {
            self.far[at].send(frame.as_ref()).expect("sending on the wire");
        }
        self.far[at].send_sentinel(self.sentinel).expect("sending on the wire");
        let host = &self.host.as_ref().unwrap_or(&self.near)[at];
        let mut passed = host.until_sentinel(self.sentinel, &self.far[at]);
        // What is shared behind XDP comes by the core's backlog, which the sentinel may overtake; not the next one.
        if self.at == At::Mixed {
            self.sentinel += 1;
            self.far[at].send_sentinel(self.sentinel).expect("sending on the wire");
            passed.extend(host.until_sentinel(self.sentinel, &self.far[at]));
        }
        passed
    }

    /// What has left since the frames that were sent last, once `serve` has done what the process under test does.
    fn left(&mut self, serve: impl FnOnce()) -> Frames {
        if let Some(pause) = self.at.pause() {
            thread::sleep(pause);
        }
        serve();
        let mut frames = Vec::new();
        for (device, (near, far)) in self.devices.all().iter().zip(self.near.iter().zip(&self.far)) {
            near.send_sentinel(self.sentinel).expect("sending on the wire");
            frames.extend(
                far.until_sentinel(self.sentinel, near).into_iter().map(|frame| (device.ifindex, frame)),
            );
        }
        for far in &self.far {
            assert_eq!(far.drain(), Vec::<Vec<u8>>::new(), "a frame came late");
        }
        frames
    }
}

/// Sends whatever the host would get of a port out of the device beside it: netfilter's ingress comes after TC.
fn forward_to_hosts(dut: &Namespace) -> Result<(), vmcast_lab::LabError> {
    let chains = NAMES.iter().zip(HOSTS).map(|(port, host)| {
        format!(
            "chain {port} {{ type filter hook ingress device \"{port}\" priority 0; fwd to \"{host}\"; }};"
        )
    });
    let mut nft = Command::new("nft");
    nft.arg(format!("table netdev host {{ {} }}", chains.collect::<String>()));
    dut.run(nft).map(drop)
}

fn open(namespace: &Namespace, names: [&str; 3]) -> Result<[Wire; 3], vmcast_lab::LabError> {
    namespace.enter(|| names.map(|name| Wire::open(name).expect("opening a packet socket")))
}

/// An interface of the calling thread's namespace, read from a fresh sysfs view by netlink numbers.
fn device(name: &str) -> Device {
    let index = nix::net::if_::if_nametoindex(name).expect("the interface was just made");
    let mac = nix::ifaddrs::getifaddrs()
        .expect("listing interfaces")
        .filter(|entry| entry.interface_name == name)
        .find_map(|entry| entry.address?.as_link_addr()?.addr())
        .expect("an Ethernet address");
    Device { ifindex: IfIndex(index), mac, mtu: 1500 }
}

/// The kernel plane on these interfaces.
pub(crate) struct KernelUnderTest {
    dut: Dut,
    plane: KernelPlane,
    /// The streams that punts have told of, if each shall be told of once, however long the case takes.
    told: Option<BTreeSet<Stream>>,
}

impl KernelUnderTest {
    pub(crate) fn new(dut: Dut) -> Self {
        Self::with(dut, Statistics::On)
    }

    pub(crate) fn with(dut: Dut, statistics: Statistics) -> Self {
        let options = Options { statistics, ..dut.at.options() };
        Self::open(dut, &options)
    }

    /// One that holds no more than this.
    pub(crate) fn of_capacities(dut: Dut, capacities: Capacities) -> Self {
        let options = Options { capacities, ..dut.at.options() };
        Self::open(dut, &options)
    }

    /// One that serves devices by this rule.
    pub(crate) fn of_rule(dut: Dut, rule: Rule) -> Self {
        let options = Options { rule, ..dut.at.options() };
        Self::open(dut, &options)
    }

    /// What a stream counted at some time in this turn.
    pub(crate) fn counted_in_turn(&self, stream: Stream) -> Option<StreamCounters> {
        self.plane.stream_counters_in_turn(stream).expect("reading a stream's counters")
    }

    /// Begins another turn.
    pub(crate) fn end_turn(&mut self) {
        assert!(self.plane.end_turn().is_empty(), "nothing waited");
    }

    /// Leaves out what punts tell of a stream again: the plane does so once a second, and a case whose steps do not
    /// know the time may take longer.
    pub(crate) fn told_once(self) -> Self {
        Self { told: Some(BTreeSet::new()), ..self }
    }

    fn open(dut: Dut, options: &Options) -> Self {
        let plane = KernelPlane::open(options).expect("loading the programs");
        Self { dut, plane, told: None }
    }

    fn kept_at(dut: &Dut, pins: &Path) -> Options {
        Options { on_exit: OnExit::Keep, pin_path: Some(pins.to_owned()), ..dut.at.options() }
    }

    /// A plane whose programs stay when it ends.
    pub(crate) fn kept(dut: Dut, pins: &Path) -> Self {
        let options = Self::kept_at(&dut, pins);
        Self::open(dut, &options)
    }

    /// Ends the plane, and opens another one that finds what it has kept.
    pub(crate) fn end_and_open(&mut self, pins: &Path) -> Option<Fib> {
        let next = KernelPlane::open(&Self::kept_at(&self.dut, pins)).expect("loading the programs");
        self.plane = next;
        self.plane.take_kept().map(|kept| kept.fib)
    }

    /// Ends the plane, and opens another one like it.
    pub(crate) fn open_again(&mut self) {
        self.plane = KernelPlane::open(&self.dut.at.options()).expect("loading the programs");
    }

    /// Why this engine replicates.
    pub(crate) fn reason(&self) -> String {
        self.plane.engine().reason
    }

    /// How often a member had to wait for a table.
    pub(crate) fn waits_for_tables(&self) -> u64 {
        self.plane.waits_for_tables()
    }

    /// Waits until all tables that are made in advance are there.
    pub(crate) fn wait_for_stock(&mut self) -> Result<(), Failed> {
        let clock = Clock::start();
        while !self.plane.is_stocked() {
            if clock.now() > HANG {
                return Err("the tables that were ordered do not come".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets the plane take over.
    pub(crate) fn release(&mut self) {
        self.plane.release().expect("taking over");
    }

    /// As the router does every two seconds.
    pub(crate) fn refresh(&mut self) {
        self.plane.refresh().expect("looking at the devices");
    }

    pub(crate) const fn dut(&self) -> &Dut {
        &self.dut
    }

    pub(crate) fn devices(&self) -> Devices {
        self.dut.devices
    }

    /// Lets the plane receive frames without a pause, none of which the host may get. Returns what leaves.
    pub(crate) fn inject_all(&mut self, ingress: IfIndex, frames: &[Vec<u8>]) -> Frames {
        let passed = self.dut.send_all(ingress, frames);
        assert_eq!(passed, Vec::<Vec<u8>>::new(), "the host got frames");
        self.left()
    }

    fn left(&mut self) -> Frames {
        let Self { dut, plane, .. } = self;
        dut.left(|| while plane.serve_waiting() {})
    }

    /// Sends a frame while the far end of a device is down.
    pub(crate) fn send_with_far_end_down(
        &mut self,
        ingress: IfIndex,
        frame: &[u8],
        device: IfIndex,
    ) -> Result<(), vmcast_lab::LabError> {
        self.dut.set_far_end(device, false)?;
        self.dut.send(ingress, frame);
        self.dut.set_far_end(device, true)?;
        // A packet socket tells once that its device was down.
        let at = self.dut.position(device);
        self.dut.far[at].drain();
        self.dut.near[at].drain();
        Ok(())
    }

    /// Sends a frame while a device is down itself, and so refuses what it is handed.
    pub(crate) fn send_with_device_down(
        &mut self,
        ingress: IfIndex,
        frame: &[u8],
        device: IfIndex,
    ) -> Result<(), vmcast_lab::LabError> {
        let at = self.dut.position(device);
        self.dut.ip(&format!("link set {} down", NAMES[at]))?;
        self.dut.send(ingress, frame);
        self.dut.ip(&format!("link set {} up", NAMES[at]))?;
        // A packet socket tells once that its device was down.
        self.dut.far[at].drain();
        self.dut.near[at].drain();
        Ok(())
    }

    /// Takes the plane's relay devices down, or up again.
    pub(crate) fn set_relays(&self, up: bool) -> Result<(), vmcast_lab::LabError> {
        let devices = nix::net::if_::if_nameindex().expect("listing interfaces");
        let names = devices.iter().map(|device| device.name().to_string_lossy().into_owned());
        // The far end of each has a `p` behind.
        for near in names.filter(|name| name.starts_with("vmc") && !name.ends_with('p')) {
            let mut ip = Command::new("ip");
            ip.args(["link", "set", &near, if up { "up" } else { "down" }]);
            self.dut.dut.run(ip)?;
        }
        Ok(())
    }

    /// What a case asks for, with one device at TC where that is under test.
    fn placed(&self, op: &FibOp) -> FibOp {
        match *op {
            FibOp::SetInterface(interface) => FibOp::SetInterface(self.place(interface, true)),
            other => other,
        }
    }

    fn place(&self, interface: Interface, at_tc: bool) -> Interface {
        if self.dut.at.at_tc(&self.dut.devices) == Some(interface.device) {
            let engine = if at_tc { EngineWish::Tc } else { EngineWish::Any };
            Interface { engine, ..interface }
        } else {
            interface
        }
    }
}

impl PlaneUnderTest for KernelUnderTest {
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        // As a router does: one after the other, and what may wait together at the end.
        self.plane.apply(&[])?;
        let mut applied = Ok(());
        for op in ops {
            applied = self.plane.apply_in_turn(&self.placed(op));
            if applied.is_err() {
                break;
            }
        }
        let ended = self.plane.end_turn().into_iter().next().map_or(Ok(()), Err);
        applied.and(ended)
    }

    fn inject(&mut self, ingress: IfIndex, frame: &[u8]) -> Observed {
        let disposition = self.dut.send(ingress, frame);
        Observed { disposition, frames: self.left() }
    }

    fn counters(&mut self) -> Counters {
        let counters = self.plane.counters().expect("reading the kernel's counters");
        for entry in &counters.streams {
            let alone = self.plane.stream_counters(entry.stream).expect("reading a stream's counters");
            assert_eq!(alone, Some(entry.counters), "{}", entry.stream);
            assert_eq!(self.counted_in_turn(entry.stream), alone, "{} in a turn", entry.stream);
        }
        self.end_turn();
        counters
    }

    fn dropped_copies(&mut self, stream: Stream, member: Option<Output>) -> Vec<(Output, DroppedCopies)> {
        self.plane.dropped_copies(stream, member).expect("reading what members have missed")
    }

    fn now_ns(&mut self) -> u64 {
        vmcast_dataplane::clock::now_ns()
    }

    fn take_punts(&mut self) -> Vec<Punt> {
        let Self { plane, told, .. } = self;
        let punts = std::iter::from_fn(|| plane.poll_punt());
        punts.filter(|punt| told.as_mut().is_none_or(|told| told.insert(punt.stream))).collect()
    }

    fn take_too_big(&mut self) -> Vec<PacketTooBig> {
        std::iter::from_fn(|| self.plane.poll_too_big()).collect()
    }

    fn dump(&mut self) -> Fib {
        let mut fib = self.plane.dump().expect("reading the kernel's tables");
        for interface in fib.interfaces.values_mut() {
            *interface = self.place(*interface, false);
        }
        fib
    }
}
