//! The kernel programs of vmcast's data plane.
//!
//! `vmcast_ingress` runs in the driver of every device that vmcast looks at at XDP: it asks
//! [`vmcast_common::forward::decide`] and turns the verdict into an XDP action. A packet to copy is
//! trimmed to its IP packet behind one Ethernet header and broadcast to the stream's first devmap.
//! `vmcast_copy` runs for every copy on its way out and writes that member's headers over it.
//! `vmcast_refused` runs after a device took copies, and counts those that it did not take.
//!
//! `vmcast_clone` runs at TC on the other devices, and behind XDP where groups are shared with the host: it hands a packet
//! to XDP if there are members there, or else walks along the stream's members by itself and clones the packet for each.
//! `vmcast_bare` is the same for devices whose packets have no link-layer header.
//!
//! `vmcast_chunk` and `vmcast_list` run behind relay devices, pairs of our own: the one serves a stream's next
//! members at XDP, the other its members at TC.
#![feature(asm_experimental_arch)]
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the program macros write a public function around each entry point"
)]

mod chunk;
mod copy;
mod decided;
mod ingress;
mod map;
mod oversized;
mod packet;
mod refused;
mod tc;
#[cfg(feature = "trace")]
mod trace;
mod words;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, raw_tracepoint, xdp},
    programs::{RawTracePointContext, TcContext, XdpContext},
};

/// Decides on a received frame.
#[xdp]
pub fn vmcast_ingress(ctx: XdpContext) -> u32 {
    ingress::run(&ctx)
}

/// Rewrites one copy for the member it is meant for. Every devmap slot names this program: the
/// kernel takes the program of the first slot it queued for a device, so there can be only one.
#[xdp(map = "devmap")]
pub fn vmcast_copy(ctx: XdpContext) -> u32 {
    match copy::run(&ctx) {
        Ok(()) => {
            map::note_copy(true);
            xdp_action::XDP_PASS
        }
        Err(reason) => {
            map::note_copy(false);
            if let Some(reason) = reason {
                map::count_drop(reason);
            }
            xdp_action::XDP_DROP
        }
    }
}

/// Goes on with the next member table of a stream.
#[xdp]
pub fn vmcast_chunk(ctx: XdpContext) -> u32 {
    chunk::run(&ctx)
}

/// Decides on a received frame, and makes the copies of it by itself.
#[classifier]
pub fn vmcast_clone(ctx: TcContext) -> i32 {
    tc::run(&ctx)
}

/// The same for a packet of a device that has no link-layer header.
#[classifier]
pub fn vmcast_bare(ctx: TcContext) -> i32 {
    tc::run_bare(&ctx)
}

/// Makes the copies for the members of a stream that are at TC.
#[classifier]
pub fn vmcast_list(ctx: TcContext) -> i32 {
    tc::run_list(&ctx)
}

/// Counts the copies that a device refused. The kernel calls it after every flush to a device, whoever's.
#[raw_tracepoint(tracepoint = "xdp_devmap_xmit")]
pub fn vmcast_refused(ctx: RawTracePointContext) -> u32 {
    refused::run(&ctx);
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
