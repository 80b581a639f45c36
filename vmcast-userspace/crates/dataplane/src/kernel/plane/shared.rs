//! Groups that the host has listeners for: XDP leaves their packets to TC, which can share them.

use std::{collections::BTreeMap, net::IpAddr};

use aya::{maps::PerCpuValues, util::online_cpus};
use vmcast_common::{
    fib::{IfIndex, Interface},
    maps::{self, InterfaceEntry, InterfaceKey, limit},
};

use super::KernelPlane;
use crate::{
    kernel::{
        error::{Failure, KernelError},
        quiet,
        shared::{self, Place},
        writes::forgive_missing,
    },
    plane::Hook,
};

impl KernelPlane {
    /// Shares a group. What had come before is ahead of what is left to TC, which has the longer way.
    pub(super) fn share_group(&mut self, place: Place) -> Result<(), Failure> {
        let state = self.state.interfaces.get(&place.0).ok_or(Failure::Unknown)?;
        let device = state.interface.device;
        if self.shared.get(place).is_some_and(|shared| !shared.leaving) {
            return Ok(());
        }
        let before = self.shared.get(place).cloned();
        self.shared.share(place, self.maps.cpus);
        // The program at TC is there before anything is left to it.
        let shared = self.serve_at_both(device);
        let shared = shared.and_then(|()| self.write_shared(place)).and_then(|()| self.write_flags(place.0));
        if let Err(error) = shared {
            match before {
                Some(before) => *self.shared.get_mut(place).ok_or(Failure::Unknown)? = before,
                None => self.forget_group(place)?,
            }
            return Err(error);
        }
        Ok(())
    }

    /// Shares a group no longer. Where XDP left it to TC, it does so until [`Self::take_groups_back`] has come round.
    pub(super) fn unshare_group(&mut self, place: Place) -> Result<(), Failure> {
        let Some(shared) = self.shared.get_mut(place) else { return Ok(()) };
        shared.leaving = true;
        let device = self.state.interfaces.get(&place.0).map(|state| state.interface.device);
        if device.is_some_and(|device| self.attachments.hook(device) == Some(Hook::Xdp)) {
            return Ok(());
        }
        self.forget_group(place)
    }

    /// Shares nothing on an interface that goes.
    pub(super) fn unshare_all(&mut self, ifindex: IfIndex) -> Result<(), Failure> {
        let places: Vec<Place> = self.shared.on(ifindex).collect();
        places.into_iter().try_for_each(|place| self.remove_shared(place))
    }

    /// Lets XDP have the groups again that are shared no longer, core by core: where packets of theirs come in, in a
    /// moment in which none is on its way, and on all other cores at once. The entries go at the next look.
    pub(super) fn take_groups_back(&mut self) -> Result<(), Failure> {
        for place in self.shared.leaving(false) {
            self.forget_group(place)?;
        }
        let leaving = self.shared.leaving(true);
        if leaving.is_empty() {
            return Ok(());
        }
        let busy = self.busy_cores(&leaving)?;
        for core in 0..self.maps.cpus {
            let (waiting, idle): (Vec<Place>, Vec<Place>) = leaving
                .iter()
                .partition(|(_, group)| busy.get(group).is_some_and(|cores| cores.get(core) != Some(&false)));
            self.take_back_on(core, &idle)?;
            if !waiting.is_empty() {
                quiet::on_core(core, || self.take_back_on(core, &waiting)).unwrap_or(Ok(()))?;
            }
        }
        Ok(())
    }

    fn take_back_on(&mut self, core: usize, places: &[Place]) -> Result<(), Failure> {
        for &place in places {
            let left = self.shared.get_mut(place).and_then(|shared| shared.cores.get_mut(core));
            if left.is_some_and(|left| std::mem::take(left) != 0) {
                self.write_shared(place)?;
            }
        }
        Ok(())
    }

    /// On which cores packets of groups may be on their way, as far as that is known: where nothing is counted, on all that
    /// the host uses. A group that nobody here forwards is left out: nothing of it was copied.
    fn busy_cores(&self, places: &[Place]) -> Result<BTreeMap<IpAddr, Vec<bool>>, Failure> {
        let mut busy: BTreeMap<IpAddr, Vec<bool>> = BTreeMap::new();
        let groups: std::collections::BTreeSet<IpAddr> = places.iter().map(|(_, group)| *group).collect();
        for (&stats, state) in &self.state.streams {
            if !groups.contains(&state.stream.group) {
                continue;
            }
            let cores = busy.entry(state.stream.group).or_insert_with(|| vec![false; self.maps.cpus]);
            match self.cores(stats)? {
                Some(awake) => awake.into_iter().for_each(|core| cores[core] = true),
                // None has ever come in.
                None if self.counts_streams => {}
                None => mark_online(cores),
            }
        }
        Ok(busy)
    }

    /// Forgets a group, and takes the program at TC off its device if that has no other.
    fn forget_group(&mut self, place: Place) -> Result<(), Failure> {
        self.remove_shared(place)?;
        let Some(state) = self.state.interfaces.get(&place.0) else { return Ok(()) };
        let device = state.interface.device;
        self.write_flags(place.0)?;
        self.leave_to_xdp(device)
    }

    fn remove_shared(&mut self, place: Place) -> Result<(), Failure> {
        forgive_missing(self.maps.shared_groups.remove(&shared::key(place)), maps::SHARED_GROUPS)?;
        self.shared.forget(place);
        Ok(())
    }

    fn write_shared(&mut self, place: Place) -> Result<(), Failure> {
        let Some(shared) = self.shared.get(place) else { return Ok(()) };
        let cores =
            PerCpuValues::try_from(shared.cores.clone()).map_err(KernelError::call("counting cores"))?;
        let written = self.maps.shared_groups.insert(shared::key(place), cores, 0);
        Ok(written.map_err(KernelError::full_or(maps::SHARED_GROUPS, limit::SHARED_PLACES))?)
    }

    /// Whether some group is shared on a device, or was until now.
    fn shares_on(&self, device: IfIndex) -> bool {
        let here = self.state.interfaces.values().filter(|state| state.interface.device == device);
        here.into_iter().any(|state| self.shared.on(state.interface.ifindex).next().is_some())
    }

    /// Puts the programs on a device that decide on what it receives: natively at XDP if `native` and the driver takes
    /// it, with one at TC behind it if groups are shared there; else at TC alone.
    pub(super) fn attach_programs(&mut self, device: IfIndex, native: bool) -> Result<(), Failure> {
        let bare = self.devices.is_bare(device.0);
        let shares = self.shares_on(device);
        // The program at TC knows which one it is before it is there, and until it is there no longer: as the only one
        // it would refuse a second time what XDP has refused, as another one take nothing but what is shared.
        let behind = self.attachments.is_behind_xdp(device);
        let first = native && (behind || shares && self.attachments.hook(device) != Some(Hook::Tc));
        self.set_xdp_first(device, first)?;
        self.attachments.attach_ingress(&mut self.object, device, (native, bare), shares)?;
        let behind = self.attachments.is_behind_xdp(device);
        self.set_xdp_first(device, behind)
    }

    /// Takes the program at TC off a device on which nothing is shared any more, if there is one behind XDP.
    pub(super) fn leave_to_xdp(&mut self, device: IfIndex) -> Result<(), Failure> {
        let behind = self.attachments.is_behind_xdp(device);
        if behind && !self.shares_on(device) { self.serve_at_both(device) } else { Ok(()) }
    }

    /// Where TC has come to serve alone, as a driver does not take a program at XDP, that is not tried again for each group.
    fn serve_at_both(&mut self, device: IfIndex) -> Result<(), Failure> {
        let native = match self.attachments.hook(device) {
            Some(hook) => hook == Hook::Xdp,
            None => self.devices.is_native(device.0, self.state.wishes(device.0).engine),
        };
        self.attach_programs(device, native)
    }

    fn set_xdp_first(&mut self, device: IfIndex, first: bool) -> Result<(), Failure> {
        let changed = if first { self.xdp_first.insert(device) } else { self.xdp_first.remove(&device) };
        if !changed {
            return Ok(());
        }
        let here = self.state.interfaces.values().map(|state| state.interface);
        let here: Vec<Interface> = here.filter(|interface| interface.device == device).collect();
        here.into_iter().try_for_each(|interface| self.write_link(interface))
    }

    fn write_flags(&mut self, ifindex: IfIndex) -> Result<(), Failure> {
        let interface = self.state.interfaces.get(&ifindex).map(|state| state.interface);
        interface.map_or(Ok(()), |interface| self.write_link(interface))
    }

    /// Writes which interface a link of a device is, and what programs there must know of it.
    pub(super) fn write_link(&mut self, interface: Interface) -> Result<(), Failure> {
        let groups = self.shared.on(interface.ifindex).next().is_some();
        let first = self.xdp_first.contains(&interface.device);
        let flags = if groups { InterfaceEntry::SHARES_GROUPS } else { 0 }
            | if first { InterfaceEntry::XDP_FIRST } else { 0 };
        let entry = InterfaceEntry::of(&interface).with(flags);
        let written = self.maps.interfaces.insert(InterfaceKey::of(&interface), entry, 0);
        Ok(written.map_err(KernelError::full_or(maps::INTERFACES, self.capacities.interfaces))?)
    }

    /// Why TC takes what comes in on an interface to a group, where XDP takes the rest; `None` if it does not.
    pub(super) fn why_shared(&self, interface: &Interface, group: IpAddr) -> Option<&'static str> {
        let shared = self.shared.get((interface.ifindex, group))?;
        if !shared.is_left_to_tc() || self.attachments.hook(interface.device) != Some(Hook::Xdp) {
            return None;
        }
        Some(if shared.leaving {
            "an application of this host listened to the group until now"
        } else {
            "an application of this host listens to the group"
        })
    }
}

/// Marks the cores that the host uses; all, if it does not tell.
fn mark_online(cores: &mut [bool]) {
    match online_cpus() {
        Ok(online) => {
            for core in online {
                if let Some(core) = cores.get_mut(core as usize) {
                    *core = true;
                }
            }
        }
        Err(_) => cores.fill(true),
    }
}
