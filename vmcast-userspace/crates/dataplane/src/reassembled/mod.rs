//! Packets to tunnels and unicast inputs of ours that came in fragments (requirement E4).
//!
//! No plane puts fragments together. They go to the host, whose stack does, within bounds of its own for memory and
//! time, and merges their congestion marks (RFC 3168 §5.3). Raw sockets (raw(7)) hear what it has put together, and the
//! plane takes that in as if it had come whole: so it is the plane's decision all the same whose packet it is.
//!
//! A raw socket takes nothing away from anybody: the host's own tunnels and our sockets of AMT get what they got before.
//! Nor does one know that another hears the same: what comes out of a tunnel that ends where streams come in by unicast
//! too is the tunnel's ([`socket::Arrival::tunnel`]).

mod ends;
mod socket;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use vmcast_common::fib::{Tunnel, TunnelId};

pub(crate) use self::{
    ends::Ends,
    socket::{Buffer, Heard, RawSocket},
};

/// Packets that are read before everything else has its turn.
pub(crate) const PACKETS_AT_ONCE: usize = 64;

/// Which sockets are to be open: those of the tunnels out of which streams may come, and of the unicast inputs.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    wanted: BTreeMap<Listener, Vec<Ends>>,
    open: BTreeSet<Ends>,
}

/// Whose packets are heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Listener {
    Tunnel(TunnelId),
    Input(SocketAddr),
}

/// What is to be done with sockets.
#[derive(Debug, Default)]
pub(crate) struct Change {
    /// Those that were opened.
    pub(crate) opened: Vec<(Ends, RawSocket)>,
    /// Those to be closed.
    pub(crate) closed: Vec<Ends>,
}

impl Listening {
    /// A tunnel is as it is here now, or gone. A socket that cannot be opened is told of in the log, and tried again
    /// with the next tunnel or input that comes, goes or changes: what comes whole needs none.
    pub(crate) fn set_tunnel(&mut self, id: TunnelId, tunnel: Option<&Tunnel>) -> Change {
        let ends = tunnel.filter(|tunnel| tunnel.accepts_sources).map(Ends::of).unwrap_or_default();
        self.set(Listener::Tunnel(id), ends)
    }

    /// A stream may come in by unicast at an address and port, or no longer.
    pub(crate) fn set_input(&mut self, at: SocketAddr, is: bool) -> Change {
        let ends = if is { vec![Ends::of_input(at)] } else { Vec::new() };
        self.set(Listener::Input(at), ends)
    }

    fn set(&mut self, listener: Listener, ends: Vec<Ends>) -> Change {
        let known = self.wanted.get(&listener);
        // Tunnels to members are many, and concern nobody here.
        if ends.is_empty() && known.is_none() {
            return Change::default();
        }
        if ends.is_empty() {
            self.wanted.remove(&listener);
        } else {
            self.wanted.insert(listener, ends);
        }
        let wanted: BTreeSet<Ends> = self.wanted.values().flatten().copied().collect();
        let closed: Vec<Ends> = self.open.difference(&wanted).copied().collect();
        self.open.retain(|ends| wanted.contains(ends));
        let mut opened = Vec::new();
        for ends in wanted.difference(&self.open.clone()) {
            match RawSocket::open(*ends) {
                Ok(socket) => {
                    self.open.insert(*ends);
                    opened.push((*ends, socket));
                }
                Err(error) => tracing::warn!(
                    %ends,
                    %error,
                    "packets that come in fragments cannot be heard and are lost; those that come whole are not"
                ),
            }
        }
        Change { opened, closed }
    }
}

#[cfg(test)]
mod tests {
    use vmcast_common::fib::{EcnMode, TunnelKind};

    use super::*;

    fn tunnel(kind: TunnelKind, port: u16, accepts_sources: bool) -> Tunnel {
        Tunnel {
            kind,
            local: ([127, 0, 0, 1], port).into(),
            remote: ([127, 0, 0, 2], port).into(),
            ecn: EcnMode::Normal,
            accepts_sources,
            next_hop: None,
        }
    }

    /// What is wanted, open or not: a test may not open raw sockets.
    fn wanted(listening: &Listening) -> usize {
        listening.wanted.values().flatten().collect::<BTreeSet<_>>().len()
    }

    #[test]
    fn only_where_streams_may_come_from_is_listened_to_each_end_once() {
        let mut listening = Listening::default();
        listening.set_tunnel(TunnelId(1), Some(&tunnel(TunnelKind::Amt, 2268, false)));
        assert_eq!(wanted(&listening), 0);
        // Two GRE tunnels between two nodes differ in their keys alone.
        listening.set_tunnel(TunnelId(2), Some(&tunnel(TunnelKind::Gre(Some(1)), 0, true)));
        listening.set_tunnel(TunnelId(3), Some(&tunnel(TunnelKind::Gre(Some(2)), 0, true)));
        assert_eq!(wanted(&listening), 1);
        // IPv4 and IPv6 in IP are two protocols.
        listening.set_tunnel(TunnelId(4), Some(&tunnel(TunnelKind::Ipip, 0, true)));
        listening.set_tunnel(TunnelId(5), Some(&tunnel(TunnelKind::Amt, 2268, true)));
        assert_eq!(wanted(&listening), 4);
        listening.set_tunnel(TunnelId(5), Some(&tunnel(TunnelKind::Amt, 2268, false)));
        listening.set_tunnel(TunnelId(2), None);
        assert_eq!(wanted(&listening), 3);
        listening.set_tunnel(TunnelId(3), None);
        listening.set_tunnel(TunnelId(4), None);
        // What may come from anybody is another socket than what comes from the far end of a tunnel.
        let input = ([127, 0, 0, 1], 2268).into();
        listening.set_tunnel(TunnelId(5), Some(&tunnel(TunnelKind::Amt, 2268, true)));
        listening.set_input(input, true);
        assert_eq!(wanted(&listening), 2);
        listening.set_tunnel(TunnelId(5), None);
        listening.set_input(input, false);
        assert_eq!((wanted(&listening), listening.open.len()), (0, 0));
    }
}
