//! Tunnels whose packets may come in fragments.

use nix::sys::epoll::{EpollEvent, EpollFlags};
use vmcast_common::fib::{IfIndex, Tunnel, TunnelId};

use super::KernelPlane;
use crate::{
    kernel::{attach::Role, error::KernelError, open::chain, reassembly, relay::Relay},
    reassembled::{Change, Heard, PACKETS_AT_ONCE},
};

impl KernelPlane {
    /// Hears the packets of a tunnel, as it is now or gone, that the host puts together.
    pub(super) fn listen(&mut self, id: TunnelId, tunnel: Option<&Tunnel>) {
        let Change { opened, closed } = self.reassembly.listening.set(id, tunnel);
        // The kernel forgets to wait for what is closed.
        closed.iter().for_each(|ends| drop(self.reassembly.sockets.remove(ends)));
        for (ends, socket) in opened {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            if let Err(error) = self.waiting.add(&socket, event) {
                tracing::warn!(%ends, %error, "packets of a tunnel that come in fragments are only found by chance");
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
                Heard::PutTogether => match self.way_of_reassembled() {
                    Some(near) => self.reassembly.pass(near),
                    None => self.reassembly.lose(),
                },
            }
        }
        self.reassembly.flush();
        more
    }

    /// The device at whose far end the program decides; it is made if there is none.
    fn way_of_reassembled(&mut self) -> Option<IfIndex> {
        if self.reassembly.way.is_none() && !self.reassembly.no_way {
            match self.make_way_of_reassembled() {
                Ok(way) => self.reassembly.way = Some(way),
                Err(error) => {
                    tracing::warn!(
                        error = chain(&error),
                        "packets of tunnels that came in fragments cannot be taken in and are lost"
                    );
                    self.reassembly.no_way = true;
                }
            }
        }
        self.reassembly.way.as_ref().map(|way| way.near)
    }

    fn make_way_of_reassembled(&mut self) -> Result<Relay, KernelError> {
        let relay = Relay::create(self.stays, reassembly::MTU)?;
        self.attachments.attach(&mut self.object, relay.far, Role::Reassembled)?;
        tracing::info!(
            "a tunnel's packets come in fragments: they are taken in when the host has put them together"
        );
        Ok(relay)
    }
}
