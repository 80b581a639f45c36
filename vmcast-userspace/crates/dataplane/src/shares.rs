//! Filters of the control plane's sockets: shares of what is read from them, see [`vmcast_common::shares`].

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, Map, MapData, MapError, PerCpuArray},
    programs::SocketFilter,
};
use vmcast_common::{
    maps::Address,
    shares::{
        CUTS, Cut, GATEWAYS, HOSTS, HostKey, LINK_STRANGERS_PER_SECOND, LINKS, LinkEntry, LinkKey, NARROWED,
        PROGRAM_LINK, PROGRAM_RELAY, SOURCE_PER_SECOND, STRANGERS_PER_SECOND, THINNED, network,
    },
};

use crate::kernel::{OpenError, chain, whole_load};

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
    cuts: PerCpuArray<MapData, u64>,
    hosts: HashMap<MapData, HostKey, u32>,
    thinned: HashMap<MapData, HostKey, u32>,
    links: HashMap<MapData, LinkKey, LinkEntry>,
    narrowed: HashMap<MapData, LinkKey, u32>,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").field("networks", &self.tunnels.len()).finish_non_exhaustive()
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
            cuts: PerCpuArray::try_from(map(&mut loaded, CUTS)?).map_err(refused)?,
            hosts: hash(&mut loaded, HOSTS)?,
            thinned: hash(&mut loaded, THINNED)?,
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

    /// A tunnel to an address is there: its network has a share of its own, if there is room for it.
    pub fn add_gateway(&self, address: IpAddr) {
        let network = network(address);
        let Maps { tunnels, gateways, .. } = &mut *self.maps();
        let count = tunnels.entry(network).or_default();
        *count += 1;
        if *count == 1
            && let Err(error) = gateways.insert(network, 0, 0)
        {
            tracing::debug!(%address, %error, "a gateway is without a share of its own");
        }
    }

    /// A tunnel to an address is gone.
    pub fn remove_gateway(&self, address: IpAddr) {
        let network = network(address);
        let Maps { tunnels, gateways, .. } = &mut *self.maps();
        let Some(count) = tunnels.get_mut(&network) else { return };
        *count -= 1;
        if *count == 0 {
            tunnels.remove(&network);
            // One that there was no room for is not there.
            let _ = gateways.remove(&network);
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
        set(&mut self.maps().hosts, host, known.then_some(0))
    }

    /// Lets only one in 2 to the given power of a host's messages through, or all of them again.
    ///
    /// # Errors
    /// If there is no room for another one.
    pub fn thin(&self, host: HostKey, shift: Option<u32>) -> Result<(), MapError> {
        set(&mut self.maps().thinned, host, shift)
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
        None => match map.remove(&key) {
            Err(MapError::KeyNotFound) | Ok(()) => Ok(()),
            Err(error) => Err(error),
        },
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

fn missing(name: &str) -> OpenError {
    OpenError::Object(format!("{name} is missing"))
}

fn refused(error: impl std::error::Error) -> OpenError {
    OpenError::Object(chain(&error))
}
