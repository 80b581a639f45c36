//! Packets that come in without a link-layer header.

use core::ffi::c_int;

use aya_ebpf::{bindings::TC_ACT_UNSPEC, programs::TcContext};
use vmcast_common::hdr::{eth, ip};

use super::{frame::Skb, ingress};

/// The next program has its turn, and after the last one the host.
const PASS: c_int = TC_ACT_UNSPEC;

/// Gives a packet that may be of interest an Ethernet header, without addresses, and lets it be decided on as any other.
/// What goes on to the host keeps the header, which nobody looks at behind here.
#[inline(always)]
pub(crate) fn run(ctx: &TcContext) -> c_int {
    let skb = Skb::new(ctx.skb.skb);
    if skb.take_host_mark() {
        return PASS;
    }
    match of_interest(&skb) {
        Some(ether_type) if skb.put_header(ether_type).is_some() => ingress::run(ctx),
        Some(_) | None => PASS,
    }
}

/// The EtherType of a packet to a group, or of one that may have come through a tunnel. Most of the rest is TCP.
#[inline(always)]
fn of_interest(skb: &Skb) -> Option<u16> {
    let ether_type = u16::from_be_bytes(skb.declared());
    // The version that the packet itself has: some devices leave what they took off before it.
    let [first] = skb.loaded(0)?;
    let (protocol, multicast) = match (ether_type, first >> 4) {
        (eth::TYPE_IPV4, 4) => {
            let [protocol] = skb.loaded(9)?;
            let [destination] = skb.loaded(16)?;
            (protocol, destination >> 4 == 0xe)
        }
        (eth::TYPE_IPV6, 6) => {
            let [protocol] = skb.loaded(6)?;
            let [destination] = skb.loaded(24)?;
            (protocol, destination == 0xff)
        }
        _ => return None,
    };
    (multicast || ip::is_carrier(protocol)).then_some(ether_type)
}
