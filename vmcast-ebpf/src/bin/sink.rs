//! Both ends of a benchmark.
//!
//! The sink counts UDP datagrams by destination port and drops them, so that what is measured is the
//! making of copies and not a host stack taking them in. The source gives a live frame of
//! `BPF_PROG_TEST_RUN` its headers back, which the run before left changed, and goes on with the
//! program under test.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    unreachable_pub,
    reason = "the xdp macro writes a public function around each entry point"
)]

#[path = "../packet.rs"]
#[expect(dead_code, reason = "the benchmark moves no bounds")]
mod packet;

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{Array, PerCpuArray, ProgramArray},
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use vmcast_common::{
    hdr::{eth, ipv4, udp},
    maps::{SINK_PORTS, SOURCE_HEAD_LEN},
    packet::Packet as _,
};

use crate::packet::Frame;

/// Datagrams by destination port.
#[btf_map]
static SINK_COUNTS: PerCpuArray<u64, { SINK_PORTS as usize }> = PerCpuArray::new();

/// The first bytes of every frame.
#[btf_map]
static SOURCE_HEAD: Array<[u8; SOURCE_HEAD_LEN], 1> = Array::new();
/// The program under test.
#[btf_map]
static SOURCE_NEXT: ProgramArray<1> = ProgramArray::new();

/// Makes the frame new and hands it to the program under test.
#[xdp]
pub fn vmcast_source(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    if let Some(head) = SOURCE_HEAD.get(0)
        && frame.store(0, *head).is_some()
    {
        // SAFETY: the program under test is of the same type; nothing of this one is used after it.
        let _ = unsafe { SOURCE_NEXT.tail_call(&ctx, 0) };
    }
    xdp_action::XDP_DROP
}

/// Counts and drops UDP over IPv4 without options; lets everything else pass.
#[xdp]
pub fn vmcast_sink(ctx: XdpContext) -> u32 {
    let frame = Frame::new(&ctx);
    match port(&frame) {
        Some(port) => {
            if let Some(count) = SINK_COUNTS.get_ptr_mut(u32::from(port)) {
                // SAFETY: the value is this CPU's own.
                unsafe { *count += 1 };
            }
            xdp_action::XDP_DROP
        }
        None => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn port(frame: &Frame<'_>) -> Option<u16> {
    if eth::ether_type(frame)? != eth::TYPE_IPV4 {
        return None;
    }
    let [version, ..] = frame.load::<1>(eth::LEN)?;
    let [protocol] = frame.load::<1>(eth::LEN + 9)?;
    if version != 0x45 || protocol != ipv4::PROTO_UDP {
        return None;
    }
    let datagram = udp::View::parse(frame, eth::LEN + ipv4::MIN_LEN)?;
    Some(u16::from_be_bytes(datagram.destination))
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
