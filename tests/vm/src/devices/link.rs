//! The links that share the wire, each between the node and the machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::frame::{CUSTOMER_TAG, SERVICE_TAG};

/// A link on the wire: what stands between the link-layer addresses and the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Nothing.
    Wire,
    /// One tag of IEEE 802.1Q.
    Vlan,
    /// Two tags: 802.1ad outside, 802.1Q inside.
    QinQ,
    /// Two tags, both of 802.1Q.
    TwoTags,
    /// A PPPoE session (RFC 2516).
    Session,
    /// The same in a VLAN.
    SessionInVlan,
    /// The same behind two tags.
    SessionInQinQ,
}

impl Link {
    pub(crate) const ALL: [Self; 7] = [
        Self::Wire,
        Self::Vlan,
        Self::QinQ,
        Self::TwoTags,
        Self::Session,
        Self::SessionInVlan,
        Self::SessionInQinQ,
    ];

    /// Its place among all of them.
    pub(crate) const fn number(self) -> u8 {
        self as u8
    }

    /// The tags, type and VLAN, outermost first.
    pub(crate) const fn tags(self) -> &'static [(u16, u16)] {
        match self {
            Self::Wire | Self::Session => &[],
            Self::Vlan | Self::SessionInVlan => &[(CUSTOMER_TAG, 100)],
            Self::QinQ | Self::SessionInQinQ => &[(SERVICE_TAG, 200), (CUSTOMER_TAG, 5)],
            Self::TwoTags => &[(CUSTOMER_TAG, 300), (CUSTOMER_TAG, 6)],
        }
    }

    /// The PPPoE session and the link that it stands on.
    pub(crate) const fn session(self) -> Option<(u16, Self)> {
        match self {
            Self::Session => Some((0x1234, Self::Wire)),
            Self::SessionInVlan => Some((0x1235, Self::Vlan)),
            Self::SessionInQinQ => Some((0x1236, Self::QinQ)),
            Self::Wire | Self::Vlan | Self::QinQ | Self::TwoTags => None,
        }
    }

    /// Its MTU: PPPoE and PPP take eight bytes of the wire's (RFC 2516 §7).
    pub(crate) const fn mtu(self) -> u16 {
        if self.session().is_some() { 1492 } else { 1500 }
    }

    /// What the machine calls its device.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Wire => "eth0",
            Self::Vlan => "vlan",
            Self::QinQ => "qinq",
            Self::TwoTags => "tags",
            Self::Session => "session",
            Self::SessionInVlan => "vlan-session",
            Self::SessionInQinQ => "qinq-session",
        }
    }

    /// The node's and the machine's address of a family.
    pub(crate) fn ends(self, v6: bool) -> (IpAddr, IpAddr) {
        let end = |host: u8| -> IpAddr {
            if v6 {
                Ipv6Addr::new(0xfd70, self.number().into(), 0, 0, 0, 0, 0, host.into()).into()
            } else {
                Ipv4Addr::new(10, 70, self.number(), host).into()
            }
        };
        (end(1), end(2))
    }

    /// The commands of `ip` that make its device in the machine; a session's is there already, under the name of
    /// `unit`, and the wire's has its address.
    pub(super) fn script(self, unit: Option<&str>, peer: &str) -> String {
        let name = self.name();
        let tagged = |kind: &str, outer: u16, inner: u16| {
            format!(
                "link add link eth0 name {name}-outer type vlan proto {kind} id {outer}\n\
                 link set {name}-outer up\nlink add link {name}-outer name {name} type vlan id {inner}\n"
            )
        };
        let make = match (self, self.tags()) {
            (Self::Wire, _) => return neighbours(self, peer),
            (Self::Session | Self::SessionInVlan | Self::SessionInQinQ, _) => {
                let unit = unit.unwrap_or_default();
                format!("link set {unit} name {name} mtu {}\n", self.mtu())
            }
            (_, [(_, vlan)]) => format!("link add link eth0 name {name} type vlan id {vlan}\n"),
            (_, [(SERVICE_TAG, outer), (_, inner)]) => tagged("802.1ad", *outer, *inner),
            (_, [(_, outer), (_, inner)]) => tagged("802.1Q", *outer, *inner),
            (_, tags) => unreachable!("{tags:?} are more tags than a link has"),
        };
        let [(host, guest), (host6, guest6)] = [self.ends(false), self.ends(true)];
        let addresses = if self.session().is_some() {
            format!("addr add {guest} peer {host} dev {name}\naddr add {guest6} peer {host6} dev {name}\n")
        } else {
            format!("addr add {guest}/24 dev {name}\naddr add {guest6}/64 dev {name} nodad\n")
                + &neighbours(self, peer)
        };
        format!("{make}link set {name} up\n{addresses}")
    }
}

/// The node answers for its address on the wire alone: it has no device for the other links.
fn neighbours(link: Link, peer: &str) -> String {
    let name = link.name();
    [link.ends(false).0, link.ends(true).0]
        .map(|host| format!("neigh replace {host} lladdr {peer} dev {name} nud permanent\n"))
        .concat()
}
