//! How much memory a relay takes per tunnel.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use vmcast_proto::{
    Filter, Machine,
    amt::{Relay, relay},
};

/// The system's allocator, counting the bytes in use.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        IN_USE.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const TUNNELS: u32 = 100_000;
const MOST_PER_TUNNEL: usize = 160;
const LOCAL: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 2268);

fn remote(number: u32) -> SocketAddr {
    SocketAddr::from(((0x0a00_0000 + number).to_be_bytes(), 40_000))
}

/// Fills a relay and returns the bytes it takes then, its outputs taken.
fn fill(relay: &mut Relay, now: Instant, groups: &[(IpAddr, Filter)]) -> usize {
    let before = IN_USE.load(Ordering::Relaxed);
    for number in 0..TUNNELS {
        relay.adopt(now, LOCAL, remote(number), false, groups.iter().cloned()).unwrap();
        while relay.poll_output().is_some() {}
    }
    assert_eq!(relay.tunnel_count(), TUNNELS);
    IN_USE.load(Ordering::Relaxed) - before
}

// One test in this file, so that no other allocates meanwhile.
#[test]
fn a_hundred_thousand_tunnels_with_one_group_take_at_most_160_bytes_each_and_their_end_frees_them() {
    let now = vmcast_sim::epoch();
    let group = IpAddr::from([239, 1, 1, 1]);
    let one_source = Filter::Include(BTreeSet::from([IpAddr::from([198, 51, 100, 1])]));
    for filter in [Filter::any(), one_source] {
        let mut relay = Relay::new(now, relay::Config::new([1; 16]));
        let used = fill(&mut relay, now, &[(group, filter.clone())]);
        println!("{} bytes per tunnel with {filter:?}", used / TUNNELS as usize);
        assert!(used <= MOST_PER_TUNNEL * TUNNELS as usize, "{used} bytes with {filter:?}");

        let again = fill(&mut relay, now, &[(group, filter)]);
        assert_eq!(again, 0, "what is there already takes nothing more");

        let later = now + Duration::from_secs(1_000);
        relay.handle_timeout(later);
        while relay.poll_output().is_some() {}
        assert_eq!(relay.tunnel_count(), 0);
        let refilled = fill(&mut relay, later, &[(group, Filter::any())]);
        assert!(
            refilled <= MOST_PER_TUNNEL,
            "the room of ended tunnels is used again, not {refilled} bytes more"
        );
    }

    // An IPv6 group with one source, and no group at all: not as small, but bounded.
    let group = IpAddr::from([0xff1e, 0, 0, 0, 0, 0, 0, 1]);
    let source = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
    for groups in
        [vec![], vec![(group, Filter::any())], vec![(group, Filter::Include(BTreeSet::from([source])))]]
    {
        let mut relay = Relay::new(now, relay::Config::new([1; 16]));
        let used = fill(&mut relay, now, &groups);
        println!("{} bytes per tunnel with {groups:?}", used / TUNNELS as usize);
        assert!(used <= 512 * TUNNELS as usize, "{used} bytes with {groups:?}");
    }
}
