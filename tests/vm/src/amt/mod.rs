//! AMT (RFC 7450) with the Linux kernel's own driver at the other end: IPv4 outside, which is all that it has, and
//! either version of IP inside.

mod gateway;
mod relay;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role},
    traffic::{Carriage, Witness},
};

use crate::{
    bed::{Bed, Outcome, ensure},
    numbered::Stream,
    pieces::Kernel,
};

/// Packets that have to arrive without a gap.
const MANY: usize = 2000;
/// The same in one of the tests of each direction.
const THOUSANDS: usize = 4000;
/// Packets of one source of a channel that have to.
const FEWER: usize = 500;
/// Packets that are sent while none may arrive.
const SOME: u64 = 300;

/// IGMP and MLD for labs: a leave is complete soon (RFC 9776 §8.8, RFC 9777 §9.8).
const MEMBERSHIP: &str = "[igmp]\nlast_member_query_interval_seconds = 0.2\n\
                          [mld]\nlast_listener_query_interval_seconds = 0.2\n";

/// Types of the AMT messages from a Request to the data (RFC 7450 §5.1.3 to §5.1.6).
const REQUEST_TO_DATA: [u8; 4] = [3, 4, 5, 6];
/// The same after Relay Discovery and Relay Advertisement (RFC 7450 §5.1.1, §5.1.2).
const DISCOVERY_TO_DATA: [u8; 6] = [1, 2, 3, 4, 5, 6];

/// The version of IP inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    /// Joined by IGMP.
    V4,
    /// Joined by MLD.
    V6,
}

impl Inside {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    const fn label(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    /// The stream that is joined whatever its source.
    const fn stream(self) -> Stream {
        let group = match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(239, 192, 7, 1)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1)),
        };
        Stream { group, port: 5004 }
    }

    /// The channel of which one source is joined (RFC 4607).
    const fn channel(self) -> Stream {
        let group = match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(232, 7, 0, 1)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 1)),
        };
        Stream { group, port: 5006 }
    }

    /// The address of a host on a network.
    const fn host(self, network: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(10, network, 0, host)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0xfd00 + network as u16, 0, 0, 0, 0, 0, 0, host as u16)),
        }
    }

    /// The line of `ip` that gives a device the address of a host on a network.
    fn address(self, network: u8, host: u8, device: &str) -> String {
        let address = self.host(network, host);
        match self {
            Self::V4 => format!("addr add {address}/24 dev {device}"),
            Self::V6 => format!("addr add {address}/64 dev {device} nodad"),
        }
    }

    /// The lines of `ip` that make a machine's AMT device ready and give it the addresses of these hosts. MLD is
    /// spoken from a link-local address alone (RFC 9777 §5.1.14), which the driver's devices do not make themselves.
    fn bring_up(self, network: u8, hosts: &[u8]) -> String {
        let mut lines: Vec<String> =
            hosts.iter().map(|host| format!("ip {}", self.address(network, *host, "amt0"))).collect();
        lines.push("ip link set amt0 up".to_owned());
        if self == Self::V6 {
            lines.push("ip addr replace fe80::72/64 dev amt0 nodad".to_owned());
        }
        lines.join("\n")
    }
}

/// How many packets have to arrive without a gap.
fn many(inside: Inside, engine: Engine) -> usize {
    if (inside, engine) == (Inside::V4, Engine::Xdp) { THOUSANDS } else { MANY }
}

/// The engines, each to be named.
const ENGINES: [Engine; 3] = [Engine::Xdp, Engine::Tc, Engine::Software];

type Test = fn(&mut Bed, Inside) -> Outcome;

/// Each test with each version of IP on one kernel, with each engine in turn in one machine.
pub(crate) fn trials(series: &str, kernel: Option<&Kernel>) -> Vec<Trial> {
    let tests: [(&str, &str, Test); 2] = [
        ("the kernel's gateway gets every", "packet of our relay until it leaves", gateway::test),
        ("our gateway gets every", "packet of the kernel's relay until it leaves", relay::test),
    ];
    let mut trials = Vec::new();
    // What has nothing to do with the engine has one of them.
    for inside in Inside::ALL {
        let name = format!(
            "the kernel's gateway finds our relay at an anycast address and gets every {} packet",
            inside.label()
        );
        trials.push(crate::trial(series, kernel, name, move |bed| gateway::anycast(bed, inside)));
    }
    for (inside, protocol, version) in
        [(Inside::V4, "IGMP", 1), (Inside::V6, "MLD", 1), (Inside::V6, "MLD", 2)]
    {
        let name = format!(
            "a host of {protocol} version {version} behind the kernel's gateway gets every packet of our relay as long \
             as it answers"
        );
        trials.push(crate::trial(series, kernel, name, move |bed| gateway::kept(bed, inside, version)));
    }
    for (before, after, test) in tests {
        for inside in Inside::ALL {
            let name = format!("{before} {} {after}, with each engine", inside.label());
            trials.push(crate::trial(series, kernel, name, move |bed| test(bed, inside)));
        }
    }
    trials
}

/// Fails unless a router replicates by the engine that it was told.
fn is_engine(router: &Role, engine: Engine) -> Outcome {
    let label = router.engine().map(|(label, _)| label);
    let expected = match engine {
        Engine::Software => "software",
        Engine::Tc => "tc-clone",
        Engine::Auto | Engine::Xdp => "xdp-broadcast",
    };
    ensure!(label.as_deref() == Some(expected), "the engine is {label:?}");
    Ok(())
}

/// Watches an interface on which nothing of a stream may ever come in.
fn forbid(bed: &Bed, node: &Namespace, interface: &str, stream: Stream) -> Result<Witness, Failed> {
    let witness = Witness::start(node, interface, stream.address(), bed.clock)?;
    witness.forbid(true);
    Ok(witness)
}

/// How much of the stream came in at a witness.
fn came_in(witness: &Witness) -> u64 {
    witness.incoming(Carriage::Amt).packets + witness.incoming(Carriage::Native).packets
}

/// Waits until a witness sees nothing of the stream while a source sends more of it.
fn until_silent(bed: &Bed, witness: &Witness, mut send: impl FnMut() -> Result<(), Failed>) -> Outcome {
    bed.until("the stream stops after the leave", || {
        let before = came_in(witness);
        send()?;
        Ok(came_in(witness) == before)
    })
}
