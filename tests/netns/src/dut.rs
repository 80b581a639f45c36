//! A device under test: a namespace with three interfaces, their far ends in another.

use std::process::Command;

use vmcast_common::fib::{FibOp, IfIndex};
use vmcast_dataplane::{
    ApplyError, Counters, Dataplane, Fib, PacketTooBig, Punt,
    conformance::{Device, Devices, Observed, PlaneUnderTest},
    software::Disposition,
    tc::TcPlane,
    xdp::{Options, XdpPlane},
};
use vmcast_lab::netns::{Lab, Namespace};

use crate::wire::Wire;

const NAMES: [&str; 3] = ["port0", "port1", "port2"];
/// Where a frame goes on that no program at TC took.
const HOSTS: [&str; 3] = ["host0", "host1", "host2"];

/// Frames, each with the device that it leaves by.
pub(crate) type Frames = Vec<(IfIndex, Vec<u8>)>;

/// The hook that the plane under test works at. A packet socket sees a frame after XDP and before TC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Xdp,
    Tc,
}

/// The interfaces, and a socket at both ends of each.
pub(crate) struct Dut {
    _lab: Lab,
    pub(crate) devices: Devices,
    near: [Wire; 3],
    far: [Wire; 3],
    /// What the host gets, if that is not what is seen at the near ends.
    host: Option<[Wire; 3]>,
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
            At::Tc => {
                lab.veths(&HOSTS.map(|name| ((&dut, name), (&peers, name))))?;
                forward_to_hosts(&dut)?;
                Some(open(&peers, HOSTS)?)
            }
        };
        dut.enter_here()?;
        let near = open(&dut, NAMES)?;
        let [a, b, c] = NAMES.map(device);
        Ok(Self { _lab: lab, devices: Devices { a, b, c }, near, far, host, sentinel: 0 })
    }

    fn position(&self, ifindex: IfIndex) -> usize {
        self.devices.all().iter().position(|device| device.ifindex == ifindex).expect("a device of ours")
    }

    fn inject(&mut self, ingress: IfIndex, frame: &[u8], serve: impl FnOnce()) -> Observed {
        let (passed, frames) = self.inject_all(ingress, &[frame], serve);
        let disposition = match passed.as_slice() {
            [] => Disposition::Consumed,
            [seen] => {
                assert!(seen == frame, "passed, but not untouched: {seen:02x?}");
                Disposition::Pass
            }
            more => panic!("the host got {} frames for one", more.len()),
        };
        Observed { disposition, frames }
    }

    /// Sends frames without a pause. Returns what the host gets and what leaves. `serve` is what the process
    /// under test does once the kernel has seen them all.
    fn inject_all(
        &mut self,
        ingress: IfIndex,
        sent: &[impl AsRef<[u8]>],
        serve: impl FnOnce(),
    ) -> (Vec<Vec<u8>>, Frames) {
        self.sentinel += 1;
        let at = self.position(ingress);
        for frame in sent {
            self.far[at].send(frame.as_ref()).expect("sending on the wire");
        }
        self.far[at].send_sentinel(self.sentinel).expect("sending on the wire");
        let passed =
            self.host.as_ref().unwrap_or(&self.near)[at].until_sentinel(self.sentinel, &self.far[at]);
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
        (passed, frames)
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

/// A kernel plane on these interfaces.
pub(crate) struct KernelUnderTest<P> {
    dut: Dut,
    plane: P,
}

pub(crate) type XdpUnderTest = KernelUnderTest<XdpPlane>;
pub(crate) type TcUnderTest = KernelUnderTest<TcPlane>;

impl XdpUnderTest {
    pub(crate) fn new(dut: Dut) -> Self {
        Self { dut, plane: XdpPlane::open(&Options::default()).expect("loading the programs") }
    }
}

impl TcUnderTest {
    pub(crate) fn new(dut: Dut) -> Self {
        Self { dut, plane: TcPlane::open("it is under test".to_owned()).expect("loading the program") }
    }
}

impl<P: Dataplane> KernelUnderTest<P> {
    pub(crate) fn devices(&self) -> Devices {
        self.dut.devices
    }

    /// Lets the plane receive frames without a pause, none of which the host may get. Returns what leaves.
    pub(crate) fn inject_all(&mut self, ingress: IfIndex, frames: &[Vec<u8>]) -> Frames {
        let Self { dut, plane } = self;
        let (passed, seen) = dut.inject_all(ingress, frames, || while plane.serve_oversize() {});
        assert_eq!(passed, Vec::<Vec<u8>>::new(), "the host got frames");
        seen
    }
}

impl<P: Dataplane> PlaneUnderTest for KernelUnderTest<P> {
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        self.plane.apply(ops)
    }

    fn inject(&mut self, ingress: IfIndex, frame: &[u8]) -> Observed {
        let Self { dut, plane } = self;
        dut.inject(ingress, frame, || while plane.serve_oversize() {})
    }

    fn counters(&mut self) -> Counters {
        self.plane.counters().expect("reading the kernel's counters")
    }

    fn take_punts(&mut self) -> Vec<Punt> {
        std::iter::from_fn(|| self.plane.poll_punt()).collect()
    }

    fn take_too_big(&mut self) -> Vec<PacketTooBig> {
        std::iter::from_fn(|| self.plane.poll_too_big()).collect()
    }

    fn dump(&mut self) -> Fib {
        self.plane.dump().expect("reading the kernel's tables")
    }
}
