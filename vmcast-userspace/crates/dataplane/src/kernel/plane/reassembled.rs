//! Tunnels and unicast inputs whose packets may come in fragments.

use std::net::SocketAddr;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use vmcast_common::{
    fib::{IfIndex, Interface, Tunnel, TunnelId},
    maps::{self, InterfaceEntry, InterfaceKey},
};

use super::KernelPlane;
use crate::{
    kernel::{
        attach::Role, error::KernelError, open::chain, reassembly, relay::Relay, writes::forgive_missing,
    },
    reassembled::{Change, Heard, PACKETS_AT_ONCE},
};

impl KernelPlane {
    /// Hears the packets of a tunnel, as it is now or gone, that the host puts together.
    pub(super) fn listen_to_tunnel(&mut self, id: TunnelId, tunnel: Option<&Tunnel>) {
        let change = self.reassembly.listening.set_tunnel(id, tunnel);
        self.listen(change);
    }

    /// Hears the datagrams of a unicast input that the host puts together, as long as it is one.
    pub(super) fn listen_to_input(&mut self, at: SocketAddr, is: bool) {
        let change = self.reassembly.listening.set_input(at, is);
        self.listen(change);
    }

    fn listen(&mut self, Change { opened, closed }: Change) {
        // The kernel forgets to wait for what is closed.
        closed.iter().for_each(|ends| drop(self.reassembly.sockets.remove(ends)));
        for (ends, socket) in opened {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            if let Err(error) = self.waiting.add(&socket, event) {
                tracing::warn!(%ends, %error, "packets that come in fragments are only found by chance");
            }
            self.reassembly.sockets.insert(ends, socket);
        }
    }

    /// Sends some of the packets that the host has put together to the program that decides on them. Returns whether
    /// more wait.
    pub(super) fn serve_reassembled(&mut self) -> bool {
        let mut more = true;
        for _ in 0..PACKETS_AT_ONCE {
            match self.reassembly.receive() {
                Heard::Nothing => {
                    more = false;
                    break;
                }
                Heard::Whole => {}
                Heard::OutOfTunnel => self.pass_reassembled(None),
                Heard::ByUnicast(arrival) if self.reassembly.sockets.contains_key(&arrival.tunnel) => {}
                Heard::ByUnicast(arrival) => {
                    // What comes whole on an interface that is none of ours is not taken in either.
                    if let Some(interface) = self.state.interfaces.get(&arrival.on) {
                        self.pass_reassembled(Some(interface.interface));
                    }
                }
            }
        }
        self.reassembly.flush();
        more
    }

    /// Sends a packet to the program that decides on it, as what came out of a tunnel or in on an interface.
    fn pass_reassembled(&mut self, on: Option<Interface>) {
        let Some((near, far)) = self.way_of_reassembled() else {
            return self.reassembly.lose();
        };
        match on.map(|interface| self.vlan_of(interface, far)) {
            None => self.reassembly.pass(near, None),
            Some(Ok(vlan)) => self.reassembly.pass(near, Some(vlan)),
            Some(Err(error)) => {
                tracing::debug!(error = chain(&error), "a datagram that came in fragments is lost");
                self.reassembly.lose();
            }
        }
    }

    /// The VLAN that stands for an interface.
    fn vlan_of(&mut self, interface: Interface, far: IfIndex) -> Result<u16, KernelError> {
        if let Some(vlan) = self.reassembly.vlan(interface.ifindex) {
            return Ok(vlan);
        }
        let full = KernelError::Full { table: maps::INTERFACES, limit: self.capacities.interfaces };
        let vlan = self.reassembly.free_vlan().ok_or(full)?;
        self.write_vlan(interface, far, vlan)?;
        self.reassembly.set_vlan(interface.ifindex, Some(vlan));
        Ok(vlan)
    }

    fn write_vlan(&mut self, interface: Interface, far: IfIndex, vlan: u16) -> Result<(), KernelError> {
        let alias = reassembly::as_vlan(interface, far, vlan);
        self.maps
            .interfaces
            .insert(InterfaceKey::of(&alias), InterfaceEntry::of(&alias), 0)
            .map_err(KernelError::full_or(maps::INTERFACES, self.capacities.interfaces))
    }

    /// What was put together is decided on by what an interface is now.
    pub(super) fn write_vlan_of(&mut self, interface: Interface) -> Result<(), KernelError> {
        match (self.reassembly.vlan(interface.ifindex), &self.reassembly.way) {
            (Some(vlan), Some(way)) => {
                let far = way.far;
                self.write_vlan(interface, far, vlan)
            }
            _ => Ok(()),
        }
    }

    /// Nothing comes in on an interface any more.
    pub(super) fn forget_vlan_of(&mut self, interface: Interface) -> Result<(), KernelError> {
        let (Some(vlan), Some(way)) = (self.reassembly.vlan(interface.ifindex), &self.reassembly.way) else {
            return Ok(());
        };
        let key = InterfaceKey::of(&reassembly::as_vlan(interface, way.far, vlan));
        forgive_missing(self.maps.interfaces.remove(&key), maps::INTERFACES)?;
        self.reassembly.set_vlan(interface.ifindex, None);
        Ok(())
    }

    /// Both ends of the device at the far one of which the program decides; it is made if there is none.
    fn way_of_reassembled(&mut self) -> Option<(IfIndex, IfIndex)> {
        if self.reassembly.way.is_none() && !self.reassembly.no_way {
            match self.make_way_of_reassembled() {
                Ok(way) => self.reassembly.way = Some(way),
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "packets that came in fragments cannot be taken in and are lost"
                    );
                    self.reassembly.no_way = true;
                }
            }
        }
        self.reassembly.way.as_ref().map(|way| (way.near, way.far))
    }

    fn make_way_of_reassembled(&mut self) -> Result<Relay, KernelError> {
        let relay = Relay::create(self.stays, reassembly::MTU)?;
        self.attachments.attach(&mut self.object, relay.far, Role::Reassembled)?;
        tracing::info!("packets come in fragments: they are taken in when the host has put them together");
        Ok(relay)
    }
}
