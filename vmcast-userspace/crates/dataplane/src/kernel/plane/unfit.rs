//! Devices that take no frames redirected at XDP: where nothing but XDP is to be used, or while they are set down.
//!
//! The kernel leaves such a device out of a broadcast before any program sees the copy. Nobody joins by one of the first
//! kind, but a way may come to lead there while it has members, and a device may cease to take frames. Those members stand
//! on a relay device in its place, where the copy program meets their copies, drops them and counts them.

use vmcast_common::{
    fib::{IfIndex, Interface, NextHop, NextHopId, Output, Way},
    maps::NextHopEntry,
};

use super::KernelPlane;
use crate::kernel::{
    error::{Failure, KernelError},
    member_table::MemberSpec,
};

impl KernelPlane {
    /// Whether copies for a device would go nowhere, and nobody would hear of it.
    pub(super) fn takes_none(&mut self, device: IfIndex) -> bool {
        let wish = self.state.wishes(device.0).engine;
        let takes_none = self.devices.takes_none(device.0, wish);
        if takes_none {
            // It is noted, so that what is done by it is taken back once that has changed.
            self.engine_of(device.0);
        }
        takes_none
    }

    /// Whether nobody may join by a device, for it would get nothing as long as the configuration is what it is.
    pub(super) fn is_unfit(&mut self, device: IfIndex) -> bool {
        let wish = self.state.wishes(device.0).engine;
        self.devices.is_unfit(device.0, wish)
    }

    /// What the kernel must know of a member, `None` if the output was never set.
    pub(super) fn spec(&mut self, output: Output) -> Option<MemberSpec> {
        let spec = self.state.spec(output)?;
        if self.takes_none(IfIndex(spec.ifindex))
            && let Some(relay) = &self.table_relay
        {
            return Some(MemberSpec { ifindex: relay.near.0, weak: true, ..spec });
        }
        Some(spec)
    }

    /// Writes every way whose device has come to take no copies (`refused`), or takes them again. The first is done
    /// before its members move, the second after that: no copy leaves by a relay device.
    pub(super) fn write_fitness(&mut self, refused: bool) -> Result<(), Failure> {
        let hops: Vec<NextHopId> = self.state.next_hops.keys().copied().collect();
        for id in hops {
            self.write_fitness_of_hop(id, refused)?;
        }
        let interfaces: Vec<IfIndex> = self.state.interfaces.keys().copied().collect();
        for ifindex in interfaces {
            self.write_fitness_of_interface(ifindex, refused)?;
        }
        Ok(())
    }

    /// Writes the way of a member whose device takes no copies, if that has not been done.
    pub(super) fn refuse_way_of(&mut self, output: Output) -> Result<(), Failure> {
        let way = match output {
            Output::Interface(ifindex) => Some(Way::Interface(ifindex)),
            Output::Neighbour(id) => Some(Way::NextHop(Some(id))),
            Output::Tunnel(id) => self.state.tunnels.get(id).map(|tunnel| Way::NextHop(tunnel.next_hop)),
            Output::Converted(id) => self.state.conversions.get(id).map(|conversion| conversion.way),
        };
        match way {
            Some(Way::Interface(ifindex)) => self.write_fitness_of_interface(ifindex, true)?,
            Some(Way::NextHop(Some(id))) => self.write_fitness_of_hop(id, true)?,
            Some(Way::NextHop(None)) | None => {}
        }
        Ok(())
    }

    /// The same for one next hop.
    pub(super) fn write_fitness_of_hop(&mut self, id: NextHopId, refused: bool) -> Result<(), KernelError> {
        let Some(device) = self.state.next_hops.get(&id).map(|state| state.hop.ifindex) else {
            return Ok(());
        };
        if self.takes_none(device) == refused
            && let Some(state) = self.state.next_hops.get_mut(&id)
            && state.refused != refused
        {
            let entry = NextHopEntry::of(&NextHop { mtu: state.mtu, ..state.hop });
            let entry = as_written(entry, refused, self.devices.is_bare(device.0));
            self.maps.write_next_hop(state.index, &entry, device.0)?;
            state.refused = refused;
        }
        Ok(())
    }

    /// The same for one interface.
    pub(super) fn write_fitness_of_interface(
        &mut self,
        ifindex: IfIndex,
        refused: bool,
    ) -> Result<(), KernelError> {
        let Some(device) = self.state.interfaces.get(&ifindex).map(|state| state.interface.device) else {
            return Ok(());
        };
        if self.takes_none(device) == refused
            && let Some(state) = self.state.interfaces.get_mut(&ifindex)
            && state.refused != refused
        {
            let entry = NextHopEntry::native(&Interface { mtu: state.mtu, ..state.interface });
            let entry = as_written(entry, refused, self.devices.is_bare(device.0));
            self.maps.write_next_hop(state.next_hop, &entry, device.0)?;
            state.refused = refused;
        }
        Ok(())
    }
}

/// A way as the kernel's table has it: whether its device takes no copies, and whether it sends without a link-layer
/// header.
pub(super) const fn as_written(entry: NextHopEntry, refused: bool, bare: bool) -> NextHopEntry {
    let entry = if bare { entry.bare() } else { entry };
    if refused { entry.refused() } else { entry }
}
