//! The packet that is being copied, written down between the decision and what follows from it.
//!
//! The verifier follows every way through the decision, and after it all that is done with the packet once for
//! each. What stands in a map is anything to it: so, read back from there, the packet is the same on every way,
//! and what follows is looked at once.

use core::arch::asm;

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use vmcast_common::{
    forward::Replicate,
    maps::{InputId, Marks, StreamKey},
};

#[btf_map]
static PACKET: PerCpuArray<Written, 1> = PerCpuArray::new();

const IS_IPV6: u32 = 1;
const SHARED: u32 = 1 << 1;
const ENCAPSULATE: u32 = 1 << 2;
const OVERSIZE: u32 = 1 << 3;
const BEYOND: u32 = 1 << 4;
const NEW_SOURCE: u32 = 1 << 5;
const NEW_PORTS: u32 = 1 << 6;
const XDP_FIRST: u32 = 1 << 7;

/// A [`Replicate`] without padding, which the verifier would not let be copied.
#[repr(C)]
struct Written {
    stream: StreamKey,
    ip_offset: u32,
    ip_len: u32,
    ttl: u32,
    tos: u32,
    new_tos: u32,
    checksum: u32,
    table: u32,
    list: u32,
    stats: u32,
    input: u32,
    marks: u32,
    ports: u32,
    flags: u32,
}

/// A packet as it was decided on.
pub(crate) struct Decided {
    /// All of it but its stream.
    pub(crate) packet: Replicate,
    /// Its (S,G), where it was written down: the stack is short.
    pub(crate) stream: &'static StreamKey,
}

/// Writes a packet down and reads it back; `None` never.
#[inline(always)]
pub(crate) fn written_down(packet: &Replicate) -> Option<Decided> {
    let flag = |set: bool, flag: u32| if set { flag } else { 0 };
    let mut place = PACKET.get_ptr_mut(0)?;
    let flags = flag(packet.is_ipv6, IS_IPV6)
        | flag(packet.shared, SHARED)
        | flag(packet.encapsulate, ENCAPSULATE)
        | flag(packet.oversize, OVERSIZE)
        | flag(packet.beyond, BEYOND)
        | flag(packet.new_source, NEW_SOURCE)
        | flag(packet.new_ports.is_some(), NEW_PORTS)
        | flag(packet.xdp_first, XDP_FIRST);
    {
        // SAFETY: the value is this CPU's own and the program is not preempted by itself.
        let written = unsafe { &mut *place };
        // One by one: a whole value would be made on the stack, which is short.
        written.stream = packet.stream;
        written.ip_offset = packet.ip_offset as u32;
        written.ip_len = packet.ip_len as u32;
        written.ttl = packet.ttl.into();
        written.tos = packet.tos.into();
        written.new_tos = packet.new_tos.into();
        written.checksum = packet.checksum.into();
        written.table = packet.table;
        written.list = packet.list;
        written.stats = packet.stats;
        written.input = packet.input.0;
        written.marks = packet.marks.0;
        written.ports = u32::from_ne_bytes(packet.new_ports.unwrap_or_default());
        written.flags = flags;
    }
    // SAFETY: a register moved to itself. Without it the compiler would go on with what it has just written.
    unsafe { asm!("{0} = {0}", inout(reg) place, options(nostack, preserves_flags)) };
    // SAFETY: as above, and a packet was written there.
    let written: &'static Written = unsafe { &*place };
    let is = |flag: u32| written.flags & flag != 0;
    // Read whether there are any or not. Else what stands in their place then may be a pointer, and older verifiers (of
    // Linux 6.1) follow the way where it is used as ports although there are none.
    // SAFETY: a reference can be read.
    let ports = unsafe { (&raw const written.ports).read_volatile() };
    // As large as they can be: the verifier is to know some bound.
    let packet = Replicate {
        ip_offset: (written.ip_offset & 0x1ff) as usize,
        ip_len: (written.ip_len & 0xffff) as usize,
        is_ipv6: is(IS_IPV6),
        ttl: written.ttl as u8,
        tos: written.tos as u8,
        new_tos: written.new_tos as u8,
        checksum: written.checksum as u16,
        table: written.table,
        list: written.list,
        shared: is(SHARED),
        left_to_tc: false,
        xdp_first: is(XDP_FIRST),
        encapsulate: is(ENCAPSULATE),
        oversize: is(OVERSIZE),
        beyond: is(BEYOND),
        stats: written.stats,
        input: InputId(written.input),
        marks: Marks(written.marks),
        stream: StreamKey::NONE,
        new_source: is(NEW_SOURCE),
        new_ports: is(NEW_PORTS).then_some(ports.to_ne_bytes()),
    };
    Some(Decided { packet, stream: &written.stream })
}
