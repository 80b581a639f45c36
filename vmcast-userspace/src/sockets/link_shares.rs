//! The kernel's filter before a packet socket, and the hosts that it tells from others.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::{Arc, Mutex, PoisonError},
};

use socket2::Socket;
use vmcast_common::{
    fib::IfIndex,
    hdr::eth::Mac,
    shares::{HostKey, LinkKey},
};
use vmcast_dataplane::shares::SocketShares;

use super::sys;

/// What the filter was told of one protocol of one link; it forgets that with this.
#[derive(Debug)]
pub(super) struct LinkShares {
    shares: Arc<SocketShares>,
    link: LinkKey,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    known: BTreeSet<Mac>,
    thinned: BTreeMap<Mac, u32>,
}

impl LinkShares {
    /// Sets the filter before a socket; `None` if the kernel does not take it, which is told.
    pub(super) fn attach(
        socket: &Socket,
        shares: Arc<SocketShares>,
        ifindex: IfIndex,
        ether_type: u16,
    ) -> Option<Self> {
        let link = LinkKey::new(ifindex, ether_type);
        if let Err(error) = sys::attach_program(socket, shares.link_filter()) {
            tracing::warn!(?ifindex, %error, "hosts of a link have no shares of what is read");
            return None;
        }
        if let Err(error) = shares.add_link(link) {
            tracing::warn!(?ifindex, %error, "hosts of a link that are not known may send any amount");
        }
        Some(Self { shares, link, told: Mutex::default() })
    }

    /// Lets only one in 2 to the given power of the messages of these hosts through, and all of the others'.
    pub(super) fn thin(&self, hosts: impl Iterator<Item = (Mac, u32)>) -> io::Result<()> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeMap<Mac, u32> = hosts.collect();
        for mac in told.thinned.keys().filter(|mac| !wanted.contains_key(*mac)) {
            self.shares.thin(self.key(*mac), None).map_err(io::Error::other)?;
        }
        for (mac, shift) in wanted.iter().filter(|(mac, shift)| told.thinned.get(*mac) != Some(*shift)) {
            self.shares.thin(self.key(*mac), Some(*shift)).map_err(io::Error::other)?;
        }
        told.thinned = wanted;
        Ok(())
    }

    /// Lets hosts through whatever others send, or not.
    pub(super) fn set_known(&self, hosts: impl IntoIterator<Item = Mac>, known: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for mac in hosts {
            match self.shares.set_known(self.key(mac), known) {
                Ok(()) if known => drop(told.known.insert(mac)),
                Ok(()) => drop(told.known.remove(&mac)),
                Err(error) => tracing::debug!(link = ?self.link, %error, "a host has no share of its own"),
            }
        }
    }

    /// Makes the share of the hosts that are not known smaller by this power of two.
    pub(super) fn narrow(&self, shift: u32) {
        if let Err(error) = self.shares.narrow_link(self.link, shift) {
            tracing::debug!(link = ?self.link, %error, "the share of unknown hosts keeps its size");
        }
    }

    /// Messages of hosts that are not known which were cut.
    pub(super) fn cut(&self) -> u64 {
        self.shares.link_cut(self.link)
    }

    const fn key(&self, mac: Mac) -> HostKey {
        HostKey::new(self.link, mac)
    }
}

impl Drop for LinkShares {
    fn drop(&mut self) {
        let told = std::mem::take(self.told.get_mut().unwrap_or_else(PoisonError::into_inner));
        let forgotten = told.known.into_iter().map(|mac| self.shares.set_known(self.key(mac), false));
        let thinned = told.thinned.into_keys().map(|mac| self.shares.thin(self.key(mac), None));
        for error in forgotten.chain(thinned).filter_map(Result::err) {
            tracing::debug!(link = ?self.link, %error, "a host of a link that is gone is not forgotten");
        }
        self.shares.remove_link(self.link);
    }
}
