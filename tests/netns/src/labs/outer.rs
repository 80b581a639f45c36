//! The version of IP that the tunnels of a lab go over, and what moves in it: what is carried is the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libtest_mimic::Failed;
use vmcast_lab::{Namespace, roles::Role};

use super::{
    bed::{Bed, Outcome},
    over_ipv6,
    small::{Small, gateway_of},
};

/// IPv4 or IPv6, outside.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outer {
    V4,
    V6,
}

impl Outer {
    /// Gives the links to the clients addresses of this version beside those of IPv4.
    pub(super) fn number(self, small: &Small) -> Outcome {
        match self {
            Self::V4 => Ok(()),
            Self::V6 => over_ipv6::number(small),
        }
    }

    /// The VMR on the link of a client, counted from 1.
    pub(super) fn relay(self, client: u8) -> IpAddr {
        self.on_link(client, 1)
    }

    /// A host on the link of a client, both counted from 1; the VMR is the first, the client the second.
    pub(super) fn on_link(self, client: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => {
                let [a, b, c, _] = gateway_of(client).octets();
                Ipv4Addr::new(a, b, c, host).into()
            }
            Self::V6 => {
                let [relay, _] = over_ipv6::ends(client.into());
                let [a, b, c, d, e, f, g, _] = relay.segments();
                Ipv6Addr::new(a, b, c, d, e, f, g, host.into()).into()
            }
        }
    }

    /// The length of a link's prefix.
    const fn prefix(self) -> u8 {
        match self {
            Self::V4 => 24,
            Self::V6 => 64,
        }
    }

    /// Takes an address from an interface.
    pub(super) fn take(self, node: &Namespace, interface: &str, address: IpAddr) -> Outcome {
        Ok(node.ip(&format!("addr del {address}/{} dev {interface}", self.prefix()))?)
    }

    /// Gives one to it, which is of use at once.
    pub(super) fn give(self, node: &Namespace, interface: &str, address: IpAddr) -> Outcome {
        let nodad = if self == Self::V6 { "nodad" } else { "" };
        Ok(node.ip(&format!("addr add {address}/{} dev {interface} {nodad}", self.prefix()))?)
    }

    /// Lets an interface have another address of a network in the place of one.
    pub(super) fn replace(self, node: &Namespace, interface: &str, [before, after]: [IpAddr; 2]) -> Outcome {
        match self {
            // With the first address of a network its others go.
            Self::V4 => {
                self.take(node, interface, before)?;
                self.give(node, interface, after)
            }
            // With the last address of a network the routes through it go.
            Self::V6 => {
                self.give(node, interface, after)?;
                self.take(node, interface, before)
            }
        }
    }

    /// The same of a host that reaches all else by a gateway.
    pub(super) fn renumber(
        self,
        node: &Namespace,
        interface: &str,
        addresses: [IpAddr; 2],
        gateway: IpAddr,
    ) -> Outcome {
        self.replace(node, interface, addresses)?;
        match self {
            Self::V4 => Ok(node.ip(&format!("route add default via {gateway}"))?),
            Self::V6 => Ok(()),
        }
    }
}

/// How a role shows an endpoint, up to its port.
pub(super) fn shown(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:"),
        IpAddr::V6(address) => format!("[{address}]:"),
    }
}

/// Waits until the far ends (`remote`) or near ends (`local`) of a relay's tunnels are at these addresses, each once.
pub(super) fn until_ends(
    bed: &Bed,
    router: &Role,
    end: &'static str,
    addresses: &[IpAddr],
) -> Result<(), Failed> {
    let what = format!("the tunnels have their {end} ends at {addresses:?} and nowhere else");
    bed.until_answer(&what, router, &["tunnel", "list"], |answer| {
        let tunnels = answer["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
        let at = |address: &IpAddr| {
            let address = shown(*address);
            let ends = tunnels.iter().filter_map(|tunnel| tunnel[end].as_str());
            ends.filter(|end| end.starts_with(&address)).count()
        };
        tunnels.len() == addresses.len() && addresses.iter().all(|address| at(address) == 1)
    })
    .map(|_| ())
}
