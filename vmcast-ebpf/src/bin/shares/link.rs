//! The hosts of a link.

use aya_ebpf::{
    btf_maps::{Array, HashMap},
    macros::btf_map,
    programs::SkBuffContext,
};
use vmcast_common::{
    hdr::eth::{self, Mac},
    shares::{
        EXTENSION, HostKey, LinkEntry, LinkKey, NEXT_HEADER, is_igmp, is_mld, let_through, limit, link_rate,
    },
};

use crate::packet::{self, From, Hints, load};

const NO_PREALLOC: usize = 1;
/// For all hosts of a link (`PACKET_MULTICAST`); those above are for others, or sent by this host.
const TO_MANY: u32 = 2;
/// The number of the VLAN in its tag.
const VLAN_ID: u32 = 0xfff;
/// Where the protocol stands in the header of IPv4.
const PROTOCOL: usize = 9;
/// Where the source stands in the Ethernet header.
const SOURCE: usize = 6;

#[btf_map]
static HOSTS: HashMap<HostKey, u32, { limit::HOSTS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static HOST_HINTS: Hints = Hints::new();
#[btf_map]
static THINNED_HOSTS: Array<u32, 1> = Array::new();
#[btf_map]
static THINNED: HashMap<HostKey, u32, { limit::THINNED as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static LINKS: HashMap<LinkKey, LinkEntry, { limit::LINKS as usize }, NO_PREALLOC> = HashMap::new();
#[btf_map]
static NARROWED: HashMap<LinkKey, u32, { limit::LINKS as usize }, NO_PREALLOC> = HashMap::new();

/// Set by the loader.
#[unsafe(no_mangle)]
static LINK_STRANGERS_PER_SECOND: u32 = 1;

/// Whether a packet is IGMP or MLD, to us or to a group, not sent by this host and of no VLAN, and within the share of
/// its host. A NIC that strips tags would else show other VLANs' reports on the parent.
#[inline(always)]
pub(crate) fn is_admitted(ctx: &SkBuffContext) -> bool {
    is_wanted(ctx) && is_within(ctx)
}

#[inline(always)]
fn is_wanted(ctx: &SkBuffContext) -> bool {
    // Of a frame without a tag this is 0, and so it is of a frame with a priority tag only.
    if packet::packet_type(ctx) > TO_MANY || packet::vlan_tag(ctx) & VLAN_ID != 0 {
        return false;
    }
    match packet::ether_type(ctx) {
        eth::TYPE_IPV4 => load::<u8>(ctx, From::Network, PROTOCOL).is_some_and(is_igmp),
        eth::TYPE_IPV6 => load::<u8>(ctx, From::Network, NEXT_HEADER).is_some_and(|next_header| {
            load(ctx, From::Network, EXTENSION.0).is_some_and(|extension| is_mld(next_header, extension))
        }),
        _ => false,
    }
}

#[inline(always)]
fn is_within(ctx: &SkBuffContext) -> bool {
    let link = LinkKey { ifindex: packet::ifindex(ctx), ether_type: u32::from(packet::ether_type(ctx)) };
    if let Some(mac) = load::<Mac>(ctx, From::Link, SOURCE) {
        let host = HostKey::new(link, mac);
        let thins = THINNED_HOSTS.get(0).is_some_and(|hosts| *hosts != 0);
        if thins
            // SAFETY: only user space writes, a word as a whole.
            && let Some(shift) = unsafe { THINNED.get(host) }
            && !let_through(*shift, packet::random())
        {
            return false;
        }
        if packet::is_hinted(&HOST_HINTS, host.hint()) && HOSTS.get_ptr(host).is_some() {
            return true;
        }
    }
    let Some(entry) = LINKS.get_ptr_mut(link) else { return true };
    // SAFETY: only user space writes, a word as a whole.
    let narrowed = unsafe { NARROWED.get(link) }.copied().unwrap_or(0);
    // SAFETY: the loader has set it before the program was loaded; it is constant since.
    let rate = link_rate(unsafe { (&raw const LINK_STRANGERS_PER_SECOND).read_volatile() }, narrowed);
    // SAFETY: words, read and written as a whole; CPUs that do this at once may both take what is left for one, and count
    // for one. An entry that user space has just removed is not given to another while this program runs.
    unsafe { (*entry).admit(rate, packet::now_ns()) }
}
