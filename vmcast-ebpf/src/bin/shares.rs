//! Filters of the control plane's sockets: what comes is cut by whose it is, before it takes room in a socket's buffer.
//! What they decide is in [`vmcast_common::shares`].
//!
//! An object of its own, for these programs are loaded also where the process forwards, and go with its sockets.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the macros write a public function around each entry point"
)]

#[path = "shares/link.rs"]
mod link;
#[path = "shares/packet.rs"]
mod packet;
#[path = "shares/relay.rs"]
mod relay;

use aya_ebpf::{macros::socket_filter, programs::SkBuffContext};

/// Lets the whole packet in.
const TAKE: i64 = u32::MAX as i64;
/// Drops it.
const DROP: i64 = 0;

/// Stands before the sockets of a relay.
#[socket_filter]
pub fn vmcast_relay_share(ctx: SkBuffContext) -> i64 {
    if relay::is_admitted(&ctx) { TAKE } else { DROP }
}

/// Stands before the sockets for IGMP and MLD.
#[socket_filter]
pub fn vmcast_link_share(ctx: SkBuffContext) -> i64 {
    if link::is_admitted(&ctx) { TAKE } else { DROP }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
