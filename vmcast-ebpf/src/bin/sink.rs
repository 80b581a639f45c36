//! The benchmark's kernel programs; not part of the product.
//!
//! The *source* gives a live frame of `BPF_PROG_TEST_RUN` its headers and number, and hands it to the
//! program under test or to the stack. The *sink* counts the copies at the far end of each cable and
//! drops them, so that what is measured is the making of copies and not a host taking them in. The
//! *clock* does the same with the time a packet was under way. The *floor* is what the kernel itself
//! needs for a broadcast, the *clones* what it needs for copies at TC. The *holds* say how long received packets keep a core.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the macros write a public function around each entry point"
)]

#[path = "sink/clock.rs"]
mod clock;
#[path = "sink/clones.rs"]
mod clones;
#[path = "sink/count.rs"]
mod count;
#[path = "sink/floor.rs"]
mod floor;
#[path = "sink/frame.rs"]
mod frame;
#[path = "sink/holds.rs"]
mod holds;
#[path = "../../../tests/bench/src/kernel/layout.rs"]
#[expect(dead_code, reason = "the names are for user space")]
mod layout;
#[path = "sink/source.rs"]
mod source;

use aya_ebpf::{
    macros::{classifier, raw_tracepoint, xdp},
    programs::{RawTracePointContext, TcContext, XdpContext},
};

#[xdp]
pub fn bench_sink(ctx: XdpContext) -> u32 {
    count::run(&ctx)
}

#[xdp]
pub fn bench_clock(ctx: XdpContext) -> u32 {
    clock::run(&ctx)
}

#[xdp]
pub fn bench_source(ctx: XdpContext) -> u32 {
    source::run(&ctx)
}

#[xdp]
pub fn bench_floor(ctx: XdpContext) -> u32 {
    floor::run(&ctx)
}

#[xdp(map = "devmap")]
pub fn bench_touch(ctx: XdpContext) -> u32 {
    floor::touch(&ctx)
}

#[classifier]
pub fn bench_clones(ctx: TcContext) -> i32 {
    clones::run(&ctx)
}

#[raw_tracepoint(tracepoint = "softirq_entry")]
pub fn bench_entry(ctx: RawTracePointContext) -> i32 {
    holds::on_entry(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "softirq_exit")]
pub fn bench_exit(ctx: RawTracePointContext) -> i32 {
    holds::on_exit(&ctx);
    0
}

#[raw_tracepoint(tracepoint = "napi_poll")]
pub fn bench_poll(_ctx: RawTracePointContext) -> i32 {
    holds::on_poll();
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
