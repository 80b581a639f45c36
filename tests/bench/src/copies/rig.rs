//! The wires: one interface that packets come in by, sixteen that copies go out by.

use std::{fmt::Write as _, net::Ipv4Addr, net::SocketAddrV4};

use anyhow::{Context as _, Result};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use vmcast_common::fib::IfIndex;
use vmcast_lab::{Lab, Namespace, netns::Offload};

use crate::sink::Sink;

/// Egress devices: a burst of copies to few of them would overflow their rings, of 256 frames each.
pub(super) const EGRESS: usize = 4;
/// Ports of the stream itself; those of the members follow.
pub(super) const NATIVE_PORT: u16 = 9_999;
const FIRST_PORT: u16 = 10_000;

/// An interface of the node under test, and the far end of its cable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cable {
    pub(super) ifindex: IfIndex,
    pub(super) near_mac: [u8; 6],
    pub(super) far_mac: [u8; 6],
    pub(super) near: Ipv4Addr,
    pub(super) far: Ipv4Addr,
}

/// The node under test with its cables, and the sink behind them.
pub(super) struct Rig {
    pub(super) ingress: Cable,
    pub(super) egress: Vec<Cable>,
    pub(super) sink: Sink,
    pub(super) dut: Namespace,
    _lab: Lab,
}

impl Rig {
    pub(super) fn build() -> Result<Self> {
        let mut lab = Lab::new("bench-copies")?;
        let [dut, far] = lab.namespaces(["dut", "far"])?;
        for namespace in [&dut, &far] {
            namespace
                .sysctl(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
        }
        let names: Vec<String> =
            std::iter::once("in0".to_owned()).chain((0..EGRESS).map(|index| format!("e{index}"))).collect();
        let plugs: Vec<_> = names.iter().map(|name| ((&dut, name.as_str()), (&far, name.as_str()))).collect();
        lab.veths(&plugs)?;

        let near = dut.enter(|| interfaces(&names))??;
        let there = far.enter(|| interfaces(&names))??;
        let mut cables: Vec<Cable> = near
            .iter()
            .zip(&there)
            .zip(0u8..)
            .map(|((near, far), number)| Cable {
                ifindex: IfIndex(near.0),
                near_mac: near.1,
                far_mac: far.1,
                near: Ipv4Addr::new(10, 200, number, 1),
                far: Ipv4Addr::new(10, 200, number, 2),
            })
            .collect();
        let mut lines = String::new();
        for (name, cable) in names.iter().zip(&cables) {
            let Cable { near, far, far_mac: [a, b, c, d, e, f], .. } = cable;
            writeln!(lines, "addr add {near}/24 dev {name}")?;
            writeln!(
                lines,
                "neigh replace {far} lladdr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} dev {name} nud permanent"
            )?;
            // As on an interface that computes checksums itself.
            dut.set_offload(name, Offload::TxChecksum, true)?;
        }
        dut.ip(&lines)?;

        let sink = far.enter(|| -> Result<Sink> {
            let mut sink = Sink::load()?;
            there.iter().skip(1).try_for_each(|(ifindex, _)| sink.attach(*ifindex))?;
            Ok(sink)
        })??;
        let ingress = cables.remove(0);
        Ok(Self { ingress, egress: cables, sink, dut, _lab: lab })
    }

    /// The cable that a member is behind.
    pub(super) fn cable(&self, member: usize) -> &Cable {
        &self.egress[member % EGRESS]
    }

    /// The address of a member, and the port that the sink counts it by.
    pub(super) fn member(&self, member: usize) -> SocketAddrV4 {
        let port = u16::try_from(member).ok().and_then(|member| FIRST_PORT.checked_add(member));
        SocketAddrV4::new(self.cable(member).far, port.expect("a member has a port"))
    }

    /// Copies that arrived so far at each of the first `members`.
    pub(super) fn arrived(&self, members: usize) -> Result<Vec<u64>> {
        self.sink.counts(FIRST_PORT, members)
    }
}

/// Indices and link-layer addresses of interfaces of the calling thread's namespace.
fn interfaces(names: &[String]) -> Result<Vec<(u32, [u8; 6])>> {
    let all: Vec<_> = getifaddrs().context("listing interfaces")?.collect();
    names
        .iter()
        .map(|name| {
            let index = if_nametoindex(name.as_str()).with_context(|| name.clone())?;
            let mac = all
                .iter()
                .filter(|entry| entry.interface_name == *name)
                .find_map(|entry| entry.address?.as_link_addr()?.addr());
            Ok((index, mac.with_context(|| format!("{name} has no Ethernet address"))?))
        })
        .collect()
}
