//! A cursor over a message.

use std::net::Ipv4Addr;

use super::Error;

/// Reads fields in order and knows where it stands.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that are left.
    pub(super) const fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let field = self.bytes[self.at..].first_chunk().copied().ok_or_else(|| self.truncated(N))?;
        self.at += N;
        Ok(field)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Error> {
        self.take().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Error> {
        self.take().map(u16::from_be_bytes)
    }

    pub(super) fn address(&mut self) -> Result<Ipv4Addr, Error> {
        self.take::<4>().map(Ipv4Addr::from)
    }

    /// Reads `count` addresses; memory is taken only once they are known to be there.
    pub(super) fn addresses(&mut self, count: u16) -> Result<Vec<Ipv4Addr>, Error> {
        let length = usize::from(count) * 4;
        let bytes = self.bytes.get(self.at..self.at + length).ok_or_else(|| self.truncated(length))?;
        self.at += length;
        Ok(bytes.as_chunks().0.iter().copied().map(<Ipv4Addr as From<[u8; 4]>>::from).collect())
    }

    /// Skips bytes nobody looks at.
    pub(super) fn skip(&mut self, length: usize) -> Result<(), Error> {
        if length > self.remaining() {
            return Err(self.truncated(length));
        }
        self.at += length;
        Ok(())
    }

    const fn truncated(&self, length: usize) -> Error {
        Error::Truncated { offset: self.at, needed: self.at + length, have: self.bytes.len() }
    }
}
