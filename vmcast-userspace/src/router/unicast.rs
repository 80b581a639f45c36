//! The sockets of the unicast inputs: held, so that the host does not answer a source's packets with ICMP
//! errors, and not read, since the data plane takes the packets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::core::Core;
use crate::config::host_addresses;

/// The unicast inputs that are stated, each while its address is this host's.
#[derive(Debug)]
pub(super) struct UnicastInputs {
    stated: BTreeSet<SocketAddr>,
    held: BTreeMap<SocketAddr, Socket>,
    /// Why others are not held, as the operator was told.
    refused: BTreeMap<SocketAddr, io::ErrorKind>,
}

impl UnicastInputs {
    pub(super) fn new(stated: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { stated: stated.into_iter().collect(), held: BTreeMap::new(), refused: BTreeMap::new() }
    }

    /// Takes streams in where our addresses are now, and tries again what could not be had.
    pub(super) fn follow(&mut self, core: &mut Core) {
        if self.stated.is_empty() {
            return;
        }
        let (added, removed) = self.hold(&host_addresses());
        for endpoint in removed {
            tracing::warn!(%endpoint, "the address is gone; no stream comes in there");
            core.remove_unicast_input(endpoint);
        }
        for endpoint in added {
            tracing::info!(%endpoint, "a stream may come in by unicast");
            core.add_unicast_input(endpoint);
        }
    }

    /// Holds what it can with these addresses. Returns what it holds now and did not, and the opposite.
    fn hold(&mut self, addresses: &BTreeSet<IpAddr>) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        let mut removed = Vec::new();
        self.held.retain(|endpoint, _| {
            let stays = addresses.contains(&endpoint.ip());
            if !stays {
                removed.push(*endpoint);
            }
            stays
        });
        let mut added = Vec::new();
        for &endpoint in &self.stated {
            if self.held.contains_key(&endpoint) {
                continue;
            }
            let bound = if addresses.contains(&endpoint.ip()) {
                bind(endpoint)
            } else {
                Err(io::ErrorKind::AddrNotAvailable.into())
            };
            match bound {
                Ok(socket) => {
                    self.held.insert(endpoint, socket);
                    self.refused.remove(&endpoint);
                    added.push(endpoint);
                }
                Err(error) => {
                    if self.refused.insert(endpoint, error.kind()) != Some(error.kind()) {
                        tracing::warn!(%endpoint, %error, "a stream cannot come in here; it is tried again");
                    }
                }
            }
        }
        (added, removed)
    }
}

fn bind(endpoint: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(endpoint), Type::DGRAM, Some(Protocol::UDP))?;
    if endpoint.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // Nobody reads what still comes here; the kernel keeps the least it can of it.
    socket.set_recv_buffer_size(1)?;
    socket.bind(&endpoint.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn address(last: u8) -> IpAddr {
        [127, 45, 0, last].into()
    }

    #[test]
    fn an_input_is_held_while_its_address_is_there_and_its_port_is_free() {
        let port = UdpSocket::bind((address(1), 0)).unwrap().local_addr().unwrap().port();
        let [first, second] = [1, 2].map(|last| SocketAddr::new(address(last), port));
        let taken = UdpSocket::bind(second).unwrap();
        let mut inputs = UnicastInputs::new([first, second]);
        let here = BTreeSet::from([address(1), address(2)]);
        assert_eq!(inputs.hold(&BTreeSet::new()), (vec![], vec![]));
        assert_eq!(inputs.hold(&here), (vec![first], vec![]));
        assert_eq!(inputs.refused[&second], io::ErrorKind::AddrInUse);
        assert!(UdpSocket::bind(first).is_err(), "nobody else has it");
        drop(taken);
        assert_eq!(inputs.hold(&here), (vec![second], vec![]));
        assert_eq!(inputs.hold(&here), (vec![], vec![]), "what is held stays");
        assert_eq!(inputs.hold(&[address(2)].into()), (vec![], vec![first]));
        assert!(UdpSocket::bind(first).is_ok(), "it is free again");
    }
}
