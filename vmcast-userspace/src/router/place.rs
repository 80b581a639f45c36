//! Where an interface of the configuration is: a device, and which of its links.

use std::collections::BTreeMap;

use vmcast_common::{
    fib::{IfIndex, Link as FibLink},
    hdr::{eth::Mac, link::PPPOE_LEN},
};

use crate::{
    config::RouterInterface,
    netlink::{Link, PppoeSession, TooManyTags, device_under},
};

/// Interfaces that the kernel has not are numbered from here; its own numbers stay below.
const FIRST_NUMBER: u32 = 1 << 29;

/// What the host has.
pub(super) struct Host {
    links: BTreeMap<IfIndex, Link>,
    sessions: Vec<PppoeSession>,
}

/// Where an interface is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// What the kernel says of it; of one that the kernel has not, what its device is, with its own name and
    /// number and without addresses.
    pub(super) own: Link,
    /// Whether the kernel has it.
    pub(super) is_kernels: bool,
    pub(super) device: IfIndex,
    pub(super) link: FibLink,
    /// The other end of a session.
    pub(super) peer: Option<Mac>,
    /// The source of its frames.
    pub(super) mac: Mac,
    /// Whether it, or its device, is a port of a bridge, which must get what comes in.
    pub(super) bridged: bool,
}

/// Why an interface cannot be used as the host is now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Absent {
    #[error("there is no interface named {name}; this host has {present}")]
    Missing { name: String, present: String },
    #[error("{name} is not usable: {reason}")]
    TooManyTags { name: String, reason: TooManyTags },
    #[error(
        "{name} is not usable: the kernel lists no PPPoE session {session} on {device}; it may be down, or add \
         peer_mac = \"…\" if the kernel does not hold it"
    )]
    NoSession { name: String, session: u16, device: String },
}

impl Host {
    pub(super) fn new(links: impl IntoIterator<Item = Link>, sessions: Vec<PppoeSession>) -> Self {
        Self { links: links.into_iter().map(|link| (link.ifindex, link)).collect(), sessions }
    }

    /// The names that a pattern may fit: not the loopback interface, nor the devices that routers make for themselves.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let others = self
            .links
            .values()
            .filter(|link| !link.loopback && !vmcast_dataplane::kernel::is_relay_device(&link.name));
        others.map(|link| link.name.as_str())
    }

    /// The links of PPP sessions, up or not.
    fn ppp(&self) -> impl Iterator<Item = &Link> {
        self.links.values().filter(|link| link.is_ppp())
    }

    /// The links of PPP sessions that are up: one that is not may yet be given the name that the configuration has.
    pub(super) fn ppp_up(&self) -> impl Iterator<Item = IfIndex> {
        self.ppp().filter(|link| link.up).map(|link| link.ifindex)
    }

    /// Finds an interface of the configuration.
    ///
    /// # Errors
    /// Why it cannot be used now.
    pub(super) fn place(&self, configured: &RouterInterface) -> Result<Place, Absent> {
        let own = self.named(configured.name.as_str());
        match (&configured.device, own) {
            (Some(device), own) => self.stated(configured, self.existing(device.as_str())?, own),
            (None, Some(own)) => match self.only_session(own) {
                Some((session, on)) => self.in_session(own, session, on),
                None => self.as_it_is(own),
            },
            (None, None) => Err(self.missing(configured.name.as_str())),
        }
    }

    fn stated(&self, configured: &RouterInterface, on: &Link, own: Option<&Link>) -> Result<Place, Absent> {
        let name = configured.name.as_str();
        let (device, below) = self.under(on)?;
        let stated = configured.link();
        let mut tags = below.tags.into_iter().chain(stated.tags).flatten();
        let link = FibLink { tags: [tags.next(), tags.next()], session: stated.session };
        if tags.next().is_some() {
            return Err(Absent::TooManyTags { name: name.to_owned(), reason: TooManyTags });
        }
        let peer = match (stated.session, configured.peer_mac) {
            (None, _) => None,
            (Some(_), Some(peer)) => Some(peer.0),
            (Some(session), None) => Some(self.peer(name, session, on)?),
        };
        let mac = on.mac.unwrap_or_default();
        let session_len = if link.session.is_some() { PPPOE_LEN as u32 } else { 0 };
        let own = own.cloned();
        let is_kernels = own.is_some();
        let own = own.unwrap_or_else(|| Link {
            name: name.to_owned(),
            ifindex: number(name),
            mtu: on.mtu.saturating_sub(session_len),
            addresses: Vec::new(),
            addresses_v6: Vec::new(),
            ..on.clone()
        });
        let bridged = self.is_bridged(&own, device);
        Ok(Place { own, is_kernels, device, link, peer, mac, bridged })
    }

    fn peer(&self, name: &str, session: u16, on: &Link) -> Result<Mac, Absent> {
        let found = self.sessions.iter().find(|known| known.id == session && known.device == on.name);
        found.map(|known| known.peer).ok_or_else(|| Absent::NoSession {
            name: name.to_owned(),
            session,
            device: on.name.clone(),
        })
    }

    /// The one PPPoE session that there is, with the interface that it runs over, if this is the one `ppp` interface. Of
    /// several the kernel does not tell which is which.
    fn only_session(&self, own: &Link) -> Option<(&PppoeSession, &Link)> {
        let is_only_one = own.is_ppp() && self.ppp().count() == 1;
        match self.sessions.as_slice() {
            [session] if is_only_one => Some((session, self.named(&session.device)?)),
            _ => None,
        }
    }

    /// Packets are given to the interface itself, or to what it is a VLAN of.
    fn as_it_is(&self, own: &Link) -> Result<Place, Absent> {
        let (device, link) = self.under(own)?;
        let mac = own.mac.unwrap_or_default();
        let bridged = self.is_bridged(own, device);
        Ok(Place { own: own.clone(), is_kernels: true, device, link, peer: None, mac, bridged })
    }

    /// Packets get the header of the session in front, and are given to the device below.
    fn in_session(&self, own: &Link, session: &PppoeSession, on: &Link) -> Result<Place, Absent> {
        let (device, below) = self.under(on)?;
        Ok(Place {
            own: own.clone(),
            is_kernels: true,
            device,
            link: FibLink { session: Some(session.id), ..below },
            peer: Some(session.peer),
            mac: on.mac.unwrap_or_default(),
            bridged: self.is_bridged(own, device),
        })
    }

    fn is_bridged(&self, own: &Link, device: IfIndex) -> bool {
        let below = self.links.get(&device);
        let masters = [Some(own), below].into_iter().flatten().filter_map(|link| link.master);
        let mut masters = masters.filter_map(|master| self.links.get(&master));
        masters.any(|master| master.kind.as_deref() == Some("bridge"))
    }

    fn under(&self, link: &Link) -> Result<(IfIndex, FibLink), Absent> {
        let vlan = |ifindex| self.links.get(&ifindex).and_then(|link| link.vlan);
        device_under(link.ifindex, vlan)
            .map_err(|reason| Absent::TooManyTags { name: link.name.clone(), reason })
    }

    fn named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    fn existing(&self, name: &str) -> Result<&Link, Absent> {
        self.named(name).ok_or_else(|| self.missing(name))
    }

    fn missing(&self, name: &str) -> Absent {
        let present: Vec<&str> = self.links.values().map(|link| link.name.as_str()).collect();
        Absent::Missing { name: name.to_owned(), present: present.join(", ") }
    }
}

/// A number for an interface that the kernel has not: the same after every start, so that what an earlier
/// process left forwarding is still its own.
fn number(name: &str) -> IfIndex {
    // FNV-1a, 28 bits of it.
    let hash =
        name.bytes().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    IfIndex(FIRST_NUMBER | (hash >> 4))
}

#[cfg(test)]
#[path = "place_tests.rs"]
mod tests;
