//! Next hops and tunnels.

use vmcast_common::{
    fib::{FibOp, NextHop, NextHopId, Output, Tunnel, TunnelId, Way},
    maps::{self, NextHopEntry, TunnelEntry, TunnelKey},
};

use super::{KernelPlane, unfit::as_written};
use crate::{
    kernel::{
        error::{Failure, KernelError},
        state::NextHopState,
        writes::forgive_missing,
    },
    plane::{ApplyError, Dataplane as _},
};

/// Most new tunnels that wait for one call.
const AT_ONCE: usize = 64;

/// New tunnels to members that wait to be written together. Copies need nothing of a tunnel's entry, which only says
/// whose packets are that come in by it: of a member's tunnel that they are to be dropped.
#[derive(Debug, Default)]
pub(super) struct NewTunnels {
    /// Whether one that comes may wait.
    pub(super) may_wait: bool,
    ids: Vec<TunnelId>,
    keys: Vec<TunnelKey>,
    entries: Vec<TunnelEntry>,
    /// Those that the kernel did not take.
    pub(super) refused: Vec<ApplyError>,
}

impl NewTunnels {
    fn push(&mut self, id: TunnelId, key: TunnelKey, entry: TunnelEntry) {
        self.ids.push(id);
        self.keys.push(key);
        self.entries.push(entry);
    }

    fn clear(&mut self) {
        self.ids.clear();
        self.keys.clear();
        self.entries.clear();
    }
}

impl KernelPlane {
    pub(super) fn set_next_hop(&mut self, id: NextHopId, hop: NextHop) -> Result<(), Failure> {
        self.devices.forget();
        let known = self.state.next_hops.remove(&id);
        let index = match &known {
            Some(known) => known.index,
            None => self.hops.take()?,
        };
        let mtu = self.usable_mtu(hop.mtu, &hop.link, hop.ifindex);
        let takes_none = self.takes_none(hop.ifindex);
        // Its members may stand where none of its copies may leave.
        let refused = takes_none || known.as_ref().is_some_and(|known| known.refused);
        let bare = self.devices.is_bare(hop.ifindex.0);
        let entry = as_written(NextHopEntry::of(&NextHop { mtu, ..hop }), refused, bare);
        if let Err(error) = self.maps.write_next_hop(index, &entry, hop.ifindex.0) {
            match known {
                Some(known) => drop(self.state.next_hops.insert(id, known)),
                None => self.hops.give_back(index),
            }
            return Err(error.into());
        }
        let same = known.as_ref().is_some_and(|known| {
            known.hop.ifindex == hop.ifindex
                && known.mtu <= mtu
                && known.hop.destination_mac.is_some() == hop.destination_mac.is_some()
                && known.refused == takes_none
        });
        let streams = known.map(|known| known.streams).unwrap_or_default();
        self.state.next_hops.insert(id, NextHopState { hop, index, mtu, refused, streams });
        if !same {
            self.devices.forget();
            self.put_behind(id)?;
            self.put_everywhere(Output::Neighbour(id))?;
            self.put_converted_by(Way::NextHop(Some(id)))?;
            self.write_fitness_of_hop(id, false)?;
        }
        Ok(())
    }

    pub(super) fn remove_next_hop(&mut self, id: NextHopId) -> Result<(), Failure> {
        self.drop_everywhere(Output::Neighbour(id))?;
        let Some(state) = self.state.next_hops.remove(&id) else {
            return Ok(());
        };
        self.put_behind(id)?;
        self.put_converted_by(Way::NextHop(Some(id)))?;
        let nowhere = NextHop { destination_mac: None, ..state.hop };
        self.maps.write_next_hop(state.index, &NextHopEntry::of(&nowhere), state.hop.ifindex.0)?;
        self.remains.hops.push(state.index);
        Ok(())
    }

    /// Tells the kernel anew of every tunnel behind a next hop.
    pub(super) fn put_behind(&mut self, id: NextHopId) -> Result<(), Failure> {
        let tunnels = self.state.tunnels.behind(id);
        tunnels.into_iter().try_for_each(|tunnel| self.put_everywhere(Output::Tunnel(tunnel)))
    }

    pub(super) fn set_tunnel(&mut self, id: TunnelId, tunnel: Tunnel) -> Result<(), Failure> {
        if tunnel.next_hop.is_some_and(|hop| !self.state.next_hops.contains_key(&hop)) {
            return Err(Failure::Unknown);
        }
        let key = TunnelKey::new(&tunnel);
        let entry = TunnelEntry::of(id, &tunnel);
        if self.state.tunnels.get(id).is_some() {
            self.write_new_tunnels();
        }
        let old = self.state.tunnels.set(id, tunnel)?;
        // What has no room is refused at once, before others build on it.
        let has_room = self.state.tunnels.len() + AT_ONCE <= self.capacities.tunnels as usize;
        if self.new_tunnels.may_wait && old.is_none() && has_room && !tunnel.accepts_sources {
            self.new_tunnels.push(id, key, entry);
            if self.new_tunnels.ids.len() >= AT_ONCE {
                self.write_new_tunnels();
            }
            return Ok(());
        }
        if let Err(error) = self.maps.tunnels.insert(key, entry, 0) {
            match old {
                Some(old) => {
                    self.state.tunnels.set(id, old)?;
                }
                None => self.state.tunnels.remove(id),
            }
            return Err(KernelError::full_or(maps::TUNNELS, self.capacities.tunnels)(error).into());
        }
        self.listen_to_tunnel(id, Some(&tunnel));
        let Some(old) = old else {
            return Ok(());
        };
        let old_key = TunnelKey::new(&old);
        if old_key != key {
            self.forget_ends(id, &old_key)?;
            self.put_changed(Output::Tunnel(id))?;
        } else if old != tunnel {
            self.put_everywhere(Output::Tunnel(id))?;
        }
        Ok(())
    }

    /// Writes the tunnels that wait. One that the kernel does not take is as if it had never been set.
    pub(super) fn write_new_tunnels(&mut self) {
        let mut new = std::mem::take(&mut self.new_tunnels);
        if !new.ids.is_empty() {
            for (at, error) in self.maps.write_tunnels(&new.keys, &new.entries) {
                let id = new.ids[at];
                let Some(tunnel) = self.state.tunnels.get(id) else { continue };
                if let Err(failure) = self.drop_everywhere(Output::Tunnel(id)) {
                    tracing::debug!(%failure, id = id.0, "a member without its tunnel stays");
                }
                self.state.tunnels.remove(id);
                let error = KernelError::full_or(maps::TUNNELS, self.capacities.tunnels)(error);
                let engine = self.engine().engine;
                new.refused.push(Failure::from(error).of(FibOp::SetTunnel(id, tunnel), engine));
            }
            new.clear();
        }
        self.new_tunnels = new;
    }

    pub(super) fn remove_tunnel(&mut self, id: TunnelId) -> Result<(), Failure> {
        self.write_new_tunnels();
        let Some(tunnel) = self.state.tunnels.get(id) else {
            return Ok(());
        };
        let key = TunnelKey::new(&tunnel);
        self.drop_everywhere(Output::Tunnel(id))?;
        self.forget_ends(id, &key)?;
        self.state.tunnels.remove(id);
        self.listen_to_tunnel(id, None);
        Ok(())
    }

    /// Forgets that packets between these ends are of this tunnel, if no other took them over.
    pub(super) fn forget_ends(&mut self, id: TunnelId, ends: &TunnelKey) -> Result<(), Failure> {
        if self.maps.tunnels.get(ends, 0).is_ok_and(|entry| entry.id == id.0) {
            forgive_missing(self.maps.tunnels.remove(ends), maps::TUNNELS)?;
        }
        Ok(())
    }
}
