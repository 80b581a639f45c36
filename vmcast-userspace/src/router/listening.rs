//! What of the interfaces the host needs, as others on it listen there.

use std::collections::{BTreeMap, BTreeSet};

use vmcast_common::{fib::IfIndex, maps::limit};

use super::{core::Core, interfaces::Attached};
use crate::sockets::Listeners;

/// Groups that are shared one by one at most, over all interfaces: each is an entry of the data plane's, and is looked at
/// every 2 s. Beyond, an interface is shared as a whole.
const MOST: usize = limit::SHARED_GROUPS as usize;

/// Lets the data plane share with the host what others on it listen to.
pub(super) fn heed(listeners: &Listeners, interfaces: &mut BTreeMap<IfIndex, Attached>, core: &mut Core) {
    let mut room = MOST;
    for (&ifindex, attached) in interfaces {
        let ours = |group| attached.host.as_ref().map_or(0, |host| host.memberships(group));
        let groups = listeners.beside(&attached.link.name, ours);
        let whole = attached.bridged || listeners.routes(&attached.link.name) || groups.len() > room;
        let groups = if whole { BTreeSet::new() } else { groups };
        room -= groups.len();
        let (before, listened) = (core.heard.groups_on(ifindex), groups.len());
        let was_whole = std::mem::replace(&mut attached.listened, whole && !attached.bridged);
        if (before, was_whole) != (listened, attached.listened) {
            tracing::info!(
                iface = attached.name,
                groups = listened,
                whole = attached.listened,
                "what others on this host listen to there has changed"
            );
        }
        attached.interface.shared = whole;
        // What is shared in the one way is so before it ceases to be in the other.
        if whole {
            core.share_interface(attached.interface);
            core.share_groups(ifindex, groups);
        } else {
            core.share_groups(ifindex, groups);
            core.share_interface(attached.interface);
        }
    }
}
