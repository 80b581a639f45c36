//! The VMR's part: which of the admin's nonces have come.

/// Nonces that are noted at most: as many as the admin sends to a VMR with as many endpoints as it may have, and
/// some of strangers.
const MOST: usize = 512;

/// What a VMR notes for the admin.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    tag: Option<u16>,
    nonces: Vec<u32>,
}

impl Notes {
    /// The admin has named the upper half of its nonces, or asks. What was noted under another half is forgotten.
    pub fn on_order(&mut self, tag: u16) -> Vec<u32> {
        if self.tag != Some(tag) {
            *self = Self { tag: Some(tag), nonces: Vec::new() };
        }
        self.nonces.clone()
    }

    /// A Relay Discovery (RFC 7450 §5.1.1) with `nonce` came to one of our endpoints. It has to be noted before it is
    /// answered, for the admin asks when it sees the answer.
    pub fn on_discovery(&mut self, nonce: u32) {
        let is_ours = self.tag.is_some_and(|tag| nonce >> 16 == u32::from(tag));
        if is_ours && self.nonces.len() < MOST && !self.nonces.contains(&nonce) {
            self.nonces.push(nonce);
        }
    }
}
