//! Programs that stay when the daemon ends, and the start that takes them over.
//!
//! Below the pin directory stand `links/IFINDEX` for programs at XDP and `links/IFINDEX-tc` for those at TC, one
//! of them or both for each attached device, `links/IFINDEX-chunk`, `-list` and `-reassembled` for those behind devices of our own, and
//! `maps-SCHEMA/NAME`, what the forwarding base can be read back from. A new daemon always fills maps of its
//! own, makes relay devices of its own, and then replaces the program on each link in one step; so it makes no
//! difference to packets whether the layout of the maps has changed, only the old state cannot be read then.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap as StdHashMap},
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::links::{FdLink, PinnedLink},
};
use vmcast_common::{
    fib::{EcnMode, IfIndex, Members, NextHopId, Output, Priority, Rpf, Stream, Tunnel, TunnelId},
    maps::{
        self, Head, HeadKey, InputId, MemberEntry, NextHopEntry, SCHEMA, StreamCounters, StreamEntry,
        StreamKey, TableLine, TunnelEntry, TunnelKey, kind,
    },
};

use super::{attach::Role, error::KernelError, relay, stats::read_stream};
use crate::plane::{Fib, FibStream};

/// Magic number of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// The maps that the forwarding base is read back from.
const KEPT_MAPS: [&str; 9] = [
    maps::STREAMS,
    maps::STREAM_STATS,
    maps::TUNNELS,
    maps::MEMBERS,
    maps::TABLES,
    maps::HEADS,
    maps::LISTS,
    maps::NEXT_HOPS,
    maps::EGRESS,
];

/// What ends the name of a link. A BPF file system allows no dot.
const fn suffix(role: Role) -> &'static str {
    match role {
        Role::Xdp => "",
        Role::Tc => "-tc",
        Role::Bare => "-bare",
        Role::Chunk => "-chunk",
        Role::List => "-list",
        Role::Reassembled => "-reassembled",
    }
}

/// What a daemon has left forwarding.
#[derive(Debug)]
pub struct Inheritance {
    /// The forwarding base.
    pub fib: Fib,
    /// When the last packet of streams had come when this was read, nanoseconds of `CLOCK_MONOTONIC`; without those
    /// that had none.
    pub last_packets: StdHashMap<Stream, u64>,
}

/// A pin directory.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    root: PathBuf,
}

impl Pins {
    pub(super) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// If the directory is not on a BPF file system.
    pub(super) fn prepare(&self) -> Result<(), KernelError> {
        fs::create_dir_all(self.links()).map_err(KernelError::call("making the pin directory"))?;
        let stat = nix::sys::statfs::statfs(&self.root)
            .map_err(KernelError::call("looking at the pin directory"))?;
        if stat.filesystem_type().0 == BPF_FS_MAGIC {
            return Ok(());
        }
        let text = format!(
            "{} is not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf`",
            self.root.display()
        );
        Err(KernelError::call("pinning")(text))
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    pub(super) fn link(&self, ifindex: IfIndex, role: Role) -> PathBuf {
        self.links().join(format!("{}{}", ifindex.0, suffix(role)))
    }

    fn maps(&self) -> PathBuf {
        self.root.join(format!("maps-{SCHEMA:016x}"))
    }

    fn next_maps(&self) -> PathBuf {
        self.root.join("maps-next")
    }

    /// The link that an earlier daemon left on a device.
    pub(super) fn kept_link(&self, ifindex: IfIndex, role: Role) -> Option<FdLink> {
        PinnedLink::from_pin(self.link(ifindex, role)).ok().map(Into::into)
    }

    /// Devices on which links are pinned, and what for.
    pub(super) fn kept_links(&self) -> Vec<(IfIndex, Role)> {
        let names = fs::read_dir(self.links()).into_iter().flatten().flatten();
        names.filter_map(|entry| read_link_name(entry.file_name().to_str()?)).collect()
    }

    /// Pins the maps of this daemon beside those of the one before.
    pub(super) fn pin_maps(&self, object: &Ebpf) -> Result<(), KernelError> {
        let next = self.next_maps();
        remove(&next).map_err(KernelError::call("clearing the pin directory"))?;
        fs::create_dir_all(&next).map_err(KernelError::call("making the pin directory"))?;
        for name in KEPT_MAPS {
            let map =
                object.map(name).ok_or_else(|| KernelError::call("pinning")(format!("{name} is missing")))?;
            map.pin(next.join(name)).map_err(KernelError::call("pinning a map"))?;
        }
        Ok(())
    }

    /// Puts the maps of this daemon in the place of those before, once it forwards.
    pub(super) fn commit_maps(&self) -> io::Result<()> {
        self.remove_maps()?;
        fs::rename(self.next_maps(), self.maps())
    }

    fn remove_maps(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with("maps-") && entry.path() != self.next_maps() {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes every pin: what is attached goes when its last user closes it.
    pub(super) fn remove_all(&self) -> io::Result<()> {
        if !self.root.exists() {
            return Ok(());
        }
        self.remove_maps()?;
        remove(&self.next_maps())?;
        remove(&self.links())?;
        // Somebody else's file in there keeps the directory, and is none of our business.
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }

    /// What an earlier daemon left; `None` if there is nothing of this layout.
    pub(super) fn inheritance(&self) -> Option<Inheritance> {
        let dir = self.maps();
        if !dir.exists() {
            return None;
        }
        match read(&dir) {
            Ok(left) => Some(left),
            Err(error) => {
                tracing::warn!(%error, "what the daemon before this one left cannot be read; its streams start anew");
                None
            }
        }
    }
}

fn read_link_name(name: &str) -> Option<(IfIndex, Role)> {
    Role::ALL.into_iter().find_map(|role| {
        let ifindex = name.strip_suffix(suffix(role))?.parse().ok()?;
        Some((IfIndex(ifindex), role))
    })
}

/// Takes programs that an earlier daemon kept off their interfaces, where no kernel plane takes them
/// over, and removes its relay devices and those of processes that were killed. Says whether there were any
/// programs.
///
/// # Errors
/// If a pin cannot be removed; its program forwards on then.
pub fn remove_kept(pin_path: &Path) -> io::Result<bool> {
    let pins = Pins::new(pin_path);
    let links = pins.kept_links();
    pins.remove_all()?;
    let relays = links.iter().filter(|(_, role)| role.is_behind_relay());
    relays.for_each(|(device, _)| relay::remove(*device));
    relay::sweep(&[]);
    Ok(!links.is_empty())
}

/// Removes a directory of pins; one that is not there is removed already. A BPF file system has no
/// directories below those of pins.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                fs::remove_file(entry?.path())?;
            }
            fs::remove_dir(dir)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn open<M>(dir: &Path, name: &'static str, variant: fn(MapData) -> Map) -> Result<M, KernelError>
where
    M: TryFrom<Map, Error = MapError>,
{
    let data = MapData::from_pin(dir.join(name)).map_err(KernelError::call(name))?;
    M::try_from(variant(data)).map_err(KernelError::call(name))
}

/// What stands in the lists of one table.
#[derive(Default)]
struct Walked {
    outputs: BTreeSet<Output>,
    /// The table that it leads to, 0 for none.
    next: u32,
    /// The list that it leads to, 0 for none.
    list: u32,
}

/// Where an earlier daemon's tunnels and members are looked up.
struct Kept {
    /// First members of tables on devices that their lines have no room for.
    more_heads: BTreeMap<u32, Vec<u32>>,
    tables: Array<MapData, TableLine>,
    members: Array<MapData, MemberEntry>,
    lists: Array<MapData, u32>,
    egress: Array<MapData, u32>,
    next_hops: Array<MapData, NextHopEntry>,
    tunnel_ids: StdHashMap<TunnelKey, TunnelId>,
    fib: Fib,
}

fn read(dir: &Path) -> Result<Inheritance, KernelError> {
    // One of an earlier release has not left them.
    let stats: Option<PerCpuArray<_, StreamCounters>> = open(dir, maps::STREAM_STATS, Map::PerCpuArray).ok();
    let streams: HashMap<_, StreamKey, StreamEntry> = open(dir, maps::STREAMS, Map::HashMap)?;
    let tunnels: HashMap<_, TunnelKey, TunnelEntry> = open(dir, maps::TUNNELS, Map::HashMap)?;
    let heads: HashMap<_, HeadKey, Head> = open(dir, maps::HEADS, Map::HashMap)?;
    let mut kept = Kept {
        more_heads: BTreeMap::new(),
        tables: open(dir, maps::TABLES, Map::Array)?,
        members: open(dir, maps::MEMBERS, Map::Array)?,
        lists: open(dir, maps::LISTS, Map::Array)?,
        egress: open(dir, maps::EGRESS, Map::Array)?,
        next_hops: open(dir, maps::NEXT_HOPS, Map::Array)?,
        tunnel_ids: StdHashMap::new(),
        fib: Fib::default(),
    };
    for entry in tunnels.iter() {
        let (key, tunnel) = entry.map_err(KernelError::call(maps::TUNNELS))?;
        let id = TunnelId(tunnel.id);
        kept.tunnel_ids.insert(key, id);
        let Some((kind, local, remote)) = key.ends() else {
            continue;
        };
        let tunnel = Tunnel {
            kind,
            local,
            remote,
            ecn: tunnel.ecn(),
            accepts_sources: tunnel.accepts_sources != 0,
            next_hop: None,
        };
        kept.fib.tunnels.insert(id, tunnel);
    }
    for entry in heads.iter() {
        let (key, head) = entry.map_err(KernelError::call(maps::HEADS))?;
        kept.more_heads.entry(key.table).or_default().push(head.member);
    }
    let mut entries = Vec::new();
    for entry in streams.iter() {
        let (key, stream) = entry.map_err(KernelError::call(maps::STREAMS))?;
        entries.push((Stream::from(key), stream));
    }
    let place = |entry: &StreamEntry| (entry.table, entry.list);
    let any_source: StdHashMap<_, _> = entries
        .iter()
        .filter(|(stream, _)| stream.source.is_none())
        .map(|(stream, entry)| (stream.group, place(entry)))
        .collect();
    let mut last_packets = StdHashMap::new();
    for (stream, entry) in entries {
        let read = stats.as_ref().and_then(|stats| read_stream(stats, entry.stats).ok());
        if let Some(StreamCounters { last_ns, .. }) = read.filter(|read| read.last_ns > 0) {
            last_packets.insert(stream, last_ns);
        }
        let shared = any_source.get(&stream.group) == Some(&place(&entry)) && place(&entry) != (0, 0);
        let members = if stream.source.is_some() && shared { Members::OfAnySource } else { Members::Own };
        let outputs = match members {
            Members::Own => kept.outputs(&entry)?,
            Members::OfAnySource => BTreeSet::new(),
        };
        let rpf = InputId(entry.rpf).input().map_or(Rpf::AnyUpstream, Rpf::Exact);
        kept.fib.streams.insert(stream, FibStream { rpf, members, priority: Priority::default(), outputs });
    }
    Ok(Inheritance { fib: kept.fib, last_packets })
}

impl Kept {
    /// The members of a stream, wherever they are.
    fn outputs(&mut self, entry: &StreamEntry) -> Result<BTreeSet<Output>, KernelError> {
        let mut all = Walked { next: entry.table, list: entry.list, ..Walked::default() };
        // Tables that a dying daemon left half written must not be walked in circles.
        for _ in 0..self.tables.len() {
            let table = std::mem::take(&mut all.next);
            if table == 0 {
                break;
            }
            self.walk_table(table, &mut all)?;
        }
        if all.list != 0 {
            let first = self.lists.get(&all.list, 0).map_err(KernelError::call(maps::LISTS))?;
            self.walk(first, &mut all)?;
        }
        Ok(all.outputs)
    }

    /// Notes the members of a table, and where it leads to.
    fn walk_table(&mut self, table: u32, walked: &mut Walked) -> Result<(), KernelError> {
        let line = self.tables.get(&maps::table_place(table), 0).map_err(KernelError::call(maps::TABLES))?;
        if line.table != table {
            return Ok(());
        }
        let more = self.more_heads.get(&table).cloned().unwrap_or_default();
        let heads = line.heads.into_iter().map(|[member, _]| member).chain(more);
        heads.into_iter().try_for_each(|head| self.walk(head, walked))
    }

    /// Notes the live members from one on, and their next hops.
    fn walk(&mut self, first: u32, walked: &mut Walked) -> Result<(), KernelError> {
        let mut index = first;
        // A list that a dying daemon left half written must not be walked in circles.
        for _ in 0..self.members.len() {
            if index == 0 {
                break;
            }
            let member = self.members.get(&index, 0).map_err(KernelError::call(maps::MEMBERS))?;
            match member.kind {
                kind::GONE | kind::PAUSE => {}
                kind::TO_TABLE => walked.next = member.way_to(),
                kind::TO_LIST => walked.list = member.way_to(),
                kind::NATIVE => {
                    let hop = self.next_hop(member.next_hop)?;
                    walked.outputs.insert(Output::Interface(IfIndex(hop.interface)));
                }
                kind::NEIGHBOUR => {
                    let id = self.note_next_hop(member.next_hop)?;
                    walked.outputs.insert(Output::Neighbour(id));
                }
                // Who asked for them sets them anew, by numbers that the kernel does not have.
                kind::CONVERTED_V4 | kind::CONVERTED_V6 => {}
                _ => walked.outputs.extend(self.tunnel_of(&member)?.map(Output::Tunnel)),
            }
            index = member.next;
        }
        Ok(())
    }

    fn tunnel_of(&mut self, member: &MemberEntry) -> Result<Option<TunnelId>, KernelError> {
        let key = member.tunnel_ends().map(|(kind, local, remote)| {
            TunnelKey::new(&Tunnel {
                kind,
                local,
                remote,
                ecn: EcnMode::Normal,
                accepts_sources: false,
                next_hop: None,
            })
        });
        let Some(&id) = key.and_then(|key| self.tunnel_ids.get(&key)) else {
            return Ok(None);
        };
        if member.next_hop != super::state::NO_NEXT_HOP {
            let hop = self.note_next_hop(member.next_hop)?;
            if let Some(tunnel) = self.fib.tunnels.get_mut(&id) {
                tunnel.next_hop = Some(hop);
            }
        }
        Ok(Some(id))
    }

    fn note_next_hop(&mut self, index: u32) -> Result<NextHopId, KernelError> {
        let id = NextHopId(index);
        if !self.fib.next_hops.contains_key(&id) {
            let device = self.egress.get(&index, 0).map_err(KernelError::call(maps::EGRESS))?;
            let hop = self.next_hop(index)?.next_hop(IfIndex(device));
            self.fib.next_hops.insert(id, hop);
        }
        Ok(id)
    }

    fn next_hop(&self, index: u32) -> Result<NextHopEntry, KernelError> {
        self.next_hops.get(&index, 0).map_err(KernelError::call(maps::NEXT_HOPS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_kept_link_tells_its_device_and_what_it_is_for() {
        let pins = Pins::new(Path::new("/sys/fs/bpf/vmcast"));
        for role in Role::ALL {
            let path = pins.link(IfIndex(17), role);
            let name = path.file_name().and_then(|name| name.to_str()).expect("a name of ASCII");
            assert_eq!(read_link_name(name), Some((IfIndex(17), role)));
        }
        for name in ["", "-tc", "17-other", "eth0"] {
            assert_eq!(read_link_name(name), None, "{name:?}");
        }
    }
}
