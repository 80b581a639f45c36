//! Fragments of IPv4 (RFC 791 §3.2) and IPv6 (RFC 8200 §4.5).

use vmcast_common::{
    checksum,
    hdr::{ipv4, ipv6},
    verdict::DropReason,
};

/// Flags and fragment offset in the IPv4 header.
const FLAGS: usize = 6;
const CHECKSUM: usize = 10;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Next header of a fragment (RFC 8200 §4.5).
const NEXT_FRAGMENT: u8 = 44;
const FRAGMENT_LEN: usize = 8;

/// An option's type has this bit if every fragment carries the option.
const COPIED: u8 = 0x80;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;

/// Whether an IPv4 packet may be fragmented by a router.
pub(super) fn is_allowed(packet: &[u8]) -> bool {
    word(packet, FLAGS) & ipv4::DONT_FRAGMENT == 0
}

/// Cuts an IPv4 packet with a whole header of `header_len` bytes into fragments of at most `max` bytes. It may be
/// a fragment itself.
///
/// # Errors
/// If not even 8 bytes of the payload find room, the fragments would lie beyond the largest packet, or `each`
/// returns an error.
pub(super) fn v4(
    packet: &[u8],
    header_len: usize,
    max: usize,
    mut each: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let (header, payload) = packet.split_at_checked(header_len).ok_or(DropReason::Malformed)?;
    let flags = word(header, FLAGS);
    let first_offset = usize::from(flags & OFFSET);
    if first_offset * 8 + payload.len() > usize::from(u16::MAX) {
        return Err(DropReason::Malformed);
    }
    let later = later_header(header);
    let mut fragment = Vec::with_capacity(max);
    let mut done = 0;
    while done < payload.len() {
        let header = if done == 0 { header } else { &later };
        let room = max.saturating_sub(header.len()) & !7;
        if room == 0 {
            return Err(DropReason::Oversize);
        }
        let part = &payload[done..payload.len().min(done + room)];
        let is_last = done + part.len() == payload.len();
        let more = if is_last { flags & MORE_FRAGMENTS } else { MORE_FRAGMENTS };
        let offset = (first_offset + done / 8) as u16;
        fragment.clear();
        fragment.extend_from_slice(header);
        fragment.extend_from_slice(part);
        let total = fragment.len() as u16;
        fragment[2..4].copy_from_slice(&total.to_be_bytes());
        let flags = (flags & !(MORE_FRAGMENTS | OFFSET)) | more | offset;
        fragment[FLAGS..FLAGS + 2].copy_from_slice(&flags.to_be_bytes());
        seal(&mut fragment[..header.len()]);
        each(&fragment)?;
        done += part.len();
    }
    Ok(())
}

/// Lets an IPv4 packet of ours without options be fragmented, under this identification.
pub(super) fn allow(packet: &mut [u8], identification: u16) {
    packet[4..6].copy_from_slice(&identification.to_be_bytes());
    packet[FLAGS..FLAGS + 2].fill(0);
    seal(&mut packet[..ipv4::MIN_LEN]);
}

/// Cuts an IPv6 packet of ours without extension headers into fragments of at most `max` bytes.
///
/// # Errors
/// As [`v4`].
pub(super) fn v6(
    packet: &[u8],
    identification: u32,
    max: usize,
    mut each: impl FnMut(&[u8]) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let (header, payload) = packet.split_at_checked(ipv6::LEN).ok_or(DropReason::Malformed)?;
    let room = max.saturating_sub(ipv6::LEN + FRAGMENT_LEN) & !7;
    if room == 0 {
        return Err(DropReason::Oversize);
    }
    let mut fragment = Vec::with_capacity(max);
    for (index, part) in payload.chunks(room).enumerate() {
        let offset = index * room;
        let more = u16::from(offset + part.len() < payload.len());
        fragment.clear();
        fragment.extend_from_slice(header);
        fragment[4..6].copy_from_slice(&((FRAGMENT_LEN + part.len()) as u16).to_be_bytes());
        fragment[6] = NEXT_FRAGMENT;
        fragment.extend([header[6], 0]);
        fragment.extend((offset as u16 | more).to_be_bytes());
        fragment.extend(identification.to_be_bytes());
        fragment.extend_from_slice(part);
        each(&fragment)?;
    }
    Ok(())
}

/// The header of the second and all later fragments: with those options that every fragment carries.
fn later_header(header: &[u8]) -> Vec<u8> {
    let (fixed, options) = header.split_at(ipv4::MIN_LEN);
    let mut later = fixed.to_vec();
    let mut rest = options;
    while let [kind, behind @ ..] = rest {
        let len = match *kind {
            END_OF_OPTIONS => break,
            NO_OPERATION => 1,
            // What has no length of its own within the header is no option.
            _ => match behind.first() {
                Some(&len) if (2..=rest.len()).contains(&usize::from(len)) => usize::from(len),
                Some(_) | None => break,
            },
        };
        let (option, next) = rest.split_at(len);
        if kind & COPIED != 0 {
            later.extend_from_slice(option);
        }
        rest = next;
    }
    later.resize(later.len().next_multiple_of(4), END_OF_OPTIONS);
    later[0] = 0x40 | (later.len() / 4) as u8;
    later
}

/// Writes the right checksum into an IPv4 header.
fn seal(header: &mut [u8]) {
    header[CHECKSUM..CHECKSUM + 2].fill(0);
    let sum = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&checksum::fold(sum).to_be_bytes());
}

fn word(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u16::from_be_bytes(*word))
}
