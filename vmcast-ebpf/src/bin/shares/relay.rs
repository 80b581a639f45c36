//! The sources of a relay.

use aya_ebpf::{
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray},
    macros::btf_map,
    programs::SkBuffContext,
};
use vmcast_common::{
    hdr::eth,
    maps::Address,
    shares::{Cut, Hint, RelayShares, limit, network_v6, relay_rate},
};

use crate::packet::{self, From, Hints, load};

const NO_PREALLOC: usize = 1;
/// Where the source address stands in the header of IPv4.
const SOURCE_V4: usize = 12;
/// Where it stands in that of IPv6.
const SOURCE_V6: usize = 8;

#[btf_map]
static GATEWAYS: HashMap<Address, u64, { limit::GATEWAYS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static GATEWAY_HINTS: Hints = Hints::new();
#[btf_map]
static STRANGERS: LruHashMap<Address, u64, { limit::STRANGERS as usize }> = LruHashMap::new();
#[btf_map]
static STRANGERS_DUE: Array<u64, 1> = Array::new();
#[btf_map]
static CUTS: PerCpuArray<u64, { Cut::ALL.len() }> = PerCpuArray::new();

/// Set by the loader.
#[unsafe(no_mangle)]
static SOURCE_PER_SECOND: u32 = 1;
/// Set by the loader.
#[unsafe(no_mangle)]
static STRANGERS_PER_SECOND: u32 = 1;

/// Whether a datagram is within the share of its source.
#[inline(always)]
pub(crate) fn is_admitted(ctx: &SkBuffContext) -> bool {
    let Some(source) = source(ctx) else { return true };
    match admit(source) {
        Ok(()) => true,
        Err(cut) => {
            if let Some(count) = CUTS.get_ptr_mut(cut as u32) {
                // SAFETY: the value is this CPU's own and the program is not preempted by itself.
                unsafe { *count += 1 };
            }
            false
        }
    }
}

#[inline(always)]
fn source(ctx: &SkBuffContext) -> Option<Address> {
    match packet::ether_type(ctx) {
        eth::TYPE_IPV4 => load::<u32>(ctx, From::Network, SOURCE_V4).map(Address::from_v4_word),
        eth::TYPE_IPV6 => load::<u64>(ctx, From::Network, SOURCE_V6).map(network_v6),
        _ => None,
    }
}

/// CPUs that do this at once may both take what is left for one: a share is somewhat larger then.
#[inline(always)]
fn admit(source: Address) -> Result<(), Cut> {
    // SAFETY: the loader has set both before the program was loaded; they are constants since.
    let [of_source, of_strangers] = unsafe {
        [(&raw const SOURCE_PER_SECOND).read_volatile(), (&raw const STRANGERS_PER_SECOND).read_volatile()]
    };
    let shares = RelayShares { source: relay_rate(of_source), strangers: relay_rate(of_strangers) };
    let now = packet::now_ns();
    if packet::is_hinted(&GATEWAY_HINTS, Hint::of(source.words()))
        && let Some(due) = GATEWAYS.get_ptr_mut(source)
    {
        // SAFETY: the entry is read and written as a whole word; one that user space has just removed is not given to
        // another while this program runs.
        unsafe { *due = shares.gateway(*due, now)? };
        return Ok(());
    }
    let Some(all) = STRANGERS_DUE.get_ptr_mut(0) else { return Ok(()) };
    let mut known = None;
    let own = || {
        known = STRANGERS.get_ptr_mut(source);
        // SAFETY: as above.
        known.map_or(0, |own| unsafe { *own })
    };
    // SAFETY: as above.
    let (own, due) = shares.stranger(own, unsafe { *all }, now)?;
    match known {
        // SAFETY: as above.
        Some(known) => unsafe { *known = own },
        None => {
            // Without room for it there, the share of all holds alone.
            let _ = STRANGERS.insert(source, own, 0);
        }
    }
    // SAFETY: as above.
    unsafe { *all = due };
    Ok(())
}
