//! What every plane carries, and what none does yet.

use std::net::{IpAddr, SocketAddr};

use vmcast_common::fib::{FibOp, IfIndex, Members, TunnelId};

/// Interface and tunnel numbers share one space of 32 bits, split by the top one.
const FIRST_RESERVED_NUMBER: u32 = 1 << 31;

/// Says what an operation asks for that is not carried.
pub(crate) fn check(op: &FibOp) -> Result<(), &'static str> {
    match op {
        FibOp::SetInterface(interface) => match interface.ifindex {
            IfIndex(1..FIRST_RESERVED_NUMBER) => Ok(()),
            IfIndex(_) => Err("no interface has this number"),
        },
        FibOp::SetEndpoint(endpoint) => only_ipv4([endpoint.ip()]),
        FibOp::SetTunnel(TunnelId(id), tunnel) => {
            let ends: [SocketAddr; 2] = [tunnel.local, tunnel.remote];
            only_ipv4(ends.map(|end| end.ip()))?;
            if *id < FIRST_RESERVED_NUMBER { Ok(()) } else { Err("tunnel numbers are below 2^31") }
        }
        FibOp::SetStream(stream, _, members) => {
            only_ipv4([stream.group, stream.source.unwrap_or(stream.group)])?;
            if !stream.group.is_multicast() {
                return Err("the group is not a multicast address");
            }
            if stream.source.is_none() && *members == Members::OfAnySource {
                return Err("(*,G) is the one that others share their members with");
            }
            Ok(())
        }
        FibOp::RemoveInterface(_)
        | FibOp::RemoveEndpoint(_)
        | FibOp::SetNextHop(..)
        | FibOp::RemoveNextHop(_)
        | FibOp::RemoveTunnel(_)
        | FibOp::RemoveStream(_)
        | FibOp::AddMember(..)
        | FibOp::RemoveMember(..) => Ok(()),
    }
}

fn only_ipv4<const N: usize>(addresses: [IpAddr; N]) -> Result<(), &'static str> {
    if addresses.iter().all(IpAddr::is_ipv4) { Ok(()) } else { Err("only IPv4 is carried") }
}
