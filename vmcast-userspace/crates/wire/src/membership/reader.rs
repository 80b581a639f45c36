//! A cursor over a message.

use super::WireAddress;

/// A message that ends before what it announces; offsets count bytes from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truncated {
    /// Where the field stands that calls for more.
    pub(crate) offset: usize,
    /// Bytes that the message should have at least.
    pub(crate) needed: usize,
    /// Bytes that are there.
    pub(crate) have: usize,
}

/// Reads fields in order and knows where it stands.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that are left.
    pub(crate) const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        let field = self.bytes[self.at..].first_chunk().copied().ok_or_else(|| self.truncated(N))?;
        self.at += N;
        Ok(field)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Truncated> {
        self.take().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Truncated> {
        self.take().map(u16::from_be_bytes)
    }

    pub(crate) fn address<A: WireAddress>(&mut self) -> Result<A, Truncated> {
        let field = self.bytes.get(self.at..self.at + A::LEN).and_then(A::from_slice);
        let field = field.ok_or_else(|| self.truncated(A::LEN))?;
        self.at += A::LEN;
        Ok(field)
    }

    /// Reads `count` addresses; memory is taken only once they are known to be there.
    pub(crate) fn addresses<A: WireAddress>(&mut self, count: u16) -> Result<Vec<A>, Truncated> {
        let length = usize::from(count) * A::LEN;
        let bytes = self.bytes.get(self.at..self.at + length).ok_or_else(|| self.truncated(length))?;
        self.at += length;
        Ok(bytes.chunks_exact(A::LEN).filter_map(A::from_slice).collect())
    }

    /// Skips bytes nobody looks at.
    pub(crate) fn skip(&mut self, length: usize) -> Result<(), Truncated> {
        if length > self.remaining() {
            return Err(self.truncated(length));
        }
        self.at += length;
        Ok(())
    }

    const fn truncated(&self, length: usize) -> Truncated {
        Truncated { offset: self.at, needed: self.at + length, have: self.bytes.len() }
    }
}
