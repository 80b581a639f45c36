//! Builds the copies of one packet in one buffer.

use vmcast_common::{
    forward::Replicate,
    hdr::{eth, link},
    rewrite::{Ends, Parts, Place, Room, forward_header, readdress},
};

/// Room for the longest headers in front of the IP packet, in bytes: those of a link, and IPv6 with UDP
/// and AMT, the longest of tunnels.
const HEADROOM: usize = link::MAX_LEN + 40 + 8 + 2;

/// The IP packet to copy, its time to live lowered, with room in front of it for any headers.
#[derive(Debug, Default)]
pub(super) struct CopyBuffer {
    bytes: Vec<u8>,
    /// Where the frame begins at present.
    start: usize,
    /// The addresses and ports that copies have if they are not converted, while the packet has others.
    own: Option<Ends>,
}

impl CopyBuffer {
    /// Takes the packet out of its frame, without the padding that may follow it.
    pub(super) fn load(&mut self, frame: &[u8], packet: &Replicate) {
        self.bytes.clear();
        self.bytes.resize(HEADROOM, 0);
        self.bytes.extend_from_slice(&frame[packet.ip_offset..packet.ip_offset + packet.ip_len]);
        self.own = packet.new_ports.map(|ports| Ends::of_input(packet, ports));
        // The decision has read the whole header.
        let _ = forward_header(&mut self.bytes[HEADROOM..], packet, 0);
    }

    /// Leaves an Ethernet header's room in front of the packet, for the next copy, and gives it back the addresses
    /// that the last one changed.
    pub(super) fn begin(&mut self) -> &mut Self {
        self.start = HEADROOM - eth::LEN;
        if let Some(own) = self.own.take() {
            // The decision has seen the ports, or what was changed can be changed back.
            let _ = readdress(&mut self.bytes[..], HEADROOM, &own);
        }
        self
    }

    /// The frame as it stands.
    pub(super) fn frame(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl Parts for CopyBuffer {
    type Part<'a, const N: usize> = &'a mut [u8; N];

    fn part<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        self.bytes[self.start..].part(offset)
    }

    fn note_ends(&mut self, place: Place) {
        let mut own = Ends::NONE;
        self.own = own.read(&mut self.bytes[self.start..], place).map(|()| own);
    }
}

impl Room for CopyBuffer {
    type Head<'a, const N: usize> = &'a mut [u8; N];

    fn head<const N: usize>(&mut self) -> Option<&mut [u8; N]> {
        self.bytes[self.start..].first_chunk_mut()
    }

    fn grow<const N: usize>(&mut self, by: usize) -> Option<&mut [u8; N]> {
        self.start = self.start.checked_sub(by)?;
        self.head()
    }

    fn shrink(&mut self, by: usize) -> Option<()> {
        self.start += by;
        (self.start <= self.bytes.len()).then_some(())
    }
}
