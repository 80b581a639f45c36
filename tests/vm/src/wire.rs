//! The wire between a node of the lab and a machine: a bridge that learns nothing of multicast.
//!
//! ```text
//! +------+       +-----------------------+       +---------+
//! | node |-------| near    wire      far |-------| machine |
//! +------+ veth  +-----------------------+  tap  +---------+
//!                                                 eth0
//! ```
//!
//! What a kernel program of the node sends past every packet socket of the node is seen at `near`.

use std::net::{Ipv4Addr, Ipv6Addr};

use libtest_mimic::Failed;
use vmcast_lab::Namespace;

use crate::{bed::Bed, offload, vm::Vm};

/// The end of the node.
pub(crate) const NEAR: &str = "near";
/// The end of the machine.
pub(crate) const FAR: &str = "far";
/// The bridge, which sees what either end sends.
pub(crate) const BRIDGE: &str = "both";

/// Frames that wait for a machine which gets no processor for a moment: more than any test sends in a burst. Of a tap's own
/// 1000 the rest would be lost.
const WAITING: u32 = 16_384;

/// The node's addresses.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 1);
pub(crate) const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0, 0, 0, 0, 0, 0, 1);
/// The machine's.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 70, 0, 2);
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd70, 0, 0, 0, 0, 0, 0, 2);

/// A wire.
pub(crate) struct Wire {
    pub(crate) node: Namespace,
}

impl Wire {
    /// A wire that ends at the bridge: the test sends its own frames from there.
    pub(crate) fn open(bed: &mut Bed) -> Result<Self, Failed> {
        let node = bed.lab.namespace("wire")?;
        node.ip(&format!(
            "tuntap add dev {FAR} mode tap\nlink set {FAR} txqueuelen {WAITING}\n\
             link add {BRIDGE} type bridge mcast_snooping 0\nlink set {FAR} master {BRIDGE}\n\
             link set {FAR} up\nlink set {BRIDGE} up"
        ))?;
        Ok(Self { node })
    }

    /// A wire to an interface of a node, which gets the node's addresses.
    pub(crate) fn to(bed: &mut Bed, node: &Namespace, interface: &str) -> Result<Self, Failed> {
        let wire = Self::open(bed)?;
        bed.lab.veth((node, interface), (&wire.node, NEAR))?;
        // The bridge takes the outer tag out of each frame; only without these it is back in the frame, and not
        // beside it, when the kernel programs of the node see it.
        let tags = ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"];
        wire.node
            .enter(|| {
                offload::turn(false, NEAR, &tags).map_err(|failed| failed.message().map(str::to_owned))
            })?
            .map_err(|why| why.unwrap_or_default())?;
        wire.node.ip(&format!("link set {NEAR} master {BRIDGE}"))?;
        node.ip(&format!("addr add {HOST}/24 dev {interface}\naddr add {HOST6}/64 dev {interface} nodad"))?;
        Ok(wire)
    }
}

/// Gives the machine its addresses on the wire.
pub(crate) fn set_up(vm: &mut Vm) -> Result<(), Failed> {
    vm.run(&format!("ip addr add {GUEST}/24 dev eth0\nip addr add {GUEST6}/64 dev eth0 nodad"))?;
    Ok(())
}
