//! Filters of the control plane's sockets: shares of what is read from them, see [`vmcast_common::shares`].

mod hints;

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray},
    programs::SocketFilter,
};
use vmcast_common::{
    maps::Address,
    shares::{
        CUTS, Cut, GATEWAY_HINTS, GATEWAYS, HOST_HINTS, HOSTS, Hint, HostKey, LINK_STRANGERS_PER_SECOND,
        LINKS, LinkEntry, LinkKey, NARROWED, PROGRAM_LINK, PROGRAM_RELAY, SOURCE_PER_SECOND,
        STRANGERS_PER_SECOND, THINNED, THINNED_HOSTS, network,
    },
};

use crate::kernel::{OpenError, chain, update_batch, whole_load};
use hints::Hints;

/// `BPF_NOEXIST` (linux/bpf.h): an entry that is there stays as it is.
const BPF_NOEXIST: u64 = 1;

/// Most networks that wait for their shares.
const AT_ONCE: usize = 64;

#[cfg(vmcast_shares_object)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vmcast-shares.o"));

fn object() -> Option<&'static [u8]> {
    #[cfg(vmcast_shares_object)]
    return Some(OBJECT);
    #[cfg(not(vmcast_shares_object))]
    return None;
}

/// How much those who are to share may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Datagrams a second to a relay of each source, an address of IPv4 or a /64 of IPv6; at most 10^9.
    pub source: u32,
    /// Datagrams a second of all sources without a tunnel together; at most 10^9.
    pub strangers: u32,
    /// Messages a second of all hosts of a link that are not known; at most 10^9.
    pub link_strangers: u32,
}

impl Rates {
    /// The most that can be said.
    const MOST: u32 = 1_000_000_000;
}

/// Datagrams to a relay that were cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelayCuts {
    /// Because their source sent more than its share.
    pub source: u64,
    /// Because all sources without a tunnel sent more than theirs.
    pub strangers: u64,
}

/// The loaded filters, and whom they know. Sockets that they stand before keep them when this is gone.
#[derive(Debug)]
pub struct SocketShares {
    relay: OwnedFd,
    link: OwnedFd,
    maps: Mutex<Maps>,
}

struct Maps {
    /// How many tunnels each network has.
    tunnels: BTreeMap<Address, u32>,
    gateways: HashMap<MapData, Address, u64>,
    /// Networks with a tunnel that the kernel does not know yet.
    new: Vec<Address>,
    gateway_hints: Hints,
    cuts: PerCpuArray<MapData, u64>,
    hosts: HashMap<MapData, HostKey, u32>,
    host_hints: Hints,
    thinned: HashMap<MapData, HostKey, u32>,
    thinned_hosts: Array<MapData, u32>,
    /// How many are.
    thins: u32,
    links: HashMap<MapData, LinkKey, LinkEntry>,
    narrowed: HashMap<MapData, LinkKey, u32>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").field("networks", &self.tunnels.len()).finish_non_exhaustive()
    }
}

impl Maps {
    fn write_new(&mut self) {
        if self.new.is_empty() {
            return;
        }
        let due = [0; AT_ONCE];
        if update_batch(&self.gateways, &self.new, &due[..self.new.len()]).is_err() {
            // Where the kernel takes no batches, or has no room for all of them.
            for network in &self.new {
                if let Err(error) = self.gateways.insert(network, 0, 0) {
                    tracing::debug!(?network, %error, "a gateway is without a share of its own");
                }
            }
        }
        self.new.clear();
    }
}

impl SocketShares {
    /// Loads the filters.
    ///
    /// # Errors
    /// If this build carries none, or the kernel does not take them.
    pub fn open(rates: Rates) -> Result<Self, OpenError> {
        let Rates { source, strangers, link_strangers } = rates;
        let bytes = object().ok_or(OpenError::NoObject)?;
        let rates = [source, strangers, link_strangers].map(|rate| rate.min(Rates::MOST));
        let mut loader = EbpfLoader::new();
        let constants = [SOURCE_PER_SECOND, STRANGERS_PER_SECOND, LINK_STRANGERS_PER_SECOND];
        for (constant, rate) in constants.into_iter().zip(&rates) {
            loader.override_global(constant, rate, true);
        }
        let mut loaded = loader.load(bytes).map_err(|error| OpenError::Object(chain(&error)))?;
        let relay = program(&mut loaded, PROGRAM_RELAY)?;
        let link = program(&mut loaded, PROGRAM_LINK)?;
        let maps = Maps {
            tunnels: BTreeMap::new(),
            gateways: hash(&mut loaded, GATEWAYS)?,
            new: Vec::new(),
            gateway_hints: hints(&mut loaded, GATEWAY_HINTS)?,
            cuts: PerCpuArray::try_from(map(&mut loaded, CUTS)?).map_err(refused)?,
            hosts: hash(&mut loaded, HOSTS)?,
            host_hints: hints(&mut loaded, HOST_HINTS)?,
            thinned: hash(&mut loaded, THINNED)?,
            thinned_hosts: Array::try_from(map(&mut loaded, THINNED_HOSTS)?).map_err(refused)?,
            thins: 0,
            links: hash(&mut loaded, LINKS)?,
            narrowed: hash(&mut loaded, NARROWED)?,
        };
        Ok(Self { relay, link, maps: Mutex::new(maps) })
    }

    /// The filter of a relay's sockets, for `SO_ATTACH_BPF`.
    #[must_use]
    pub fn relay_filter(&self) -> BorrowedFd<'_> {
        self.relay.as_fd()
    }

    /// The filter of packet sockets for IGMP and MLD, for `SO_ATTACH_BPF`: it lets nothing else through.
    #[must_use]
    pub fn link_filter(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// A tunnel to an address is there: its network has a share of its own from the next
    /// [`SocketShares::share_out`] on, if there is room for it.
    pub fn add_gateway(&self, address: IpAddr) {
        let network = network(address);
        let maps = &mut *self.maps();
        let count = maps.tunnels.entry(network).or_default();
        *count += 1;
        if *count == 1 {
            maps.gateway_hints.add(Hint::of(network.words()));
            maps.new.push(network);
            if maps.new.len() >= AT_ONCE {
                maps.write_new();
            }
        }
    }

    /// Gives those networks their shares whose first tunnels came since the last call: all of them in one call of the
    /// kernel.
    pub fn share_out(&self) {
        self.maps().write_new();
    }

    /// A tunnel to an address is gone.
    pub fn remove_gateway(&self, address: IpAddr) {
        let network = network(address);
        let Maps { tunnels, gateways, new, gateway_hints, .. } = &mut *self.maps();
        let Some(count) = tunnels.get_mut(&network) else { return };
        *count -= 1;
        if *count == 0 {
            tunnels.remove(&network);
            match new.iter().position(|other| *other == network) {
                Some(at) => drop(new.swap_remove(at)),
                // One that there was no room for is not there.
                None => drop(gateways.remove(&network)),
            }
            gateway_hints.remove(Hint::of(network.words()));
        }
    }

    /// Datagrams to the relay that were cut.
    #[must_use]
    pub fn relay_cuts(&self) -> RelayCuts {
        let maps = self.maps();
        let of = |cut: Cut| maps.cuts.get(&(cut as u32), 0).map_or(0, |values| values.iter().sum());
        RelayCuts { source: of(Cut::Source), strangers: of(Cut::Strangers) }
    }

    /// Begins to share what is read of a protocol on a link.
    ///
    /// # Errors
    /// If there is no room for another link: then who is not known may send any amount.
    pub fn add_link(&self, link: LinkKey) -> Result<(), MapError> {
        self.maps().links.insert(link, LinkEntry::default(), 0)
    }

    /// A link is gone, after its hosts.
    pub fn remove_link(&self, link: LinkKey) {
        // One that there was no room for is not there.
        let mut maps = self.maps();
        let _ = maps.links.remove(&link);
        let _ = maps.narrowed.remove(&link);
    }

    /// Messages of hosts of a link which are not known that were cut.
    #[must_use]
    pub fn link_cut(&self, link: LinkKey) -> u64 {
        self.maps().links.get(&link, 0).map_or(0, |entry| entry.cut)
    }

    /// Makes the share of the hosts of a link that are not known smaller by this power of two than it is on others.
    ///
    /// # Errors
    /// If there is no room for another link: then the share stays as it is.
    pub fn narrow_link(&self, link: LinkKey, shift: u32) -> Result<(), MapError> {
        set(&mut self.maps().narrowed, link, (shift > 0).then_some(shift))
    }

    /// Cuts no message of a host for what others send, or does again.
    ///
    /// # Errors
    /// If there is no room for another one.
    pub fn set_known(&self, host: HostKey, known: bool) -> Result<(), MapError> {
        let Maps { hosts, host_hints, .. } = &mut *self.maps();
        if !known {
            if is_removed(hosts.remove(&host))? {
                host_hints.remove(host.hint());
            }
            return Ok(());
        }
        host_hints.add(host.hint());
        let added = is_added(hosts.insert(host, 0, BPF_NOEXIST));
        if !matches!(added, Ok(true)) {
            host_hints.remove(host.hint());
        }
        added.map(drop)
    }

    /// Lets only one in 2 to the given power of a host's messages through, or all of them again.
    ///
    /// # Errors
    /// If there is no room for another one.
    pub fn thin(&self, host: HostKey, shift: Option<u32>) -> Result<(), MapError> {
        let Maps { thinned, thinned_hosts, thins, .. } = &mut *self.maps();
        match shift {
            Some(shift) if is_added(thinned.insert(host, shift, BPF_NOEXIST))? => *thins += 1,
            Some(shift) => return thinned.insert(host, shift, 0),
            None if is_removed(thinned.remove(&host))? => *thins -= 1,
            None => return Ok(()),
        }
        thinned_hosts.set(0, *thins, 0)
    }

    fn maps(&self) -> MutexGuard<'_, Maps> {
        // Each change is one write: whoever panicked left nothing half done.
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Finds out whether the kernel takes the filters; they go at once.
///
/// # Errors
/// As of [`SocketShares::open`].
pub fn try_out() -> Result<(), OpenError> {
    SocketShares::open(Rates { source: 1, strangers: 1, link_strangers: 1 }).map(drop)
}

fn set<K: Pod>(map: &mut HashMap<MapData, K, u32>, key: K, value: Option<u32>) -> Result<(), MapError> {
    match value {
        Some(value) => map.insert(key, value, 0),
        None => is_removed(map.remove(&key)).map(drop),
    }
}

/// Whether a key is new in a table, which was to be added if it is (`BPF_NOEXIST`).
fn is_added(added: Result<(), MapError>) -> Result<bool, MapError> {
    match added {
        Ok(()) => Ok(true),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::EEXIST) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether a key was in a table.
fn is_removed(removed: Result<(), MapError>) -> Result<bool, MapError> {
    match removed {
        Ok(()) => Ok(true),
        Err(MapError::KeyNotFound) => Ok(false),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn program(loaded: &mut Ebpf, name: &'static str) -> Result<OwnedFd, OpenError> {
    let program = loaded.program_mut(name).ok_or_else(|| missing(name))?;
    let program: &mut SocketFilter = program.try_into().map_err(refused)?;
    whole_load(|| program.load()).map_err(|source| OpenError::Program { name, source: Box::new(source) })?;
    let fd = program.fd().map_err(refused)?.try_clone().map_err(refused)?;
    fd.as_fd().try_clone_to_owned().map_err(refused)
}

fn map(loaded: &mut Ebpf, name: &str) -> Result<Map, OpenError> {
    loaded.take_map(name).ok_or_else(|| missing(name))
}

fn hash<K: Pod, V: Pod>(loaded: &mut Ebpf, name: &str) -> Result<HashMap<MapData, K, V>, OpenError> {
    HashMap::try_from(map(loaded, name)?).map_err(refused)
}

fn hints(loaded: &mut Ebpf, name: &'static str) -> Result<Hints, OpenError> {
    Ok(Hints::new(Array::try_from(map(loaded, name)?).map_err(refused)?, name))
}

fn missing(name: &str) -> OpenError {
    OpenError::Object(format!("{name} is missing"))
}

fn refused(error: impl std::error::Error) -> OpenError {
    OpenError::Object(chain(&error))
}
