//! The tunnels of the plane, and the streams that each is a member of.
//!
//! There may be hundreds of thousands, nearly all with one stream, so one takes 32 bytes. The
//! numbers that the control plane gives are close together: they are places in blocks, and
//! blocks without tunnels are given back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use vmcast_common::fib::{EcnMode, NextHopId, Tunnel, TunnelId, TunnelKind};

use super::error::KernelError;
use crate::numbered::Numbered;

const BLOCK: u32 = 256;
/// No next hop has this number.
const NO_NEXT_HOP: NextHopId = NextHopId(u32::MAX);

/// The encapsulation without what few tunnels have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Amt,
    Gre,
    /// The key stands in [`TunnelTable::gre_keys`].
    GreKey,
    Ipip,
}

#[derive(Debug)]
struct Slot {
    kind: Kind,
    remote_ip: IpAddr,
    remote_port: u16,
    /// Our end, as an index into the few that we have.
    local: u16,
    ecn: EcnMode,
    accepts_sources: bool,
    /// [`NO_NEXT_HOP`] while it is not known.
    next_hop: NextHopId,
    /// Counter index of a stream that it is a member of, 0 for none.
    stream: u32,
}
const _: () = assert!(size_of::<Option<Slot>>() == 32);

#[derive(Debug)]
struct Block {
    used: u32,
    slots: Box<[Option<Slot>]>,
}

impl Block {
    fn new() -> Self {
        Self { used: 0, slots: (0..BLOCK).map(|_| None).collect() }
    }
}

/// One of our ends, and how many tunnels have it.
#[derive(Debug)]
struct Local {
    end: SocketAddr,
    users: u32,
}

/// Every tunnel.
#[derive(Debug, Default)]
pub(super) struct TunnelTable {
    blocks: Numbered<u32, Block>,
    len: usize,
    locals: Vec<Local>,
    gre_keys: BTreeMap<TunnelId, u32>,
    /// Streams beyond the first of a tunnel.
    more: BTreeSet<(TunnelId, u32)>,
}

impl TunnelTable {
    pub(super) fn get(&self, id: TunnelId) -> Option<Tunnel> {
        self.slot(id).map(|slot| self.tunnel(id, slot))
    }

    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TunnelId, Tunnel)> + '_ {
        self.slots().map(|(id, slot)| (id, self.tunnel(id, slot)))
    }

    /// The tunnels whose copies go by a next hop.
    pub(super) fn behind(&self, next_hop: NextHopId) -> Vec<TunnelId> {
        let behind = self.slots().filter(|(_, slot)| slot.next_hop == next_hop);
        behind.map(|(id, _)| id).collect()
    }

    /// Adds or changes a tunnel, and returns what it was; its streams stay.
    pub(super) fn set(&mut self, id: TunnelId, tunnel: Tunnel) -> Result<Option<Tunnel>, KernelError> {
        let old = self.get(id);
        let local = self.acquire(tunnel.local)?;
        let stream = match self.slot(id) {
            Some(&Slot { local, stream, .. }) => {
                self.release(local);
                stream
            }
            None => 0,
        };
        let kind = match tunnel.kind {
            TunnelKind::Amt => Kind::Amt,
            TunnelKind::Gre(None) => Kind::Gre,
            TunnelKind::Gre(Some(_)) => Kind::GreKey,
            TunnelKind::Ipip => Kind::Ipip,
        };
        match tunnel.kind {
            TunnelKind::Gre(Some(key)) => self.gre_keys.insert(id, key),
            TunnelKind::Gre(None) | TunnelKind::Amt | TunnelKind::Ipip => self.gre_keys.remove(&id),
        };
        let block = self.blocks.entry(id.0 / BLOCK).or_insert_with(Block::new);
        block.used += u32::from(old.is_none());
        self.len += usize::from(old.is_none());
        block.slots[place(id)] = Some(Slot {
            kind,
            remote_ip: tunnel.remote.ip(),
            remote_port: tunnel.remote.port(),
            local,
            ecn: tunnel.ecn,
            accepts_sources: tunnel.accepts_sources,
            next_hop: tunnel.next_hop.unwrap_or(NO_NEXT_HOP),
            stream,
        });
        Ok(old)
    }

    /// Forgets a tunnel and its streams.
    pub(super) fn remove(&mut self, id: TunnelId) {
        let Some(block) = self.blocks.get_mut(&(id.0 / BLOCK)) else {
            return;
        };
        let Some(slot) = block.slots[place(id)].take() else {
            return;
        };
        block.used -= 1;
        self.len -= 1;
        if block.used == 0 {
            self.blocks.remove(&(id.0 / BLOCK));
        }
        self.release(slot.local);
        self.gre_keys.remove(&id);
        for stream in self.more_of(id).collect::<Vec<_>>() {
            self.more.remove(&(id, stream));
        }
    }

    /// Counter indices of the streams that a tunnel is a member of.
    pub(super) fn streams(&self, id: TunnelId) -> Vec<u32> {
        let first = self.slot(id).map(|slot| slot.stream).filter(|stream| *stream != 0);
        first.into_iter().chain(self.more_of(id)).collect()
    }

    /// Whether a tunnel is a member of a stream.
    pub(super) fn has_joined(&self, id: TunnelId, stream: u32) -> bool {
        self.slot(id).is_some_and(|slot| slot.stream == stream) || self.more.contains(&(id, stream))
    }

    /// Notes that a tunnel is a member of a stream.
    pub(super) fn join(&mut self, id: TunnelId, stream: u32) {
        if self.has_joined(id, stream) {
            return;
        }
        match self.slot_mut(id) {
            Some(slot) if slot.stream == 0 => slot.stream = stream,
            Some(_) => {
                self.more.insert((id, stream));
            }
            None => {}
        }
    }

    /// Notes that it is one no longer.
    pub(super) fn leave(&mut self, id: TunnelId, stream: u32) {
        match self.slot_mut(id) {
            Some(slot) if slot.stream == stream => slot.stream = 0,
            Some(_) => {
                self.more.remove(&(id, stream));
            }
            None => {}
        }
    }

    fn more_of(&self, id: TunnelId) -> impl Iterator<Item = u32> + '_ {
        self.more.range((id, 0)..=(id, u32::MAX)).map(|(_, stream)| *stream)
    }

    fn slot(&self, id: TunnelId) -> Option<&Slot> {
        self.blocks.get(&(id.0 / BLOCK))?.slots[place(id)].as_ref()
    }

    fn slot_mut(&mut self, id: TunnelId) -> Option<&mut Slot> {
        self.blocks.get_mut(&(id.0 / BLOCK))?.slots[place(id)].as_mut()
    }

    fn slots(&self) -> impl Iterator<Item = (TunnelId, &Slot)> {
        self.blocks.iter().flat_map(|(number, block)| {
            let ids = (number * BLOCK..).map(TunnelId);
            ids.zip(&block.slots).filter_map(|(id, slot)| Some((id, slot.as_ref()?)))
        })
    }

    fn tunnel(&self, id: TunnelId, slot: &Slot) -> Tunnel {
        Tunnel {
            kind: match slot.kind {
                Kind::Amt => TunnelKind::Amt,
                Kind::Gre => TunnelKind::Gre(None),
                Kind::GreKey => TunnelKind::Gre(self.gre_keys.get(&id).copied()),
                Kind::Ipip => TunnelKind::Ipip,
            },
            local: self.locals[usize::from(slot.local)].end,
            remote: SocketAddr::new(slot.remote_ip, slot.remote_port),
            ecn: slot.ecn,
            accepts_sources: slot.accepts_sources,
            next_hop: (slot.next_hop != NO_NEXT_HOP).then_some(slot.next_hop),
        }
    }

    fn acquire(&mut self, end: SocketAddr) -> Result<u16, KernelError> {
        let known = self.locals.iter().position(|local| local.users > 0 && local.end == end);
        let unused = || self.locals.iter().position(|local| local.users == 0);
        let at = known.or_else(unused).unwrap_or(self.locals.len());
        let index = u16::try_from(at).map_err(|_| KernelError::Full {
            table: "our own ends of tunnels",
            limit: u32::from(u16::MAX) + 1,
        })?;
        match self.locals.get_mut(at) {
            Some(local) => *local = Local { end, users: local.users + 1 },
            None => self.locals.push(Local { end, users: 1 }),
        }
        Ok(index)
    }

    fn release(&mut self, local: u16) {
        if let Some(local) = self.locals.get_mut(usize::from(local)) {
            local.users -= 1;
        }
    }
}

/// Where a tunnel stands in its block.
const fn place(id: TunnelId) -> usize {
    (id.0 % BLOCK) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn tunnel() -> impl Strategy<Value = Tunnel> {
        let local = (0u16..4).prop_map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let remote = any::<u32>().prop_map(|bits| SocketAddr::new(IpAddr::V4(bits.into()), bits as u16));
        let remote_v6 = any::<u128>().prop_map(|bits| SocketAddr::new(IpAddr::V6(bits.into()), bits as u16));
        let next_hop = proptest::option::of((0u32..3).prop_map(NextHopId));
        (local, prop_oneof![remote, remote_v6], any::<bool>(), next_hop).prop_map(
            |(local, remote, accepts_sources, next_hop)| Tunnel {
                kind: TunnelKind::Amt,
                local,
                remote,
                ecn: if accepts_sources { EcnMode::Normal } else { EcnMode::Compatibility },
                accepts_sources,
                next_hop,
            },
        )
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(TunnelId, Tunnel),
        Remove(TunnelId),
        Join(TunnelId, u32),
        Leave(TunnelId, u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = || prop_oneof![1u32..6, 255u32..258, Just(1 << 29)].prop_map(TunnelId);
        prop_oneof![
            (id(), tunnel()).prop_map(|(id, tunnel)| Step::Set(id, tunnel)),
            id().prop_map(Step::Remove),
            (id(), 1u32..5).prop_map(|(id, stream)| Step::Join(id, stream)),
            (id(), 1u32..5).prop_map(|(id, stream)| Step::Leave(id, stream)),
        ]
    }

    proptest! {
        #[test]
        fn the_table_remembers_what_a_plain_map_does(steps in proptest::collection::vec(step(), 1..120)) {
            let mut table = TunnelTable::default();
            let mut model: HashMap<TunnelId, (Tunnel, BTreeSet<u32>)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Set(id, tunnel) => {
                        let old = table.set(id, tunnel).expect("few own ends");
                        prop_assert_eq!(old, model.get(&id).map(|(tunnel, _)| *tunnel));
                        model.entry(id).or_insert((tunnel, BTreeSet::new())).0 = tunnel;
                    }
                    Step::Remove(id) => {
                        table.remove(id);
                        model.remove(&id);
                    }
                    Step::Join(id, stream) => {
                        table.join(id, stream);
                        if let Some((_, streams)) = model.get_mut(&id) {
                            streams.insert(stream);
                        }
                    }
                    Step::Leave(id, stream) => {
                        table.leave(id, stream);
                        if let Some((_, streams)) = model.get_mut(&id) {
                            streams.remove(&stream);
                        }
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                let all: HashMap<_, _> = table.iter().collect();
                prop_assert_eq!(&all, &model.iter().map(|(id, (tunnel, _))| (*id, *tunnel)).collect());
                for (id, (tunnel, streams)) in &model {
                    prop_assert_eq!(table.get(*id), Some(*tunnel));
                    let mut found = table.streams(*id);
                    found.sort_unstable();
                    prop_assert!(found.iter().eq(streams));
                    let joined = (1..5).filter(|stream| table.has_joined(*id, *stream));
                    prop_assert!(joined.eq(streams.iter().copied()));
                    if let Some(hop) = tunnel.next_hop {
                        prop_assert!(table.behind(hop).contains(id));
                    }
                }
                let used: BTreeSet<_> = model.values().map(|(tunnel, _)| tunnel.local).collect();
                prop_assert_eq!(table.locals.iter().filter(|local| local.users > 0).count(), used.len());
            }
            if model.is_empty() {
                prop_assert!(table.blocks.is_empty() && table.more.is_empty());
            }
        }
    }
}
