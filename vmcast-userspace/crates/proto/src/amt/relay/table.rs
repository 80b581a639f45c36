//! All tunnels: found by their ends, counted by source address, queued by deadline.
//!
//! Two queues hold every tunnel, one for those with groups and one for those without. All tunnels
//! of a queue live equally long after their last update, so a doubly linked list in order of
//! update is in order of deadline: an update moves a tunnel to the tail, expiry takes the head.
//! Ids are indices from 1 into blocks that never move, so growing copies nothing.

use std::net::{IpAddr, SocketAddr};

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use super::{
    prefix::Prefix,
    tunnel::{Ends, Moment, Nonces, Tunnel},
};
use crate::{amt::encapsulated::Protocol, host_state::HostState, share::share};

const BLOCK: usize = 1_024;

/// Which deadline a tunnel waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    /// With groups: expires without an update.
    Member,
    /// Without groups: lingers.
    Idle,
}

impl Queue {
    const fn of(host: &HostState) -> Self {
        if host.is_empty() { Self::Idle } else { Self::Member }
    }
}

#[derive(Debug)]
enum Slot {
    Vacant { next: u32 },
    Tunnel(Tunnel),
}

/// How many tunnels an address has, which is told from others by its keyed hash: there may be as many as tunnels.
#[derive(Clone, Copy, Debug)]
struct OfAddress {
    hash: [u32; 2],
    tunnels: u32,
}

impl OfAddress {
    const fn new(hash: u64) -> Self {
        Self { hash: [hash as u32, (hash >> 32) as u32], tunnels: 0 }
    }

    fn hash(&self) -> u64 {
        let [low, high] = self.hash.map(u64::from);
        low | (high << 32)
    }
}

/// What the gateways of a network have.
#[derive(Clone, Copy, Debug)]
struct OfPrefix {
    prefix: Prefix,
    tunnels: u32,
    /// Sources in their lists, as [`HostState::listed`] counts them.
    listed: usize,
}

/// One of our addresses that gateways come to.
#[derive(Clone, Copy, Debug)]
struct Local {
    address: SocketAddr,
    /// How many tunnels end there.
    tunnels: u32,
    /// It is not ours any more.
    gone: bool,
}

/// Head and tail of a queue, 0 if it is empty.
#[derive(Clone, Copy, Debug, Default)]
struct List {
    head: u32,
    tail: u32,
}

#[derive(Debug)]
pub(super) struct Table {
    blocks: Vec<Box<[Slot]>>,
    /// The first vacant slot, 0 if there is none.
    vacant: u32,
    length: u32,
    by_ends: HashTable<u32>,
    /// How many tunnels each address has.
    by_address: HashTable<OfAddress>,
    by_prefix: HashTable<OfPrefix>,
    /// Sources in the lists of all, as [`HostState::listed`] counts them.
    listed: usize,
    /// Keyed, so that a peer cannot choose addresses that collide.
    hasher: SipHasher13,
    /// Those with tunnels, and one at most without.
    locals: Vec<Local>,
    member: List,
    idle: List,
}

impl Table {
    pub(super) fn new(hash_key: &[u8; 16]) -> Self {
        Self {
            blocks: Vec::new(),
            vacant: 0,
            length: 0,
            by_ends: HashTable::new(),
            by_address: HashTable::new(),
            by_prefix: HashTable::new(),
            listed: 0,
            hasher: SipHasher13::new_with_key(hash_key),
            locals: Vec::new(),
            member: List::default(),
            idle: List::default(),
        }
    }

    pub(super) const fn len(&self) -> u32 {
        self.length
    }

    /// Names the two ends, until others are named or a tunnel between them is removed; `None` if tunnels end at more of
    /// our addresses than a host can have.
    pub(super) fn ends(&mut self, local: SocketAddr, remote: SocketAddr) -> Option<Ends> {
        let known = self.locals.iter().position(|known| known.address == local);
        // The place of one without tunnels is free: addresses come and go for as long as a daemon runs.
        let index = known.or_else(|| self.locals.iter().position(|known| known.tunnels == 0));
        let index = index.unwrap_or(self.locals.len());
        let ends =
            Ends { remote_ip: remote.ip(), remote_port: remote.port(), local: u16::try_from(index).ok()? };
        if known.is_none() {
            let new = Local { address: local, tunnels: 0, gone: false };
            match self.locals.get_mut(index) {
                Some(free) => *free = new,
                None => self.locals.push(new),
            }
        }
        Some(ends)
    }

    pub(super) fn local(&self, ends: &Ends) -> SocketAddr {
        self.locals[usize::from(ends.local)].address
    }

    /// Takes note of which addresses are ours now.
    pub(super) fn follow(&mut self, is_ours: impl Fn(IpAddr) -> bool) {
        for local in &mut self.locals {
            local.gone = !is_ours(local.address.ip());
        }
    }

    /// The tunnels of a gateway to addresses that are not ours any more.
    pub(super) fn left_behind(&self, remote: SocketAddr) -> Vec<u32> {
        let gone = (0..=u16::MAX).zip(&self.locals).filter(|(_, local)| local.gone && local.tunnels > 0);
        let ends = gone.map(|(local, _)| Ends { remote_ip: remote.ip(), remote_port: remote.port(), local });
        ends.filter_map(|ends| self.find(&ends)).collect()
    }

    pub(super) fn find(&self, ends: &Ends) -> Option<u32> {
        let hash = hash_ends(&self.hasher, ends);
        self.by_ends.find(hash, |id| self.get(*id).is_some_and(|tunnel| tunnel.ends == *ends)).copied()
    }

    /// How many tunnels an address has.
    pub(super) fn of_address(&self, address: IpAddr) -> u32 {
        let hash = hash_address(&self.hasher, address);
        self.by_address.find(hash, |entry| entry.hash() == hash).map_or(0, |entry| entry.tunnels)
    }

    fn count_address(&mut self, address: IpAddr) {
        let hash = hash_address(&self.hasher, address);
        let entry = self.by_address.entry(hash, |entry| entry.hash() == hash, OfAddress::hash);
        entry.or_insert(OfAddress::new(hash)).into_mut().tunnels += 1;
    }

    fn discount_address(&mut self, address: IpAddr) {
        let hash = hash_address(&self.hasher, address);
        if let Ok(mut entry) = self.by_address.find_entry(hash, |entry| entry.hash() == hash) {
            entry.get_mut().tunnels -= 1;
            if entry.get().tunnels == 0 {
                entry.remove();
            }
        }
    }

    /// How many tunnels the network of an address has.
    pub(super) fn of_prefix(&self, address: IpAddr) -> u32 {
        self.prefix(address).map_or(0, |of| of.tunnels)
    }

    /// By how many sources the lists of an address's network may grow, where all may have so many.
    pub(super) fn room_to_list(&self, address: IpAddr, capacity: usize) -> usize {
        share(capacity.saturating_sub(self.listed), self.prefix(address).map_or(0, |of| of.listed))
    }

    fn prefix(&self, address: IpAddr) -> Option<&OfPrefix> {
        let prefix = Prefix::of(address);
        self.by_prefix.find(prefix.hash(&self.hasher), |of| of.prefix == prefix)
    }

    fn count_prefix(&mut self, address: IpAddr) {
        let prefix = Prefix::of(address);
        let Self { hasher, by_prefix, .. } = self;
        let entry =
            by_prefix.entry(prefix.hash(hasher), |of| of.prefix == prefix, |of| of.prefix.hash(hasher));
        entry.or_insert(OfPrefix { prefix, tunnels: 0, listed: 0 }).into_mut().tunnels += 1;
    }

    fn discount_prefix(&mut self, address: IpAddr) {
        let prefix = Prefix::of(address);
        if let Ok(mut entry) = self.by_prefix.find_entry(prefix.hash(&self.hasher), |of| of.prefix == prefix)
        {
            entry.get_mut().tunnels -= 1;
            if entry.get().tunnels == 0 {
                entry.remove();
            }
        }
    }

    /// The lists of a gateway that is counted with its network have so many sources now.
    fn count_listed(&mut self, address: IpAddr, before: usize, after: usize) {
        if before == after {
            return;
        }
        let prefix = Prefix::of(address);
        self.listed = self.listed - before + after;
        let of = self.by_prefix.find_mut(prefix.hash(&self.hasher), |of| of.prefix == prefix);
        if let Some(of) = of {
            of.listed = of.listed - before + after;
        }
    }

    pub(super) fn get(&self, id: u32) -> Option<&Tunnel> {
        let (block, at) = position(id)?;
        match self.blocks.get(block)?.get(at)? {
            Slot::Tunnel(tunnel) => Some(tunnel),
            Slot::Vacant { .. } => None,
        }
    }

    fn get_mut(&mut self, id: u32) -> Option<&mut Tunnel> {
        let (block, at) = position(id)?;
        match self.blocks.get_mut(block)?.get_mut(at)? {
            Slot::Tunnel(tunnel) => Some(tunnel),
            Slot::Vacant { .. } => None,
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &Tunnel)> {
        (1..).zip(self.blocks.iter().flatten()).filter_map(|(id, slot)| match slot {
            Slot::Tunnel(tunnel) => Some((id, tunnel)),
            Slot::Vacant { .. } => None,
        })
    }

    /// Adds a tunnel whose ends are not in the table yet.
    pub(super) fn insert(&mut self, now: Moment, ends: Ends, ecn: bool, host: HostState) -> u32 {
        if self.vacant == 0 {
            self.add_block();
        }
        let id = self.vacant;
        let (queue, listed) = (Queue::of(&host), host.listed());
        let tunnel = Tunnel {
            ends,
            ecn,
            nonces: Nonces::default(),
            host,
            since: now,
            updated: now,
            previous: 0,
            next: 0,
        };
        if let Some((block, at)) = position(id) {
            let slot = std::mem::replace(&mut self.blocks[block][at], Slot::Tunnel(tunnel));
            self.vacant = match slot {
                Slot::Vacant { next } => next,
                Slot::Tunnel(_) => unreachable!("the list of vacant slots holds vacant slots only"),
            };
        }
        self.length += 1;
        self.locals[usize::from(ends.local)].tunnels += 1;
        self.count_prefix(ends.remote_ip);
        self.count_listed(ends.remote_ip, 0, listed);
        self.count_address(ends.remote_ip);
        self.append(queue, id);
        let Self { blocks, hasher, by_ends, .. } = self;
        by_ends.insert_unique(hash_ends(hasher, &ends), id, |id| {
            ends_of(blocks, *id).map_or(0, |ends| hash_ends(hasher, &ends))
        });
        id
    }

    /// Changes what a tunnel wants, as of now, and queues it anew.
    pub(super) fn update<R>(
        &mut self,
        now: Moment,
        id: u32,
        change: impl FnOnce(&mut HostState) -> R,
    ) -> Option<R> {
        let before = Queue::of(&self.get(id)?.host);
        self.unlink(before, id);
        let tunnel = self.get_mut(id)?;
        let listed = tunnel.host.listed();
        let result = change(&mut tunnel.host);
        tunnel.updated = now;
        let (remote, after, now_listed) =
            (tunnel.ends.remote_ip, Queue::of(&tunnel.host), tunnel.host.listed());
        self.append(after, id);
        self.count_listed(remote, listed, now_listed);
        Some(result)
    }

    /// Notes the nonce of a Membership Update.
    pub(super) fn note_nonce(&mut self, id: u32, protocol: Protocol, nonce: u32) {
        if let Some(tunnel) = self.get_mut(id) {
            tunnel.nonces.note(protocol, nonce);
        }
    }

    /// Notes whether a gateway merges congestion marks; returns whether that is news.
    pub(super) fn set_ecn(&mut self, id: u32, ecn: bool) -> bool {
        self.get_mut(id).is_some_and(|tunnel| std::mem::replace(&mut tunnel.ecn, ecn) != ecn)
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Tunnel> {
        let tunnel = self.get(id)?;
        let (ends, queue, listed) = (tunnel.ends, Queue::of(&tunnel.host), tunnel.host.listed());
        self.unlink(queue, id);
        if let Ok(entry) = self.by_ends.find_entry(hash_ends(&self.hasher, &ends), |other| *other == id) {
            entry.remove();
        }
        let (block, at) = position(id)?;
        let slot = std::mem::replace(&mut self.blocks[block][at], Slot::Vacant { next: self.vacant });
        self.vacant = id;
        self.length -= 1;
        self.locals[usize::from(ends.local)].tunnels -= 1;
        self.count_listed(ends.remote_ip, listed, 0);
        self.discount_prefix(ends.remote_ip);
        self.discount_address(ends.remote_ip);
        match slot {
            Slot::Tunnel(tunnel) => Some(tunnel),
            Slot::Vacant { .. } => None,
        }
    }

    /// The tunnel of a queue that was updated longest ago.
    pub(super) fn oldest(&self, queue: Queue) -> Option<(u32, Moment)> {
        let head = self.list(queue).head;
        self.get(head).map(|tunnel| (head, tunnel.updated))
    }

    fn add_block(&mut self) {
        let first = u32::try_from(self.blocks.len() * BLOCK + 1).expect("fewer tunnels than a u32 can count");
        let last = first + BLOCK as u32 - 1;
        let slots = (first..=last).map(|id| Slot::Vacant { next: if id == last { 0 } else { id + 1 } });
        self.blocks.push(slots.collect());
        self.vacant = first;
    }

    const fn list(&self, queue: Queue) -> &List {
        match queue {
            Queue::Member => &self.member,
            Queue::Idle => &self.idle,
        }
    }

    const fn list_mut(&mut self, queue: Queue) -> &mut List {
        match queue {
            Queue::Member => &mut self.member,
            Queue::Idle => &mut self.idle,
        }
    }

    fn append(&mut self, queue: Queue, id: u32) {
        let tail = self.list(queue).tail;
        if let Some(tunnel) = self.get_mut(id) {
            tunnel.previous = tail;
            tunnel.next = 0;
        }
        match self.get_mut(tail) {
            Some(last) => last.next = id,
            None => self.list_mut(queue).head = id,
        }
        self.list_mut(queue).tail = id;
    }

    fn unlink(&mut self, queue: Queue, id: u32) {
        let Some(Tunnel { previous, next, .. }) = self.get(id) else { return };
        let (previous, next) = (*previous, *next);
        match self.get_mut(previous) {
            Some(tunnel) => tunnel.next = next,
            None => self.list_mut(queue).head = next,
        }
        match self.get_mut(next) {
            Some(tunnel) => tunnel.previous = previous,
            None => self.list_mut(queue).tail = previous,
        }
    }
}

/// The place of an id; 0 is nobody's id.
fn position(id: u32) -> Option<(usize, usize)> {
    let index = usize::try_from(id.checked_sub(1)?).ok()?;
    Some((index / BLOCK, index % BLOCK))
}

fn ends_of(blocks: &[Box<[Slot]>], id: u32) -> Option<Ends> {
    let (block, at) = position(id)?;
    match &blocks[block][at] {
        Slot::Tunnel(tunnel) => Some(tunnel.ends),
        Slot::Vacant { .. } => None,
    }
}

fn hash_address(hasher: &SipHasher13, address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => hasher.hash(&v4.octets()),
        IpAddr::V6(v6) => hasher.hash(&v6.octets()),
    }
}

fn hash_ends(hasher: &SipHasher13, ends: &Ends) -> u64 {
    let mut input = [0; 20];
    match ends.remote_ip {
        IpAddr::V4(v4) => input[..4].copy_from_slice(&v4.octets()),
        IpAddr::V6(v6) => input[..16].copy_from_slice(&v6.octets()),
    }
    input[16..18].copy_from_slice(&ends.remote_port.to_be_bytes());
    input[18..20].copy_from_slice(&ends.local.to_be_bytes());
    hasher.hash(&input)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Filter, host_state::Limits};

    fn local() -> SocketAddr {
        "192.0.2.1:2268".parse().unwrap()
    }

    fn host(groups: u8) -> HostState {
        let mut host = HostState::default();
        for last in 0..groups {
            let group = IpAddr::from([239, 1, 1, last]);
            host.set(group, &Filter::any(), &Limits::default(), 0).unwrap();
        }
        host
    }

    fn add(table: &mut Table, at: u64, port: u16, groups: u8) -> u32 {
        let ends = table.ends(local(), SocketAddr::from(([10, 0, 0, 1], port))).unwrap();
        table.insert(Moment(at), ends, false, host(groups))
    }

    fn drain(table: &mut Table, queue: Queue) -> Vec<u32> {
        let mut order = Vec::new();
        while let Some((id, _)) = table.oldest(queue) {
            table.remove(id);
            order.push(id);
        }
        order
    }

    #[test]
    fn an_update_moves_a_tunnel_behind_all_others_and_between_the_queues() {
        let mut table = Table::new(&[0; 16]);
        let ids: Vec<_> = (1..=5).map(|port| add(&mut table, u64::from(port), port, 1)).collect();
        assert_eq!(ids, [1, 2, 3, 4, 5]);
        table.update(Moment(6), 1, |_| ());
        table.update(Moment(7), 3, |_| ());
        table.update(Moment(8), 5, |state| *state = host(0));
        assert_eq!(table.oldest(Queue::Idle), Some((5, Moment(8))));
        assert_eq!(drain(&mut table, Queue::Member), [2, 4, 1, 3]);
        assert_eq!(drain(&mut table, Queue::Idle), [5]);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn ids_are_used_again_and_every_index_forgets_the_removed() {
        let mut table = Table::new(&[0; 16]);
        for port in 1..=3_000 {
            add(&mut table, 0, port, 1);
        }
        let ends = table.ends(local(), "10.0.0.1:7".parse().unwrap()).unwrap();
        assert_eq!(table.find(&ends), Some(7));
        assert_eq!(table.of_address(ends.remote_ip), 3_000);
        assert_eq!(table.remove(7).unwrap().ends, ends);
        assert_eq!(table.find(&ends), None);
        assert!(table.remove(7).is_none());
        assert_eq!(table.of_address(ends.remote_ip), 2_999);
        assert_eq!(table.iter().count(), 2_999);
        assert_eq!(add(&mut table, 0, 5_000, 1), 7);
        assert_eq!(add(&mut table, 0, 5_001, 1), 3_001);
    }

    #[test]
    fn the_same_gateway_has_a_tunnel_to_each_of_our_addresses() {
        let mut table = Table::new(&[0; 16]);
        let remote = "10.0.0.1:1".parse().unwrap();
        let one = table.ends(local(), remote).unwrap();
        table.insert(Moment(0), one, false, host(1));
        let other = table.ends("192.0.2.2:2268".parse().unwrap(), remote).unwrap();
        assert_ne!(one, other);
        assert_eq!(table.find(&other), None);
        assert_eq!(table.local(&one), local());
        assert_eq!(table.local(&other).to_string(), "192.0.2.2:2268");
    }

    /// A VMR that is dialled in every day has another address each time.
    #[test]
    fn addresses_that_come_and_go_take_no_room() {
        let mut table = Table::new(&[0; 16]);
        let remote = "10.0.0.1:1".parse().unwrap();
        let kept = table.ends(local(), remote).unwrap();
        table.insert(Moment(0), kept, false, host(1));
        for number in 0..100_000u32 {
            let local = SocketAddr::from((std::net::Ipv4Addr::from(0x0b00_0000 + number), 2268));
            let ends = table.ends(local, remote).unwrap();
            assert_eq!(table.local(&ends), local);
            assert_eq!(table.find(&ends), None, "another one's tunnel is found");
            if number % 2 == 0 {
                let id = table.insert(Moment(0), ends, false, host(1));
                table.remove(id).unwrap();
            }
        }
        assert_eq!(table.locals.len(), 2);
        assert_eq!((table.len(), table.local(&kept)), (1, local()));
    }

    #[test]
    fn a_slot_takes_at_most_96_bytes() {
        assert!(size_of::<Slot>() <= 96, "{}", size_of::<Slot>());
    }
}
