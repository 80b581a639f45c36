//! The streams: one source, and for each case a range of groups of its own.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;

use super::case::{Case, Output};

pub(crate) const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The same of IPv6.
pub(crate) const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 99, 0, 0, 0, 1);
/// UDP port of the streams.
pub(crate) const PORT: u16 = 9_999;
/// Time to live of what goes in.
const TTL: u8 = 16;
/// Ranges of groups: as many as the group's link-layer address tells apart.
const RANGES: u8 = 128;

/// A group: `232.range.x.y` with its number in the last two bytes.
pub(crate) fn group(range: u8, number: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(232, range, 0, 0)) + number)
}

/// A frame of a range's group as the interface with this link-layer address receives it. The checksum of UDP is
/// left out (RFC 768): the payload changes with each packet.
pub(crate) fn frame(from: [u8; 6], range: u8, number: u32, payload: usize) -> Result<Vec<u8>> {
    let group = group(range, number);
    let [_, b, c, d] = group.octets();
    // RFC 1112 §6.4.
    let builder = PacketBuilder::ethernet2(from, [0x01, 0x00, 0x5e, b & 0x7f, c, d])
        .ipv4(SOURCE.octets(), group.octets(), TTL)
        .udp(PORT, PORT);
    let mut frame = Vec::with_capacity(builder.size(payload));
    builder.write(&mut frame, &vec![0x47; payload])?;
    frame[UDP_CHECKSUM_AT..UDP_CHECKSUM_AT + 2].fill(0);
    Ok(frame)
}

/// An IPv6 group: `ff3e::8000:0:0`, of which the range is a part, with its number in the last two bytes.
pub(crate) fn group_v6(range: u8, number: u32) -> Ipv6Addr {
    Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000 | u16::from(range), number as u16)
}

/// The same frame of an IPv6 group. Its checksum of UDP is left out, too: nobody on the way looks at it.
fn frame_v6(from: [u8; 6], range: u8, number: u32, payload: usize) -> Result<Vec<u8>> {
    let group = group_v6(range, number);
    let [.., a, b, c, d] = group.octets();
    // RFC 2464 §7.
    let builder = PacketBuilder::ethernet2(from, [0x33, 0x33, a, b, c, d])
        .ipv6(SOURCE_V6.octets(), group.octets(), TTL)
        .udp(PORT, PORT);
    let mut frame = Vec::with_capacity(builder.size(payload));
    builder.write(&mut frame, &vec![0x47; payload])?;
    frame[UDP_CHECKSUM_AT_V6..UDP_CHECKSUM_AT_V6 + 2].fill(0);
    Ok(frame)
}

/// The frame of the first group of a range, for a case.
pub(super) fn first_frame(from: [u8; 6], range: u8, case: &Case) -> Result<Vec<u8>> {
    match case.output {
        Output::Unicast | Output::Native => frame(from, range, 0, case.payload),
        Output::UnicastV6 => frame_v6(from, range, 0, case.payload),
    }
}

const UDP_CHECKSUM_AT: usize = 40;
const UDP_CHECKSUM_AT_V6: usize = 60;

/// The cases of an engine, each with a range of groups.
#[derive(Clone, Debug, Default)]
pub(super) struct Ranges {
    cases: Vec<Case>,
    /// Ranges given away before: none comes twice, so that nothing left behind disturbs.
    before: usize,
}

impl Ranges {
    /// The range of a case; whether it is new.
    pub(super) fn give(&mut self, case: &Case) -> Result<(u8, bool)> {
        if let Ok(range) = self.of(case) {
            return Ok((range, false));
        }
        self.cases.push(*case);
        Ok((self.of(case)?, true))
    }

    /// The range of a case that has one.
    pub(super) fn of(&self, case: &Case) -> Result<u8> {
        let place = self.cases.iter().position(|known| known == case);
        let place = place.with_context(|| format!("{case:?} was not prepared"))?;
        Ok(((self.before + place) % usize::from(RANGES)) as u8)
    }

    /// Takes all cases out, with their ranges.
    pub(super) fn take(&mut self) -> Vec<(Case, u8)> {
        let first = self.before;
        self.before += self.cases.len();
        let range = |place| ((first + place) % usize::from(RANGES)) as u8;
        self.cases.drain(..).enumerate().map(|(place, case)| (case, range(place))).collect()
    }
}
