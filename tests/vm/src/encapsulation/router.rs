//! The data plane of a node, told what to do by the test itself.

use std::net::SocketAddr;

use libtest_mimic::Failed;
use vmcast_common::{
    fib::{self, EngineWish, FibOp, IfIndex, Interface, NextHop, Tag, TagProtocol},
    hdr::eth::Mac,
};
use vmcast_dataplane::{
    Dataplane as _,
    kernel::{KernelPlane, Options, Rule},
};
use vmcast_lab::Namespace;

use super::member::{self, Member};
use crate::{
    bed::{Bed, Outcome},
    devices::Link,
    frame::SERVICE_TAG,
    vm::MAC,
};

/// The node's end of the wire.
pub(super) const WIRE: &str = "mch0";

/// A node that forwards.
pub(super) struct Router {
    node: Namespace,
    plane: KernelPlane,
    /// The wire's number and link-layer address.
    pub(super) wire: (IfIndex, Mac),
}

impl Router {
    /// Loads the programs, with the wire and every link on it.
    pub(super) fn start(node: &Namespace, rule: Rule) -> Result<Self, Failed> {
        let options = Options { rule, ..Options::default() };
        let (wire, plane) = node.enter(|| -> Result<_, String> {
            let plane = KernelPlane::open(&options).map_err(|error| error.to_string())?;
            Ok((device(WIRE)?, plane))
        })??;
        let mut router = Self { node: node.clone(), plane, wire };
        let (ifindex, mac) = wire;
        router.apply(Link::ALL.iter().flat_map(|link| {
            let is_session = link.session().is_some();
            let interface = Interface {
                ifindex: member::interface(*link, ifindex),
                device: ifindex,
                link: on_wire(*link),
                peer: is_session.then_some(MAC),
                mac,
                mtu: link.mtu(),
                accepts_sources: false,
                shared: false,
                engine: EngineWish::Any,
                xdp_members: None,
            };
            let hop = NextHop {
                ifindex,
                link: on_wire(*link),
                source_mac: mac,
                destination_mac: Some(MAC),
                mtu: link.mtu(),
            };
            [FibOp::SetInterface(interface), FibOp::SetNextHop(member::next_hop(*link), hop)]
        }))?;
        Ok(router)
    }

    /// Adds an interface of the node that is not the wire.
    pub(super) fn add(&mut self, name: &str) -> Result<IfIndex, Failed> {
        let (ifindex, mac) = self.node.enter(|| device(name))??;
        self.apply([FibOp::SetInterface(Interface {
            ifindex,
            device: ifindex,
            link: fib::Link::PLAIN,
            peer: None,
            mac,
            mtu: 1500,
            accepts_sources: false,
            shared: false,
            engine: EngineWish::Any,
            xdp_members: None,
        })])?;
        Ok(ifindex)
    }

    /// Adds the tunnels of members, and what of them is our own end.
    pub(super) fn add_tunnels(&mut self, members: &[Member], accepts_sources: bool) -> Outcome {
        let tunnels = members.iter().filter_map(|member| member.tunnel(accepts_sources));
        self.apply(tunnels.flat_map(|(id, tunnel)| {
            let endpoint: Option<SocketAddr> = (tunnel.local.port() != 0).then_some(tunnel.local);
            [Some(FibOp::SetTunnel(id, tunnel)), endpoint.map(FibOp::SetEndpoint)].into_iter().flatten()
        }))
    }

    /// Changes the desired state.
    pub(super) fn apply(&mut self, ops: impl IntoIterator<Item = FibOp>) -> Outcome {
        let ops: Vec<FibOp> = ops.into_iter().collect();
        let Self { node, plane, .. } = self;
        node.enter(|| plane.apply(&ops).map_err(|error| error.to_string()))??;
        Ok(())
    }

    /// Does what the kernel leaves to the process.
    pub(super) fn serve(&mut self) -> Outcome {
        let Self { node, plane, .. } = self;
        node.enter(|| while plane.serve_waiting() {})?;
        Ok(())
    }

    /// Takes the programs down. What they leave on devices is found in the node alone.
    pub(super) fn end(self) -> Outcome {
        let Self { node, plane, .. } = self;
        Ok(node.enter(|| drop(plane))?)
    }

    /// Packets that were put together out of fragments.
    pub(super) fn reassembled(&self) -> Result<u64, Failed> {
        Ok(self.plane.counters()?.reassembled)
    }

    /// Waits until so many packets of all streams have been forwarded.
    pub(super) fn until_forwarded(&self, bed: &Bed, packets: u64) -> Outcome {
        let forwarded = || -> Result<u64, Failed> {
            Ok(self.plane.counters()?.streams.iter().map(|stream| stream.counters.packets).sum())
        };
        bed.until(&format!("{packets} packets are forwarded"), || Ok(forwarded()? >= packets)).map_err(
            |failed| {
                let message = failed.message().unwrap_or_default();
                format!("{message}; the counters are {:?}", self.plane.counters()).into()
            },
        )
    }

    /// What was not forwarded or not copied, as text; empty if nothing was lost.
    pub(super) fn drops(&self) -> Result<String, Failed> {
        let drops = self.plane.counters()?.drops;
        let lost: Vec<String> = drops
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(reason, count)| format!("{reason:?}: {count}"))
            .collect();
        Ok(lost.join(", "))
    }
}

/// The link-layer address of an interface of a node.
pub(super) fn mac(node: &Namespace, name: &str) -> Result<Mac, Failed> {
    Ok(node.enter(|| device(name))??.1)
}

/// A link as the data plane has it.
fn on_wire(link: Link) -> fib::Link {
    let mut tags = link.tags().iter().map(|(kind, id)| Tag {
        protocol: if *kind == SERVICE_TAG { TagProtocol::Dot1ad } else { TagProtocol::Dot1q },
        id: *id,
    });
    fib::Link { tags: [tags.next(), tags.next()], session: link.session().map(|(number, _)| number) }
}

/// An interface of the calling thread's namespace.
fn device(name: &str) -> Result<(IfIndex, Mac), String> {
    let index = nix::net::if_::if_nametoindex(name).map_err(|error| format!("{name}: {error}"))?;
    let mac = nix::ifaddrs::getifaddrs()
        .map_err(|error| format!("listing interfaces: {error}"))?
        .filter(|entry| entry.interface_name == name)
        .find_map(|entry| entry.address?.as_link_addr()?.addr())
        .ok_or_else(|| format!("{name} has no link-layer address"))?;
    Ok((IfIndex(index), mac))
}
