//! What a member costs, measured by an allocator that counts.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::{IpAddr, Ipv4Addr},
    time::Instant,
};

use vmcast_common::fib::{Output, TunnelId};
use vmcast_proto::{
    Filter, Machine,
    mrib::{Config, Input, Mrib},
};

const MEMBERS: u32 = 100_000;
const BUDGET: isize = 50;

/// Bytes that an allocator keeps beside every block that it gives out.
const BLOCK_OVERHEAD: isize = 16;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
}

/// What a block costs; layouts are never larger than `isize` counts.
const fn cost(layout: Layout) -> isize {
    layout.size().cast_signed() + BLOCK_OVERHEAD
}

/// The system's allocator, counting what the thread holds.
struct Counting;

// SAFETY: every call goes on to the system's allocator unchanged; counting touches a thread-local
// integer that needs neither allocation nor a destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.set(LIVE.get() + cost(layout));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE.set(LIVE.get() - cost(layout));
        // SAFETY: the caller keeps the contract of `dealloc`; the block came from `System`.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[expect(clippy::disallowed_methods, reason = "the only way to make an Instant; no timer runs here")]
fn now() -> Instant {
    Instant::now()
}

fn group(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(0xefc0_0000 + number).into()
}

fn input(mrib: &mut Mrib, input: Input) {
    mrib.handle_input(now(), input);
    while mrib.poll_output().is_some() {}
}

/// Bytes per membership of [`MEMBERS`] over `groups` groups, made in steps of `spread`; checks also
/// that all of it is given back when the members are gone.
fn bytes_per_member(groups: u32, spread: u32, filter: &Filter) -> isize {
    let empty = LIVE.get();
    let mut mrib = Mrib::new(Config::default());
    for number in 0..MEMBERS {
        // Any step without a common divisor visits each number once.
        let number = u32::try_from(u64::from(number) * u64::from(spread) % u64::from(MEMBERS)).unwrap();
        let member = Output::Tunnel(TunnelId(number / groups));
        let filter = filter.clone();
        input(&mut mrib, Input::Membership { member, group: group(number % groups), filter, account: None });
    }
    assert_eq!(mrib.groups().map(|info| info.members).sum::<usize>(), MEMBERS as usize);
    let each = (LIVE.get() - empty) / MEMBERS as isize;

    for number in 0..MEMBERS / groups {
        input(&mut mrib, Input::MemberGone { member: Output::Tunnel(TunnelId(number)) });
    }
    let left = LIVE.get() - empty;
    assert!(
        left <= 4_096 + groups as isize * 16,
        "{left} bytes are kept for {groups} groups without members"
    );
    drop(mrib);
    assert_eq!(LIVE.get(), empty);
    println!("{groups} groups, step {spread}, {filter:?}: {each} bytes per member");
    each
}

#[test]
fn a_hundred_thousand_members_of_one_group_stay_within_the_budget() {
    for spread in [1, 38_197] {
        assert!(bytes_per_member(1, spread, &Filter::any()) <= BUDGET);
    }
}

#[test]
fn a_thousand_groups_of_a_hundred_tunnels_stay_within_the_budget() {
    for spread in [1, 38_197] {
        assert!(bytes_per_member(1_000, spread, &Filter::any()) <= BUDGET);
    }
}

#[test]
fn members_with_the_same_source_list_stay_within_the_budget() {
    let sources = (1..=3).map(|last| Ipv4Addr::new(192, 0, 2, last).into()).collect();
    assert!(bytes_per_member(1, 1, &Filter::Include(sources)) <= BUDGET);
}
