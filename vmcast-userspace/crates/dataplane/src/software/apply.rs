//! Changes of the forwarding base.

use std::{
    collections::{BTreeMap, hash_map},
    net::SocketAddr,
};

use vmcast_common::{
    fib::{
        Conversion, ConversionId, FibOp, Interface, Members, Output, Priority, Rpf, Stream, Tunnel, TunnelId,
        Way,
    },
    maps::{InterfaceKey, Losses, StreamCounters, StreamKey, TunnelKey, limit},
};

use super::{
    Limits,
    tables::{Known, StreamState, Tables},
};
use crate::{
    ApplyError, Engine, carried,
    endpoints::Change::{self, Input, Tunnels},
};

/// Why a change was refused, without the operation that asked for it.
enum Refused {
    Unknown,
    Full { table: &'static str, limit: u32 },
    Unsupported(&'static str),
}

impl Tables {
    /// Applies one operation; a refused one changes nothing.
    ///
    /// # Errors
    /// As [`crate::Dataplane::apply`].
    pub(super) fn apply(&mut self, op: &FibOp, limits: &Limits) -> Result<(), ApplyError> {
        self.change(op, limits).map_err(|refused| match refused {
            Refused::Unknown => ApplyError::Unknown { op: *op },
            Refused::Full { table, limit } => ApplyError::Full { table, limit, op: *op },
            Refused::Unsupported(why) => {
                ApplyError::Unsupported { op: *op, engine: Engine::Software.label(), why }
            }
        })
    }

    fn change(&mut self, op: &FibOp, limits: &Limits) -> Result<(), Refused> {
        carried::check(op).map_err(Refused::Unsupported)?;
        self.version += 1;
        match *op {
            FibOp::SetInterface(interface) => self.set_interface(interface, limits)?,
            FibOp::RemoveInterface(ifindex) => {
                if let Some(interface) = self.interfaces.remove(&ifindex) {
                    self.forget_link(&interface);
                }
                self.shared_groups.retain(|(on, _)| *on != ifindex);
                self.leave_all(Output::Interface(ifindex));
            }
            FibOp::SetEndpoint(at) => self.change_endpoint(at, Tunnels(true), limits)?,
            FibOp::RemoveEndpoint(at) => self.change_endpoint(at, Tunnels(false), limits)?,
            FibOp::SetUnicastInput { endpoint, group } => {
                self.change_endpoint(endpoint, Input(Some(group)), limits)?;
            }
            FibOp::RemoveUnicastInput(endpoint) => self.change_endpoint(endpoint, Input(None), limits)?,
            FibOp::SetNextHop(id, next_hop) => {
                room("next hops", self.next_hops.contains_key(&id), self.next_hops.len(), limits.next_hops)?;
                self.next_hops.insert(id, next_hop);
            }
            FibOp::RemoveNextHop(id) => {
                self.next_hops.remove(&id);
                self.leave_all(Output::Neighbour(id));
            }
            FibOp::SetTunnel(id, tunnel) => self.set_tunnel(id, tunnel, limits)?,
            FibOp::RemoveTunnel(id) => {
                if let Some(tunnel) = self.tunnels.remove(&id) {
                    self.forget_addresses(id, &tunnel);
                }
                self.leave_all(Output::Tunnel(id));
            }
            FibOp::SetConversion(id, conversion) => self.set_conversion(id, conversion)?,
            FibOp::RemoveConversion(id) => {
                self.conversions.remove(id);
                self.leave_all(Output::Converted(id));
            }
            FibOp::SetStream(stream, rpf, members) => self.set_stream(stream, rpf, members, limits)?,
            FibOp::SetPriority(stream, priority) => {
                let state = self.number(stream).and_then(|number| self.state_mut(number));
                state.ok_or(Refused::Unknown)?.priority = priority;
            }
            FibOp::RemoveStream(stream) => self.remove_stream(stream),
            FibOp::AddMember(stream, output) => self.join(stream, output, limits)?,
            FibOp::RemoveMember(stream, output) => {
                if let Some(number) = self.number(stream) {
                    self.leave(number, output);
                }
            }
            FibOp::ShareGroup(ifindex, group) => {
                if !self.interfaces.contains_key(&ifindex) {
                    return Err(Refused::Unknown);
                }
                let (known, len) = (self.shared_groups.contains(&(ifindex, group)), self.shared_groups.len());
                room("shared groups", known, len, limit::SHARED_GROUPS)?;
                self.shared_groups.insert((ifindex, group));
            }
            FibOp::UnshareGroup(ifindex, group) => _ = self.shared_groups.remove(&(ifindex, group)),
        }
        Ok(())
    }

    fn change_endpoint(&mut self, at: SocketAddr, change: Change, limits: &Limits) -> Result<(), Refused> {
        let known = self.endpoint_entries.contains_key(&at);
        match self.endpoints.after(at, change) {
            Some(entry) => {
                room("endpoints", known, self.endpoint_entries.len(), limits.endpoints)?;
                self.endpoint_entries.insert(at, entry);
            }
            None => {
                self.endpoint_entries.remove(&at);
            }
        }
        self.endpoints.change(at, change);
        Ok(())
    }

    fn set_conversion(&mut self, id: ConversionId, conversion: Conversion) -> Result<(), Refused> {
        let known = match conversion.way {
            Way::Interface(ifindex) => self.interfaces.contains_key(&ifindex),
            Way::NextHop(hop) => hop.is_none_or(|hop| self.next_hops.contains_key(&hop)),
        };
        if !known {
            return Err(Refused::Unknown);
        }
        self.conversions.set(id, conversion).map(drop).map_err(Refused::Unsupported)
    }

    fn set_interface(&mut self, interface: Interface, limits: &Limits) -> Result<(), Refused> {
        let known = self.interfaces.contains_key(&interface.ifindex);
        room("interfaces", known, self.interfaces.len(), limits.interfaces)?;
        if let Some(before) = self.interfaces.insert(interface.ifindex, interface) {
            self.forget_link(&before);
        }
        self.links.insert(InterfaceKey::of(&interface), interface.ifindex);
        Ok(())
    }

    /// Forgets which link an interface is, if no other took it over.
    fn forget_link(&mut self, interface: &Interface) {
        if let hash_map::Entry::Occupied(entry) = self.links.entry(InterfaceKey::of(interface))
            && *entry.get() == interface.ifindex
        {
            entry.remove();
        }
    }

    fn set_tunnel(&mut self, id: TunnelId, tunnel: Tunnel, limits: &Limits) -> Result<(), Refused> {
        if tunnel.next_hop.is_some_and(|next_hop| !self.next_hops.contains_key(&next_hop)) {
            return Err(Refused::Unknown);
        }
        room("tunnels", self.tunnels.contains_key(&id), self.tunnels.len(), limits.tunnels)?;
        if let Some(before) = self.tunnels.insert(id, tunnel) {
            self.forget_addresses(id, &before);
        }
        self.tunnel_ids.insert(TunnelKey::new(&tunnel), id);
        Ok(())
    }

    /// Forgets that packets between these addresses are of this tunnel, if no other took them over.
    fn forget_addresses(&mut self, id: TunnelId, tunnel: &Tunnel) {
        if let hash_map::Entry::Occupied(entry) = self.tunnel_ids.entry(TunnelKey::new(tunnel))
            && *entry.get() == id
        {
            entry.remove();
        }
    }

    fn set_stream(
        &mut self,
        stream: Stream,
        rpf: Rpf,
        members: Members,
        limits: &Limits,
    ) -> Result<(), Refused> {
        if let Some(number) = self.number(stream) {
            if let Some(state) = self.state_mut(number) {
                state.rpf = rpf;
                state.members = members;
            }
            return Ok(());
        }
        room("streams", false, self.numbers.len(), limits.streams)?;
        let state = StreamState {
            stream,
            rpf,
            members,
            priority: Priority::default(),
            own: BTreeMap::new(),
            ways: Known::default(),
            counters: StreamCounters::default(),
            dropped: BTreeMap::new(),
            losses: Losses::NONE,
        };
        let number = match self.free.pop() {
            Some(number) => {
                self.slots[number as usize - 1] = Some(state);
                number
            }
            None => {
                self.slots.push(Some(state));
                self.slots.len() as u32
            }
        };
        self.numbers.insert(StreamKey::from(stream), number);
        Ok(())
    }

    fn remove_stream(&mut self, stream: Stream) {
        let Some(number) = self.numbers.remove(&stream.into()) else {
            return;
        };
        let Some(state) = self.slots[number as usize - 1].take() else {
            return;
        };
        self.free.push(number);
        self.member_count -= state.own.len() as u32;
        for output in state.own.into_values() {
            if let hash_map::Entry::Occupied(mut streams) = self.memberships.entry(output) {
                streams.get_mut().remove(&number);
                if streams.get().is_empty() {
                    streams.remove();
                }
            }
        }
    }

    fn join(&mut self, stream: Stream, output: Output, limits: &Limits) -> Result<(), Refused> {
        let number = self.number(stream).ok_or(Refused::Unknown)?;
        let known = match output {
            Output::Interface(ifindex) => self.interfaces.contains_key(&ifindex),
            Output::Neighbour(id) => self.next_hops.contains_key(&id),
            Output::Tunnel(id) => self.tunnels.contains_key(&id),
            Output::Converted(id) => self.conversions.get(id).is_some(),
        };
        if !known {
            return Err(Refused::Unknown);
        }
        self.conversions.fit(&stream, output).map_err(Refused::Unsupported)?;
        if self.memberships.get(&output).is_some_and(|streams| streams.contains_key(&number)) {
            return Ok(());
        }
        room("members", false, self.member_count as usize, limits.members)?;
        let order = self.next_order;
        self.next_order += 1;
        self.member_count += 1;
        self.memberships.entry(output).or_default().insert(number, order);
        if let Some(state) = self.state_mut(number) {
            state.own.insert(order, output);
        }
        Ok(())
    }

    fn leave(&mut self, number: u32, output: Output) {
        let hash_map::Entry::Occupied(mut streams) = self.memberships.entry(output) else {
            return;
        };
        let Some(order) = streams.get_mut().remove(&number) else {
            return;
        };
        if streams.get().is_empty() {
            streams.remove();
        }
        self.forget_member(number, order);
    }

    fn leave_all(&mut self, output: Output) {
        for (number, order) in self.memberships.remove(&output).unwrap_or_default() {
            self.forget_member(number, order);
        }
    }

    fn forget_member(&mut self, number: u32, order: u64) {
        if let Some(state) = self.state_mut(number)
            && let Some(output) = state.own.remove(&order)
        {
            state.dropped.remove(&output);
            self.member_count -= 1;
        }
    }
}

fn room(table: &'static str, known: bool, len: usize, limit: u32) -> Result<(), Refused> {
    if known || len < limit as usize { Ok(()) } else { Err(Refused::Full { table, limit }) }
}
