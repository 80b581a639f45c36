//! Interfaces, the programs on their devices, and which engine serves each device.

use std::collections::BTreeSet;

use vmcast_common::{
    fib::{IfIndex, Interface, Link, Output, Way},
    maps::{self, InterfaceKey, NextHopEntry, limit},
};

use super::{Egress, KernelPlane, unfit::as_written};
use crate::{
    kernel::{
        attach::Role,
        chain::Ways,
        device::Rule,
        error::{Failure, KernelError},
        list,
        open::chain,
        relay::Relay,
        state::InterfaceState,
        writes::{MemberWrites as _, forgive_missing},
    },
    plane::{Engine, Hook},
};

impl KernelPlane {
    pub(super) fn set_interface(&mut self, interface: Interface) -> Result<(), Failure> {
        self.devices.forget();
        let Interface { ifindex, device, .. } = interface;
        let known = self.state.interfaces.get(&ifindex).map(|known| (known.next_hop, known.refused));
        let (next_hop, refused_before) = match known {
            Some(known) => known,
            None => (self.hops.take()?, false),
        };
        let written = self.write_link(interface);
        if written.is_err() && known.is_none() {
            self.remains.hops.push(next_hop);
        }
        written?;
        self.write_vlan_of(interface)?;
        let mtu = self.usable_mtu(interface.mtu, &interface.link, device);
        let wish = self.state.wishes(device.0).engine.max(interface.wish());
        let takes_none = self.devices.takes_none(device.0, wish);
        // Its members may stand where none of its copies may leave.
        let refused = takes_none || refused_before;
        let bare = self.devices.is_bare(device.0);
        let entry = as_written(NextHopEntry::native(&Interface { mtu, ..interface }), refused, bare);
        self.maps.write_next_hop(next_hop, &entry, device.0)?;
        let now = InterfaceState { interface, next_hop, mtu, refused };
        let before = self.state.put_interface(now);
        if let Err(error) = self.serve_device(device) {
            if before.is_none() {
                self.state.take_interface(ifindex);
                self.remains.hops.push(next_hop);
                self.forget_link(&interface)?;
                self.forget_vlan_of(interface)?;
            }
            return Err(error);
        }
        if before.is_none() {
            self.put_converted_by(Way::Interface(ifindex))?;
        }
        if let Some(InterfaceState { interface: before, mtu: before_mtu, .. }) = before {
            if InterfaceKey::of(&before) != InterfaceKey::of(&interface) {
                self.forget_link(&before)?;
            }
            if before_mtu != mtu || before.device != device || refused_before != takes_none {
                self.put_everywhere(Output::Interface(ifindex))?;
                self.put_converted_by(Way::Interface(ifindex))?;
                self.write_fitness_of_interface(ifindex, false)?;
            }
        }
        Ok(())
    }

    pub(super) fn remove_interface(&mut self, ifindex: IfIndex) -> Result<(), Failure> {
        let Some(state) = self.state.take_interface(ifindex) else {
            return Ok(());
        };
        self.devices.forget();
        self.unshare_all(ifindex)?;
        self.forget_link(&state.interface)?;
        self.forget_vlan_of(state.interface)?;
        self.drop_everywhere(Output::Interface(ifindex))?;
        self.put_converted_by(Way::Interface(ifindex))?;
        self.remains.hops.push(state.next_hop);
        self.leave_to_xdp(state.interface.device)
    }

    /// Forgets which link an interface was, if no other took it over, and looks no longer at a device that
    /// no interface is on any more.
    fn forget_link(&mut self, interface: &Interface) -> Result<(), Failure> {
        let key = InterfaceKey::of(interface);
        if self.maps.interfaces.get(&key, 0).is_ok_and(|entry| entry.ifindex == interface.ifindex.0) {
            forgive_missing(self.maps.interfaces.remove(&key), maps::INTERFACES)?;
        }
        if !self.state.has_device(interface.device) {
            self.served.remove(&interface.device);
            self.xdp_first.remove(&interface.device);
            self.shapes.forget_device(interface.device.0);
            self.attachments.detach(&mut self.object, interface.device)?;
        }
        Ok(())
    }

    /// The MTU of a link, but no more than its device has, which the kernel would leave out of a broadcast before any
    /// program sees the copy, and no more than it takes with the tags of the link.
    pub(super) fn usable_mtu(&mut self, mtu: u16, link: &Link, device: IfIndex) -> u16 {
        if let Some(of_device) = self.devices.mtu(device.0) {
            self.state.note_mtu(device.0, of_device);
        }
        self.devices.largest(device.0, link.header_len()).map_or(mtu, |largest| mtu.min(largest))
    }

    /// Lets the right program decide on what a device receives, and makes what its engine needs.
    fn serve_device(&mut self, device: IfIndex) -> Result<(), Failure> {
        if !self.served.contains_key(&device) {
            // Those that were made while there was none of its number have no slots of it.
            self.shapes.forget_device(device.0);
            self.restore_slots(device)?;
        }
        let native = self.devices.is_native(device.0, self.state.wishes(device.0).engine);
        self.attach_programs(device, native)?;
        self.maps.prepare_device(device.0)?;
        let (engine, reason) = self.engine_of(device.0);
        let why = match self.state.wishes(device.0).xdp_members {
            Some(_) => "its interface says so (xdp_members)",
            None => "its transmit ring has no room for more copies at once",
        };
        let at_xdp = engine == Engine::XdpBroadcast;
        let room = self.room(device.0).filter(|_| at_xdp).map(|room| (room, why));
        self.served.insert(device, Egress { engine, reason, room });
        if self.devices.rule() == Rule::Tc {
            return Ok(());
        }
        match self.make_relays(engine == Engine::TcClone) {
            Ok(()) => Ok(()),
            Err(error) => self.do_without_relays(error),
        }
    }

    /// Serves the members again that stand on a device which was gone and has come back with its number before they could
    /// move: the kernel has emptied their slots.
    fn restore_slots(&mut self, device: IfIndex) -> Result<(), Failure> {
        let known = self.state.streams.iter().filter(|(_, state)| state.chain.knows(device.0));
        let known: Vec<u32> = known.map(|(stats, _)| *stats).collect();
        let ways = self.ways();
        known.into_iter().try_for_each(|stats| {
            self.change_chain(stats, |state, backing, change| {
                state.chain.restore(device.0, ways, backing, change)
            })
        })
    }

    /// Makes the relay devices that XDP needs, and that to members at TC if it is `listed`.
    fn make_relays(&mut self, listed: bool) -> Result<(), KernelError> {
        if self.table_relay.is_none() {
            let relay = Relay::create(self.stays, limit::RELAY_MTU)?;
            self.attachments.attach(&mut self.object, relay.far, Role::Chunk)?;
            self.maps.prepare_device(relay.near.0)?;
            self.maps.write_relay(maps::TO_TABLES, relay.near.0)?;
            self.table_relay = Some(relay);
        }
        if listed { self.make_list_relay() } else { Ok(()) }
    }

    /// Goes on at TC alone if no relay device can be made, where each packet is copied for all members in one go.
    ///
    /// # Errors
    /// The error, if XDP alone is asked for; or if the kernel refuses a change.
    pub(super) fn do_without_relays(&mut self, error: KernelError) -> Result<(), Failure> {
        if self.devices.rule() == Rule::Xdp {
            return Err(error.into());
        }
        self.note_no_relay(&error);
        if self.devices.rule() == Rule::Auto && self.devices.set_without_relays(true) {
            self.move_members()?;
        }
        Ok(())
    }

    /// Notes why there is no relay device, for the operator. Members at TC are served in one go without it.
    pub(super) fn note_no_relay(&mut self, error: &KernelError) {
        let text = chain(error);
        if self.no_relay.is_none() {
            tracing::warn!(
                error = text,
                "no relay device can be made: TC serves all members, those of a stream in one go, in which others wait"
            );
        }
        self.no_relay = Some(text);
        self.list_chunk = u32::MAX;
    }

    /// Tries again to make relay devices, if that has failed, and serves by them what was served without.
    pub(super) fn try_relays_again(&mut self) -> Result<(), Failure> {
        if self.no_relay.is_none() {
            return Ok(());
        }
        let made = if self.devices.rule_asked_for() == Rule::Tc {
            self.make_list_relay()
        } else {
            self.make_relays(true)
        };
        if let Err(error) = made {
            self.note_no_relay(&error);
            return Ok(());
        }
        tracing::info!("relay devices could be made: members are served by them from now on");
        self.no_relay = None;
        self.list_chunk = self.list_chunk_asked_for;
        if self.devices.set_without_relays(false) {
            self.lead_to_lists()?;
            self.move_members()?;
        }
        self.divide_lists()
    }

    /// Gives lists that were filled without a relay device the pauses that they have not.
    fn divide_lists(&mut self) -> Result<(), Failure> {
        let streams: Vec<u32> = self.state.streams.keys().copied().collect();
        streams.into_iter().try_for_each(|stats| {
            self.change_list(stats, |list, backing| list.divide(backing).map(|()| list::Change::default()))
        })
    }

    /// Lets what comes in at XDP find the members at TC that there are.
    fn lead_to_lists(&mut self) -> Result<(), Failure> {
        let ways = self.ways();
        let listed = self.state.streams.iter().filter(|(_, state)| state.list.first() != 0);
        let listed: Vec<u32> = listed.map(|(stats, _)| *stats).collect();
        listed.into_iter().try_for_each(|stats| {
            self.change_chain(stats, |state, backing, change| {
                state.chain.set_list(Some(stats), ways, backing, change)
            })
        })
    }

    /// Makes the relay device to members at TC, if there is none.
    pub(super) fn make_list_relay(&mut self) -> Result<(), KernelError> {
        if self.list_relay.is_some() {
            return Ok(());
        }
        let relay = Relay::create(self.stays, limit::LIST_RELAY_MTU)?;
        self.attachments.attach(&mut self.object, relay.far, Role::List)?;
        self.maps.prepare_device(relay.near.0)?;
        self.maps.write_relay(maps::TO_LISTS, relay.near.0)?;
        self.list_relay = Some(relay);
        Ok(())
    }

    /// By which engine copies leave a device.
    pub(super) fn engine_of(&mut self, device: u32) -> (Engine, &'static str) {
        let wish = self.state.wishes(device).engine;
        let runs_native = self.attachments.hook(IfIndex(device)) == Some(Hook::Xdp);
        self.devices.engine(device, wish, runs_native)
    }

    /// The devices of ours that copies go through.
    pub(super) fn ways(&self) -> Ways {
        let near = |relay: &Option<Relay>| relay.as_ref().map(|relay| relay.near.0);
        let of_device = limit::OF_DEVICE;
        Ways { chunk: self.chunk, of_device, tables: near(&self.table_relay), lists: near(&self.list_relay) }
    }

    /// Serves every device by what it can now, and moves the members of those that changed: the driver of one, or
    /// the far end of a veth, may come to take frames of XDP or cease to.
    pub(super) fn serve_anew(&mut self) -> Result<(), Failure> {
        for device in self.devices.in_use() {
            self.engine_of(device);
        }
        if !self.devices.take_changed() {
            return Ok(());
        }
        self.move_members().inspect_err(|_| self.devices.try_again())
    }

    /// Moves every member to the engine by which its device is served now, or away from one that takes no copies.
    fn move_members(&mut self) -> Result<(), Failure> {
        let served: BTreeSet<IfIndex> =
            self.state.interfaces.values().map(|state| state.interface.device).collect();
        // What one of them is refused must not keep others where no copy comes.
        let mut failed = Ok(());
        for device in served {
            failed = failed.and(self.serve_device(device));
        }
        self.write_fitness(true)?;
        let mut moved = Vec::new();
        let streams: Vec<u32> = self.state.streams.keys().copied().collect();
        for stats in streams {
            let outputs: Vec<Output> = self.state.streams[&stats].outputs().collect();
            for output in outputs {
                let Some(spec) = self.spec(output) else { continue };
                let at_tc = self.serves_at_tc(stats, output, spec.ifindex);
                let state = &self.state.streams[&stats];
                if state.list.contains(output) != at_tc || state.chain.stands_elsewhere(output, spec.ifindex)
                {
                    moved.push((stats, output));
                }
            }
        }
        for (stats, output) in moved {
            failed = failed.and(self.put_member(stats, output));
        }
        // Of a member that could not move the way stays refused, as long as its device takes none.
        self.write_fitness(false)?;
        failed
    }
}
