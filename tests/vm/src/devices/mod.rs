//! Devices that a kernel makes of what comes out of an encapsulation, and receivers behind them.
//!
//! All of them are in one machine at once, so whatever is sent to one has every other for a bystander:
//! [`make`] them, listen with [`ears::Ears`], send, and let the ears say what came out of the kernel's own
//! decapsulation.

pub(crate) mod ears;
mod link;
mod referee;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libtest_mimic::{Failed, Trial};

pub(crate) use link::Link;
pub(crate) use referee::encapsulate;

use crate::{bed::Bed, frame::text, guest::GuestSession, numbered::Stream, pieces::Kernel, vm::Vm};

/// Tests of the devices themselves on one kernel.
pub(crate) fn trials(series: &str, kernel: Option<&Kernel>) -> Vec<Trial> {
    const NAME: &str = "its devices take each encapsulation as its RFC draws it, and no other";
    vec![crate::trial(series, kernel, NAME, referee::test)]
}

/// A kind of tunnel as the kernel knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tunnel {
    /// GRE over IPv4 (RFC 2784), perhaps with a key (RFC 2890).
    Gre(Option<u32>),
    /// IPv4 in IPv4 (RFC 2003).
    Ipip,
    /// IPv6 in IPv4 (RFC 4213 §3).
    Sit,
    /// IPv4 or IPv6 in IPv6 (RFC 2473).
    Ip6tnl,
    /// GRE over IPv6 (RFC 7676), perhaps with a key.
    Ip6gre(Option<u32>),
}

impl Tunnel {
    /// Whether its ends are of IPv6.
    pub(crate) const fn is_over_v6(self) -> bool {
        match self {
            Self::Gre(_) | Self::Ipip | Self::Sit => false,
            Self::Ip6tnl | Self::Ip6gre(_) => true,
        }
    }
}

/// A device of the machine, the node being the far end: a link, or a tunnel on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) link: Link,
    pub(crate) tunnel: Option<Tunnel>,
}

/// Every device. The last two differ from another tunnel in the key alone, and nobody sends to them.
pub(crate) const DEVICES: [Device; 24] = [
    on(Link::Wire),
    on(Link::Vlan),
    on(Link::QinQ),
    on(Link::TwoTags),
    on(Link::Session),
    on(Link::SessionInVlan),
    on(Link::SessionInQinQ),
    over(Link::Wire, Tunnel::Gre(None)),
    over(Link::Wire, Tunnel::Gre(Some(4711))),
    over(Link::Wire, Tunnel::Ipip),
    over(Link::Wire, Tunnel::Sit),
    over(Link::Wire, Tunnel::Ip6tnl),
    over(Link::Wire, Tunnel::Ip6gre(None)),
    over(Link::Wire, Tunnel::Ip6gre(Some(4712))),
    over(Link::Vlan, Tunnel::Gre(None)),
    over(Link::Vlan, Tunnel::Ip6gre(Some(4712))),
    over(Link::QinQ, Tunnel::Ipip),
    over(Link::QinQ, Tunnel::Ip6tnl),
    over(Link::TwoTags, Tunnel::Gre(Some(4711))),
    over(Link::Session, Tunnel::Gre(None)),
    over(Link::SessionInVlan, Tunnel::Ipip),
    over(Link::SessionInQinQ, Tunnel::Ip6gre(None)),
    over(Link::Wire, Tunnel::Gre(Some(STRANGER))),
    over(Link::Wire, Tunnel::Ip6gre(Some(STRANGER))),
];

/// The key of tunnels that nobody sends to.
const STRANGER: u32 = 4713;

const fn on(link: Link) -> Device {
    Device { link, tunnel: None }
}

const fn over(link: Link, tunnel: Tunnel) -> Device {
    Device { link, tunnel: Some(tunnel) }
}

impl Device {
    /// Its place in [`DEVICES`].
    pub(crate) fn number(self) -> u8 {
        let place = DEVICES.iter().position(|device| *device == self);
        place.and_then(|place| u8::try_from(place).ok()).expect("every device is among all of them")
    }

    /// What the machine calls it.
    pub(crate) fn name(self) -> String {
        match self.tunnel {
            None => self.link.name().to_owned(),
            Some(_) => format!("tunnel{}", self.number()),
        }
    }

    /// Whether nobody sends to it.
    pub(crate) fn is_stranger(self) -> bool {
        matches!(self.tunnel, Some(Tunnel::Gre(Some(STRANGER)) | Tunnel::Ip6gre(Some(STRANGER))))
    }

    /// Whether it carries the family of a stream.
    pub(crate) fn carries(self, stream: Stream) -> bool {
        match self.tunnel {
            Some(Tunnel::Ipip) => stream.group.is_ipv4(),
            Some(Tunnel::Sit) => stream.group.is_ipv6(),
            None | Some(Tunnel::Gre(_) | Tunnel::Ip6tnl | Tunnel::Ip6gre(_)) => true,
        }
    }

    /// The machine's address on it.
    pub(crate) fn address(self, v6: bool) -> IpAddr {
        match self.tunnel {
            None => self.link.ends(v6).1,
            Some(_) if v6 => Ipv6Addr::new(0xfd71, self.number().into(), 0, 0, 0, 0, 0, 2).into(),
            Some(_) => Ipv4Addr::new(10, 71, self.number(), 2).into(),
        }
    }

    /// The command of `ip` that lets a tunnel's packets leave the machine in fragments; `None` if it is no tunnel over
    /// IPv4.
    pub(crate) fn let_fragment(self) -> Option<String> {
        let (kind, key) = match self.tunnel? {
            Tunnel::Gre(key) => ("gre", key),
            Tunnel::Ipip => ("ipip", None),
            Tunnel::Sit => ("sit", None),
            Tunnel::Ip6tnl | Tunnel::Ip6gre(_) => return None,
        };
        let key = key.map(|key| format!(" key {key}")).unwrap_or_default();
        let (host, guest) = self.link.ends(false);
        let name = self.name();
        Some(format!(
            "link set {name} type {kind} local {guest} remote {host}{key} nopmtudisc\nlink set {name} mtu 1400\n"
        ))
    }

    /// The commands of `ip` that make a tunnel's device in the machine.
    fn script(self, tunnel: Tunnel) -> String {
        let name = self.name();
        let key = |key: Option<u32>| key.map(|key| format!(" key {key}")).unwrap_or_default();
        let (host, guest) = self.link.ends(tunnel.is_over_v6());
        let kind = match tunnel {
            Tunnel::Gre(_) => "gre",
            Tunnel::Ipip => "ipip",
            Tunnel::Sit => "sit",
            Tunnel::Ip6tnl => "ip6tnl",
            Tunnel::Ip6gre(_) => "ip6gre",
        };
        let more = match tunnel {
            Tunnel::Gre(of) => key(of),
            Tunnel::Ipip | Tunnel::Sit => String::new(),
            // Without the option of RFC 2473 §4.1.1 in front of each packet.
            Tunnel::Ip6tnl => " mode any encaplimit none".to_owned(),
            Tunnel::Ip6gre(of) => key(of) + " encaplimit none",
        };
        let (own, own6) = (self.address(false), self.address(true));
        format!(
            "link add {name} type {kind} local {guest} remote {host}{more}\n\
             link set {name} up multicast on\naddr add {own}/24 dev {name}\n\
             addr add {own6}/64 dev {name} nodad\n"
        )
    }
}

/// The devices that a kernel can have: sessions need its PPP.
pub(crate) fn of(kernel: &Kernel) -> Vec<Device> {
    let sessions = kernel.ppp().is_ok();
    DEVICES.into_iter().filter(|device| sessions || device.link.session().is_none()).collect()
}

/// Makes every device that the machine can have, its wire having its addresses; the node's end of each link
/// has this link-layer address. The sessions end with what is returned.
pub(crate) fn make(bed: &Bed, vm: &mut Vm, peer: [u8; 6]) -> Result<Vec<GuestSession>, Failed> {
    let devices = of(&bed.kernel);
    let links = || devices.iter().filter(|device| device.tunnel.is_none()).map(|device| device.link);
    make_links(vm, peer, links().filter(|link| link.session().is_none()))?;
    let mut sessions = Vec::new();
    for (link, (number, _)) in links().filter_map(|link| Some((link, link.session()?))) {
        sessions.push(open_session(bed, vm, link, number, peer)?);
    }
    batch(vm, &devices.iter().filter_map(|device| Some(device.script(device.tunnel?))).collect::<String>())?;
    Ok(sessions)
}

/// Makes the devices of links without a session.
pub(crate) fn make_links(
    vm: &mut Vm,
    peer: [u8; 6],
    links: impl IntoIterator<Item = Link>,
) -> Result<(), Failed> {
    let peer = text(peer);
    batch(vm, &links.into_iter().map(|link| link.script(None, &peer)).collect::<String>())
}

/// Opens a session of this number and makes it the device of a link.
pub(crate) fn open_session(
    bed: &Bed,
    vm: &mut Vm,
    link: Link,
    number: u16,
    peer: [u8; 6],
) -> Result<GuestSession, Failed> {
    let (_, below) = link.session().ok_or("the link has no session")?;
    let session = GuestSession::open(bed, vm, number, peer, below.name())?;
    batch(vm, &link.script(Some(session.device()), &text(peer)))?;
    Ok(session)
}

/// Makes devices in a network namespace of the machine whose `eth0` has the wire's addresses: no session.
pub(crate) fn make_in(vm: &mut Vm, namespace: &str, peer: [u8; 6], devices: &[Device]) -> Result<(), Failed> {
    let peer = text(peer);
    let links = devices.iter().filter(|device| device.tunnel.is_none());
    let links: String = links.map(|device| device.link.script(None, &peer)).collect();
    let tunnels: String = devices.iter().filter_map(|device| Some(device.script(device.tunnel?))).collect();
    batch_in(vm, Some(namespace), &(links + &tunnels))
}

pub(crate) fn batch(vm: &mut Vm, commands: &str) -> Result<(), Failed> {
    batch_in(vm, None, commands)
}

/// Runs commands of `ip` in a network namespace of the machine.
fn batch_in(vm: &mut Vm, namespace: Option<&str>, commands: &str) -> Result<(), Failed> {
    let there = namespace.map(|namespace| format!("-n {namespace} ")).unwrap_or_default();
    vm.run(&format!("ip {there}-batch - <<'END'\n{commands}END"))?;
    Ok(())
}
