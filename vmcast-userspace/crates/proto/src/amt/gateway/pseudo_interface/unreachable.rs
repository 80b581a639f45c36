//! What ICMP Destination Unreachable says about our own datagrams (RFC 7450 §5.2.3.9).
//!
//! Anybody can forge such a message. What counts quotes a nonce that only we, the relay and who stands between know; and
//! all that it can do is to let us ask earlier, and turn away from a relay whose host refused several times in a row.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use vmcast_wire::amt::{Message, ParseError};

use super::{Phase, PseudoInterface, Status};
use crate::amt::gateway::{output::DownReason, round::Round};

/// The wait before what was refused is said again for the first time; it doubles. A relay that starts anew is back
/// within the few there are, and who waits for one that is gone does not notice.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Octets that a Relay Discovery or Request has; what follows in a quotation is not its own (RFC 4884 §5.1).
const SHORT: usize = 8;

impl PseudoInterface {
    /// A datagram that we sent to `remote` could not be delivered; `quoted` is the beginning of what it carried. Returns
    /// whether that is believed.
    pub(in crate::amt::gateway) fn unreachable(
        &mut self,
        now: Instant,
        remote: SocketAddr,
        quoted: &[u8],
        round: &mut Round,
    ) -> bool {
        let discovering = matches!(self.phase, Phase::Discovering { .. });
        if remote != self.config.relay && discovering || Some(remote) != self.relay && !discovering {
            return false;
        }
        let asked = |ours| self.quotes_request(quoted, ours);
        match self.phase {
            Phase::Discovering { nonce, .. } if short(quoted) == Ok(Message::RelayDiscovery { nonce }) => {
                self.refused_by_host(now, round);
            }
            Phase::Requesting { nonce, .. } if asked(nonce) => self.refused_by_host(now, round),
            Phase::Fresh if self.probe.is_some_and(asked) => self.request(now, round),
            // The relay's host does not know the tunnel's other end any more: no data will come.
            Phase::Fresh if self.quotes_update(quoted) && self.may_ask_again(now) => {
                self.asked_again = Some(now);
                self.request(now, round);
            }
            Phase::Discovering { .. }
            | Phase::Requesting { .. }
            | Phase::Fresh
            | Phase::Dormant
            | Phase::Stopped => return false,
        }
        true
    }

    /// Says it again soon, a few times; then the relay counts as down, and what follows is the usual back-off.
    fn refused_by_host(&mut self, now: Instant, round: &mut Round) {
        let before = self.refusals;
        self.refusals = before.saturating_add(1);
        if self.refusals < self.config.unreachable_tries {
            let soon = now + FIRST_WAIT * 2u32.saturating_pow(before);
            self.handshake_at = self.handshake_at.map(|at| at.min(soon));
        } else if self.refusals == self.config.unreachable_tries && self.status != Status::Down {
            self.down(DownReason::Unreachable);
            if self.config.discover && matches!(self.phase, Phase::Requesting { .. }) {
                self.begin(now, round);
            }
        }
    }

    /// Whether this is our Request of a nonce, of this protocol.
    fn quotes_request(&self, quoted: &[u8], ours: u32) -> bool {
        match short(quoted) {
            Ok(Message::Request { ipv6, nonce, .. }) => {
                let mld = ipv6 || Message::is_linux_request(&quoted[..SHORT]);
                nonce == ours && mld == self.protocol.p_flag()
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// Whether this is the beginning of a Membership Update with what the relay has granted last.
    fn quotes_update(&self, quoted: &[u8]) -> bool {
        match Message::parse(quoted) {
            Ok(Message::MembershipUpdate { response_mac, nonce, update: _ }) => {
                self.grant.is_some_and(|grant| (grant.response_mac, grant.nonce) == (response_mac, nonce))
            }
            Ok(_) | Err(_) => false,
        }
    }

    /// A way that takes Requests and refuses Membership Updates would otherwise be asked in each round trip.
    fn may_ask_again(&self, now: Instant) -> bool {
        self.asked_again.is_none_or(|at| now >= at + self.config.first_retransmission)
    }
}

/// A message of eight octets at the beginning of a quotation.
fn short(quoted: &[u8]) -> Result<Message<'_>, ParseError> {
    Message::parse(&quoted[..quoted.len().min(SHORT)])
}
