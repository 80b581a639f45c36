//! How much each source may send to the sockets of a VMR before it takes room in their buffers.

use std::sync::Arc;

use vmcast_dataplane::shares::{Rates, SocketShares};

use super::interfaces::MESSAGES_PER_SECOND;
use crate::config::TunnelConfig;

/// Datagrams of a gateway for each one that is answered: its Request, and the Membership Update that follows.
const DATAGRAMS: u32 = 2;

/// What sources may send: all that is answered, so that nobody loses what would have been. Hosts of a link that are not
/// known have a small part of what is read of it, so that a slow machine, too, reads what those say that are.
fn rates(config: &TunnelConfig) -> Rates {
    Rates {
        source: config.answers_per_prefix_per_second.saturating_mul(DATAGRAMS),
        strangers: config.answers_per_second.saturating_mul(DATAGRAMS),
        link_strangers: MESSAGES_PER_SECOND / 5,
    }
}

/// Loads the kernel's filters; without them floods are cut at the sockets' buffers alone, which is told.
pub(super) fn open(config: &TunnelConfig) -> Option<Arc<SocketShares>> {
    match SocketShares::open(rates(config)) {
        Ok(shares) => Some(Arc::new(shares)),
        Err(error) => {
            tracing::warn!(
                %error,
                "no shares before the sockets: a flood with forged sources keeps others from being heard as well"
            );
            None
        }
    }
}
