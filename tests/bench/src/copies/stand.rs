//! The place of an engine: a namespace with one interface that packets come in by and others that
//! copies go out by, and the sink at the far ends.

use std::{fmt::Write as _, net::Ipv4Addr};

use anyhow::{Context as _, Result};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};
use vmcast_lab::{Lab, Namespace, netns::Offload};

use super::engine::Receiver;
use crate::kernel::{
    layout::{INTERFACE_KEYS, PORT_KEYS},
    sink::Sink,
};

/// UDP port of the first member; those of the others follow.
pub(crate) const FIRST_PORT: u16 = 10_000;
/// The interface that packets come in by.
pub(crate) const INGRESS: &str = "in0";

/// An interface of the node under test, and the far end of its cable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cable {
    pub(crate) ifindex: u32,
    pub(crate) near_mac: [u8; 6],
    pub(crate) near: Ipv4Addr,
    pub(crate) far_ifindex: u32,
    pub(crate) far_mac: [u8; 6],
    pub(crate) far: Ipv4Addr,
}

/// The node under test with its cables.
pub(crate) struct Stand {
    pub(crate) ingress: Cable,
    pub(crate) egress: Vec<Cable>,
    pub(crate) dut: Namespace,
    pub(crate) far: Namespace,
}

/// The name of an egress interface.
pub(crate) fn egress_name(number: usize) -> String {
    format!("e{number}")
}

impl Stand {
    pub(crate) fn build(lab: &mut Lab, name: &str, outputs: usize) -> Result<Self> {
        let [dut, far] = lab.namespaces([name, &format!("{name}-far")])?;
        for namespace in [&dut, &far] {
            namespace
                .sysctl(&[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")])?;
        }
        let names: Vec<String> =
            std::iter::once(INGRESS.to_owned()).chain((0..outputs).map(egress_name)).collect();
        let plugs: Vec<_> = names.iter().map(|name| ((&dut, name.as_str()), (&far, name.as_str()))).collect();
        lab.veths(&plugs)?;

        let near = dut.enter(|| interfaces(&names))??;
        let there = far.enter(|| interfaces(&names))??;
        let mut cables: Vec<Cable> = near
            .iter()
            .zip(&there)
            .zip(0u8..)
            .map(|((near, far), number)| Cable {
                ifindex: near.0,
                near_mac: near.1,
                near: Ipv4Addr::new(10, 200, number, 1),
                far_ifindex: far.0,
                far_mac: far.1,
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
        let ingress = cables.remove(0);
        Ok(Self { ingress, egress: cables, dut, far })
    }

    /// Builds it with the sink at the far ends.
    pub(super) fn with_sink(lab: &mut Lab, sink: &mut Sink, name: &str, outputs: usize) -> Result<Self> {
        let stand = Self::build(lab, name, outputs)?;
        let far_ends: Vec<u32> = stand.egress.iter().map(|cable| cable.far_ifindex).collect();
        stand.far.enter(|| sink.attach(far_ends))??;
        Ok(stand)
    }
}

/// The sink's number of a member that is known by its UDP port.
pub(super) fn port_receiver(member: usize) -> Result<Receiver> {
    Ok(Receiver::once(PORT_KEYS + u32::from(member_port(member)?)))
}

/// The UDP port of a member.
pub(super) fn member_port(member: usize) -> Result<u16> {
    let port = u16::try_from(member).ok().and_then(|member| FIRST_PORT.checked_add(member));
    port.with_context(|| format!("member {member} has no port"))
}

/// The sink's number of what comes natively by a cable.
pub(super) fn interface_receiver(cable: &Cable) -> Receiver {
    Receiver::once(INTERFACE_KEYS + cable.far_ifindex)
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
