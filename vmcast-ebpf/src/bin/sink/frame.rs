//! Access to frames.

use aya_ebpf::{helpers::generated::bpf_xdp_load_bytes, programs::XdpContext};

use crate::layout::{GROUP_AT, TAIL_LEN};

/// Ethernet, IPv4 without options and UDP.
pub(crate) type Headers = [u8; 42];

const IPV4: [u8; 3] = [0x08, 0x00, 0x45];
const IPV6: [u8; 2] = [0x86, 0xdd];
const UDP: u8 = 17;

/// The headers of UDP over IPv4; `None` for everything else.
#[inline(always)]
pub(crate) fn headers(ctx: &XdpContext) -> Option<&Headers> {
    let start = ctx.data();
    if start + size_of::<Headers>() > ctx.data_end() {
        return None;
    }
    // SAFETY: so many bytes lie within the frame, which nothing changes meanwhile.
    let headers = unsafe { &*(start as *const Headers) };
    (headers[12..15] == IPV4 && headers[23] == UDP).then_some(headers)
}

/// The destination port of UDP over IPv6; `None` for everything else.
#[inline(always)]
pub(crate) fn port_v6(ctx: &XdpContext) -> Option<u16> {
    const LEN: usize = 58;
    let start = ctx.data();
    if start + LEN > ctx.data_end() {
        return None;
    }
    // SAFETY: so many bytes lie within the frame, which nothing changes meanwhile.
    let headers = unsafe { &*(start as *const [u8; LEN]) };
    let is_udp = headers[12..14] == IPV6 && headers[20] == UDP;
    is_udp.then(|| u16::from_be_bytes([headers[56], headers[57]]))
}

/// The number of the group that a frame goes to.
#[inline(always)]
pub(crate) fn group(ctx: &XdpContext) -> Option<u32> {
    let headers = headers(ctx)?;
    Some(u32::from(u16::from_be_bytes([headers[GROUP_AT], headers[GROUP_AT + 1]])))
}

/// The number that the payload ends with.
#[inline(always)]
pub(crate) fn tail(ctx: &XdpContext) -> Option<u64> {
    let mut bytes = [0_u8; TAIL_LEN];
    let offset = (ctx.data_end() - ctx.data()).checked_sub(TAIL_LEN)?;
    // SAFETY: the helper checks the offset, and writes as many bytes as there are.
    let result =
        unsafe { bpf_xdp_load_bytes(ctx.ctx, offset as u32, bytes.as_mut_ptr().cast(), TAIL_LEN as u32) };
    (result == 0).then(|| u64::from_be_bytes(bytes))
}
