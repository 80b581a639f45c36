//! Whose packets a socket hears.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use socket2::SockFilter;
use vmcast_common::{
    fib::{Tunnel, TunnelKind},
    hdr::ip::{PROTO_GRE, PROTO_IPV4, PROTO_IPV6, PROTO_UDP},
};

/// Offset of what stands behind the link-layer header (linux/filter.h).
const NET: u32 = libc::SKF_NET_OFF.cast_unsigned();
/// Where the headers of IPv4 and IPv6 have the source, and UDP the destination port.
const SOURCE_V4: u32 = 12;
const SOURCE_V6: u32 = 8;
const UDP_DESTINATION: u32 = 2;

/// The ends of a tunnel's outer packets, and what they carry; or the end to which a stream comes by unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ends {
    /// The protocol in the outer header.
    pub(super) protocol: u8,
    /// Our address, with 0 for the port.
    pub(super) local: SocketAddr,
    /// The far end; `None` where anybody may send to.
    remote: Option<IpAddr>,
    /// The port to which UDP comes; 0 for other protocols.
    port: u16,
}

impl Ends {
    /// Those of a tunnel: two for IP in IP, which is one protocol for each version of the inner packet.
    pub(super) fn of(tunnel: &Tunnel) -> Vec<Self> {
        let mut local = tunnel.local;
        local.set_port(0);
        let end = |protocol, port| Self { protocol, local, remote: Some(tunnel.remote.ip()), port };
        match tunnel.kind {
            TunnelKind::Amt => vec![end(PROTO_UDP, tunnel.local.port())],
            TunnelKind::Gre(_) => vec![end(PROTO_GRE, 0)],
            TunnelKind::Ipip => vec![end(PROTO_IPV4, 0), end(PROTO_IPV6, 0)],
        }
    }

    /// That of a unicast input.
    pub(super) fn of_input(at: SocketAddr) -> Self {
        let local = SocketAddr::new(at.ip(), 0);
        Self { protocol: PROTO_UDP, local, remote: None, port: at.port() }
    }

    /// Whether anybody may send to there.
    pub(super) const fn are_open_to_all(&self) -> bool {
        self.remote.is_none()
    }

    /// Those of a tunnel that ends here as these do, with that far end.
    pub(super) const fn with_far_end(self, remote: IpAddr) -> Self {
        Self { remote: Some(remote), ..self }
    }

    /// A filter for the kernel that lets through what comes from the far end, if there is one, of UDP what comes to the port. It sees
    /// IPv4 packets from their header on, IPv6 packets from what that carries.
    pub(super) fn filter(&self) -> Vec<SockFilter> {
        let mut wanted: Vec<(Vec<SockFilter>, u32)> = Vec::new();
        match self.remote {
            None => {}
            Some(IpAddr::V4(remote)) => {
                wanted.push((vec![load(libc::BPF_W, NET + SOURCE_V4)], remote.to_bits()))
            }
            Some(IpAddr::V6(remote)) => {
                for (at, word) in (NET + SOURCE_V6..).step_by(4).zip(remote.octets().as_chunks().0) {
                    wanted.push((vec![load(libc::BPF_W, at)], u32::from_be_bytes(*word)));
                }
            }
        }
        if self.protocol == PROTO_UDP {
            let port = match self.local {
                SocketAddr::V4(_) => vec![
                    // The length of the header, which stands in it, into the index.
                    statement(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
                    statement(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, UDP_DESTINATION),
                ],
                SocketAddr::V6(_) => vec![load(libc::BPF_H, UDP_DESTINATION)],
            };
            wanted.push((port, self.port.into()));
        }
        // From the end: what jumps to the refusal must know how far it is.
        let mut filter = vec![statement(libc::BPF_RET, 0)];
        filter.push(statement(libc::BPF_RET, u32::MAX));
        for (read, value) in wanted.into_iter().rev() {
            let refuse = u8::try_from(filter.len() - 1).expect("a filter of a few statements");
            let code = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
            filter.push(SockFilter::new(code, 0, refuse, value));
            filter.extend(read.into_iter().rev());
        }
        filter.reverse();
        filter
    }
}

fn statement(code: u32, k: u32) -> SockFilter {
    SockFilter::new(code as u16, 0, 0, k)
}

fn load(size: u32, at: u32) -> SockFilter {
    statement(libc::BPF_LD | size | libc::BPF_ABS, at)
}

impl fmt::Display for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "protocol {}", self.protocol)?;
        if let Some(remote) = self.remote {
            write!(f, " from {remote}")?;
        }
        write!(f, " to {}", self.local.ip())?;
        if self.port == 0 { Ok(()) } else { write!(f, " port {}", self.port) }
    }
}
