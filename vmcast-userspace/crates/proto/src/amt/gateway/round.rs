//! What the handshakes of both pseudo-interfaces have in common.
//!
//! A relay is free to remember one nonce of each gateway address and port, as Linux's does: the Request of one protocol
//! would then end what the answer to the other's entitles to. So both protocols shake hands in rounds, each with a fresh
//! nonce (RFC 7450 §5.2.3.5.6), and none begins a round alone. The Response MAC depends on address, port and nonce, and
//! not on the protocol (§5.3.5).

use std::time::Instant;

use super::random::Random;

/// A round of handshakes, and what is known of the E flag (RFC 9601 §6.1.4.2).
///
/// The flag is one of the tunnel, and both protocols have one tunnel: if one were answered with it and the other
/// without, each Membership Update would turn it.
#[derive(Default)]
pub(super) struct Round {
    /// How many there were; none of number 0.
    number: u64,
    nonce: u32,
    opened: Option<Instant>,
    /// Whether the relay has answered a Request with the flag.
    knows_flag: bool,
    /// Whether a Request without it was answered in this round.
    without_flag: bool,
}

impl Round {
    /// Begins the next one, with a fresh nonce.
    pub(super) fn open(&mut self, now: Instant, random: &mut Random) {
        self.number += 1;
        self.nonce = random.nonce();
        self.opened = Some(now);
        self.without_flag = false;
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) const fn nonce(&self) -> u32 {
        self.nonce
    }

    /// Whether it began at this moment, so that a handshake of this moment may be part of it.
    pub(super) fn is_just_opened(&self, now: Instant) -> bool {
        self.opened == Some(now)
    }

    /// A Request was answered, with the flag or without; `sure` unless others of its nonce were written otherwise.
    pub(super) const fn note_answer(&mut self, with_flag: bool, sure: bool) {
        if with_flag {
            self.knows_flag |= sure;
        } else {
            self.without_flag = true;
        }
    }

    /// Whether the relay is known to know the flag.
    pub(super) const fn knows_flag(&self) -> bool {
        self.knows_flag
    }

    /// There may be another relay.
    pub(super) const fn forget_flag(&mut self) {
        self.knows_flag = false;
    }

    /// Whether the next Request has the flag, as far as that is settled; what is known of the relay counts as long as
    /// it may still `answer`.
    pub(super) const fn flag(&self, answer: bool) -> Option<bool> {
        match (self.knows_flag && answer, self.without_flag) {
            (true, _) => Some(true),
            (false, true) => Some(false),
            (false, false) => None,
        }
    }
}
