//! Sockets that need more than the standard library offers: the address a datagram came to, IGMP
//! and MLD off the wire, memberships in numbers, ICMPv6.

mod acquaintances;
mod batch;
mod ethtool;
mod host_membership;
mod icmpv6;
mod link_shares;
mod listeners;
mod membership;
mod narrowing;
mod readable;
mod route;
mod shares;
mod sys;
mod throttle;
mod udp;

#[cfg(test)]
mod shares_tests;
#[cfg(test)]
mod tests;

pub(crate) use acquaintances::Acquaintances;
pub(crate) use batch::{AT_ONCE, Batch};
pub(crate) use ethtool::{Offloads, offloads};
pub(crate) use host_membership::HostMembership;
pub(crate) use icmpv6::Icmpv6Sender;
pub(crate) use listeners::Listeners;
pub(crate) use membership::{LinkEnds, MembershipSocket, RECEIVE_LEN};
pub(crate) use narrowing::Narrowing;
pub(crate) use readable::Readable;
pub(crate) use route::source_towards;
pub(crate) use shares::{Crowd, Sender, Shares};
pub(crate) use throttle::Throttle;
pub(crate) use udp::{Buffer, Heard, Received, UdpEndpoint, Undelivered};

/// Asks for a large receive buffer, beyond the system's limit where that is allowed.
fn enlarge_receive_buffer(socket: &socket2::Socket, bytes: usize) {
    let forced = nix::sys::socket::setsockopt(socket, nix::sys::socket::sockopt::RcvBufForce, &bytes);
    if forced.is_err()
        && let Err(error) = socket.set_recv_buffer_size(bytes)
    {
        tracing::debug!(%error, bytes, "the receive buffer keeps its size");
    }
}
