//! Builds the copies of one packet in one buffer.

use vmcast_common::{
    hdr::{eth, link},
    rewrite::{Ends, Parts, Place, Room, readdress},
};

/// Room for the longest headers in front of the IP packet, in bytes: those of a link, and IPv6 with UDP
/// and AMT, the longest of tunnels.
const HEADROOM: usize = link::MAX_LEN + 40 + 8 + 2;

/// A frame in two pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied<'a> {
    /// What this copy has for itself.
    pub own: &'a [u8],
    /// What follows, the same bytes in every copy of a packet that has any here.
    pub shared: &'a [u8],
}

impl<'a> Copied<'a> {
    /// A frame that shares nothing with others.
    #[must_use]
    pub const fn alone(own: &'a [u8]) -> Self {
        Self { own, shared: &[] }
    }

    /// The frame in one piece.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        [self.own, self.shared].concat()
    }
}

/// The IP packet to copy, its time to live lowered, with room in front of it for any headers.
#[derive(Debug, Default)]
pub(crate) struct CopyBuffer {
    bytes: Vec<u8>,
    /// Where the frame begins at present.
    start: usize,
    /// The addresses and ports that copies have if they are not converted, while the packet has others.
    own: Option<Ends>,
}

impl CopyBuffer {
    /// Takes a packet, and gives it for changes.
    pub(crate) fn load(&mut self, packet: &[u8]) -> &mut [u8] {
        self.bytes.clear();
        self.bytes.resize(HEADROOM, 0);
        self.bytes.extend_from_slice(packet);
        self.own = None;
        &mut self.bytes[HEADROOM..]
    }

    /// Leaves an Ethernet header's room in front of the packet, for the next copy, and gives it back the addresses
    /// that the last one changed.
    pub(crate) fn begin(&mut self) -> &mut Self {
        self.start = HEADROOM - eth::LEN;
        if let Some(own) = self.own.take() {
            // What was changed can be changed back.
            let _ = readdress(&mut self.bytes[..], HEADROOM, &own);
        }
        self
    }

    /// The packet as it was taken.
    pub(crate) fn packet(&mut self) -> &[u8] {
        self.begin();
        self.bytes.get(HEADROOM..).unwrap_or_default()
    }

    /// The frame as it stands. The packet is shared where nothing in it was changed for this copy.
    pub(crate) fn copied(&self) -> Copied<'_> {
        if self.own.is_some() || self.start > HEADROOM {
            return Copied::alone(self.frame());
        }
        let (front, packet) = self.bytes.split_at(HEADROOM);
        Copied { own: &front[self.start..], shared: packet }
    }

    /// The frame as it stands, in one piece.
    pub(crate) fn frame(&self) -> &[u8] {
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
