//! Values that cannot be wrong once they are parsed.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use serde::Deserialize;
use vmcast_common::{
    fib::{Tag, TagProtocol},
    hdr::{eth::Mac, ipv4, ipv6},
    maps::Address,
};

use crate::mac;

/// Makes a type that is parsed from a text readable from a file.
macro_rules! from_text {
    ($type:ty) => {
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }
    };
}
pub(super) use from_text;

/// The UDP port of AMT (RFC 7450 §7.2).
pub(super) const AMT_PORT: u16 = 2268;

/// A name of a node: 1 to 63 letters, digits, dots, hyphens and underscores.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct NodeName(String);

from_text!(NodeName);

impl NodeName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of this host, with what a name may not have replaced by hyphens.
    #[must_use]
    pub fn of_host() -> Self {
        let host = super::host::host_name().unwrap_or_else(|| "localhost".to_owned());
        let fitting = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
        Self(host.chars().map(fitting).take(63).collect())
    }
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=63).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("\"{text}\" is no node name\n1 to 63 letters, digits, dots, hyphens and underscores"))
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A name that the kernel takes for an interface: 1 to 15 bytes, no slash, colon or space.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct InterfaceName(String);

from_text!(InterfaceName);

impl InterfaceName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for all interfaces whose names begin like it: `ppp*`.
    #[must_use]
    pub fn is_pattern(&self) -> bool {
        self.0.ends_with('*')
    }

    /// Whether it stands for an interface of this name.
    #[must_use]
    pub fn covers(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => self.0 == name,
        }
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = (1..=15).contains(&text.len())
            && !matches!(text, "." | "..")
            && text.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "\"{text}\" is no interface name\n1 to 15 characters without spaces, slashes and colons"
            ))
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// A link-layer address of one host: six octets with colons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct MacAddress(pub Mac);

from_text!(MacAddress);

impl FromStr for MacAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match mac::parse(text) {
            Some(mac) if mac[0] & 1 == 0 && mac != Mac::default() => Ok(Self(mac)),
            Some(_) => Err(format!(
                "\"{text}\" is the link-layer address of no host\nthat of a host is even in its first octet"
            )),
            None => Err(format!("\"{text}\" is no link-layer address\nwrite 02:00:5e:00:53:01")),
        }
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&mac::text(self.0))
    }
}

/// A VLAN tag: 100 for one of IEEE 802.1Q, "802.1ad:200" for a provider's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "VlanText")]
pub struct VlanTag(pub Tag);

impl fmt::Display for VlanTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.protocol {
            TagProtocol::Dot1q => self.0.id.fmt(f),
            TagProtocol::Dot1ad => write!(f, "802.1ad:{}", self.0.id),
        }
    }
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a VLAN identifier from 0 to 4094, or \"802.1ad:200\" for a provider's tag"
)]
enum VlanText {
    Id(i64),
    Text(String),
}

impl TryFrom<VlanText> for VlanTag {
    type Error = String;

    fn try_from(text: VlanText) -> Result<Self, String> {
        let (protocol, id, shown) = match text {
            VlanText::Id(id) => (TagProtocol::Dot1q, Some(id), id.to_string()),
            VlanText::Text(text) => {
                let (protocol, id) = match (text.strip_prefix("802.1ad:"), text.strip_prefix("802.1q:")) {
                    (Some(id), _) => (TagProtocol::Dot1ad, id),
                    (None, Some(id)) => (TagProtocol::Dot1q, id),
                    (None, None) => (TagProtocol::Dot1q, text.as_str()),
                };
                (protocol, id.parse().ok(), format!("\"{text}\""))
            }
        };
        match id.and_then(|id| u16::try_from(id).ok()) {
            Some(id) if id <= MAX_VLAN => Ok(Self(Tag { protocol, id })),
            Some(_) | None => Err(format!(
                "{shown} is no VLAN tag\nwrite 100, or \"802.1ad:200\" for a provider's tag; identifiers are 0 to {MAX_VLAN}"
            )),
        }
    }
}

/// The last VLAN identifier (IEEE 802.1Q §9.6).
const MAX_VLAN: u16 = 4094;

/// Where a VMR is: an address or a DNS name, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum Remote {
    /// Given by address.
    Address(SocketAddr),
    /// To be resolved; its addresses may change.
    Name(String, u16),
}

from_text!(Remote);

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 { Err(bad_remote(text)) } else { Ok(Self::Address(address)) };
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Address((ip, AMT_PORT).into()));
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, port.parse().map_err(|_| bad_remote(text))?),
            None => (text, AMT_PORT),
        };
        if is_dns_name(name) && port != 0 {
            Ok(Self::Name(name.to_owned(), port))
        } else {
            Err(bad_remote(text))
        }
    }
}

fn bad_remote(text: &str) -> String {
    format!(
        "\"{text}\" is neither an address nor a DNS name\nwrite 192.0.2.1, 192.0.2.1:{AMT_PORT}, vmr.example.net or \
         vmr.example.net:{AMT_PORT}"
    )
}

/// A host name (RFC 1123 §2.1) whose last label is no number, so that a mistyped address is none.
fn is_dns_name(name: &str) -> bool {
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let absolute = name.strip_suffix('.').unwrap_or(name);
    let last_is_number =
        absolute.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    absolute.len() <= 253 && absolute.split('.').all(label_fits) && !last_is_number
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

/// The port of name servers (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

/// A name server: an address, and a port if it is not 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct NameServer(pub SocketAddr);

from_text!(NameServer);

impl FromStr for NameServer {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let with_port = text.parse::<SocketAddr>().ok();
        let server = with_port.or_else(|| Some(SocketAddr::new(text.parse().ok()?, DNS_PORT)));
        match server {
            Some(server)
                if server.port() != 0 && !server.ip().is_unspecified() && !server.ip().is_multicast() =>
            {
                Ok(Self(server))
            }
            Some(_) | None => Err(format!(
                "\"{text}\" is no address of a name server\nwrite 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53"
            )),
        }
    }
}

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A DNS domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Domain(pub String);

from_text!(Domain);

impl FromStr for Domain {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_dns_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("\"{text}\" is no DNS domain\nwrite example.net"))
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a server is: `http://` or `https://`, a host, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct AdminUrl(String);

from_text!(AdminUrl);

impl AdminUrl {
    /// Whether it is encrypted.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.0.starts_with("https://")
    }

    /// The URL, as `https://192.0.2.2:8443`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AdminUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is no URL of a server\nwrite http://HOST:PORT or https://HOST:PORT");
        let authority =
            text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or_else(bad)?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let known = match authority.parse::<SocketAddr>() {
            Ok(address) => address.port() != 0,
            Err(_) => authority.rsplit_once(':').is_some_and(|(name, port)| {
                is_dns_name(name) && port.parse::<u16>().is_ok_and(|port| port != 0)
            }),
        };
        if known { Ok(Self(text.trim_end_matches('/').to_owned())) } else { Err(bad()) }
    }
}

impl fmt::Display for AdminUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What an admin is reached by: a DNS name or an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct AdminName(String);

from_text!(AdminName);

impl AdminName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AdminName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.parse::<IpAddr>().is_ok() || is_dns_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("\"{text}\" is neither a DNS name nor an address\nwrite it without scheme and port"))
        }
    }
}

/// A group that may be forwarded: not one of the local link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct GroupAddress(pub IpAddr);

from_text!(GroupAddress);

impl FromStr for GroupAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |why: &str| {
            format!("\"{text}\" cannot be forwarded: {why}\nwrite a group, as 239.1.2.3 or ff3e::8000:1")
        };
        let group: IpAddr = text.parse().map_err(|_| bad("it is no IP address"))?;
        if !group.is_multicast() {
            return Err(bad("it is no group"));
        }
        if stays_on_link(group) { Err(bad("it is a group of the local link")) } else { Ok(Self(group)) }
    }
}

impl fmt::Display for GroupAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An end of a tunnel: an address, and a port if one is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct TunnelEnd {
    /// The address.
    pub address: IpAddr,
    /// The UDP port.
    pub port: Option<u16>,
}

from_text!(TunnelEnd);

impl FromStr for TunnelEnd {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "\"{text}\" is no end of a tunnel\nwrite the address of a host, as 192.0.2.1 or 2001:db8::1; for AMT \
                 192.0.2.1:{AMT_PORT} or [2001:db8::1]:{AMT_PORT}"
            )
        };
        let end = match (text.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
            (Ok(address), _) => Self { address, port: None },
            (Err(_), Ok(end)) if end.port() != 0 => Self { address: end.ip(), port: Some(end.port()) },
            (Err(_), Ok(_) | Err(_)) => return Err(bad()),
        };
        if is_host(end.address) { Ok(end) } else { Err(bad()) }
    }
}

/// The address of a host, or a group that may be forwarded, with a port that is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint(pub SocketAddr);

from_text!(Endpoint);

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hint = "write 192.0.2.1:5004 or [2001:db8::1]:5004";
        if text.parse::<IpAddr>().is_ok() {
            return Err(format!("\"{text}\" has no port\n{hint}"));
        }
        let end: SocketAddr =
            text.parse().map_err(|_| format!("\"{text}\" is no address with a port\n{hint}"))?;
        if end.port() == 0 {
            return Err(format!("\"{text}\" cannot be reached: its port is 0\n{hint}"));
        }
        let address = end.ip();
        if address.is_multicast() {
            if stays_on_link(address) {
                return Err(format!(
                    "\"{text}\" cannot be forwarded: its group is one of the local link\nwrite another group, as \
                     239.1.2.3:5004 or [ff3e::8000:1]:5004"
                ));
            }
        } else if !is_routed(address) {
            return Err(format!("\"{text}\" is no address of a host that packets are forwarded to\n{hint}"));
        }
        Ok(Self(SocketAddr::new(address, end.port())))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An IPv4 unicast address of an interface, and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct InterfaceAddress {
    /// The address.
    pub address: Ipv4Addr,
    /// Leading bits that the network shares, 1 to 32.
    pub length: u8,
}

from_text!(InterfaceAddress);

impl FromStr for InterfaceAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("\"{text}\" is no address of an interface\nwrite 192.0.2.1/32");
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, length.parse().map_err(|_| bad())?),
            None => (text, 32),
        };
        let address = address.parse().map_err(|_| bad())?;
        if is_unicast(address) && (1..=32).contains(&length) {
            Ok(Self { address, length })
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Whether no router forwards a group.
fn stays_on_link(group: IpAddr) -> bool {
    match group {
        IpAddr::V4(group) => {
            super::group_prefix::LINK_GROUPS.iter().any(|(link, _)| link.contains(group.into()))
        }
        // Scopes up to link-local, and the reserved one (RFC 4291 §2.7).
        IpAddr::V6(group) => !ipv6::is_forwardable_group(&Address::new(group.into())),
    }
}

/// Whether packets are forwarded to a host of this address, or from it.
fn is_routed(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => ipv4::is_host(address) && is_unicast(address),
        IpAddr::V6(address) => ipv6::is_host(&Address::new(address.into())),
    }
}

/// Whether a host can have this address.
#[must_use]
pub(super) fn is_unicast(address: Ipv4Addr) -> bool {
    !address.is_multicast() && !address.is_broadcast() && address.octets()[0] != 0
}

/// The same for either version of IP.
#[must_use]
pub(super) fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_unicast(address),
        IpAddr::V6(address) => !address.is_multicast() && !address.is_unspecified(),
    }
}

/// A time in seconds, whole or with a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "f64")]
pub struct Seconds(Duration);

impl Seconds {
    /// Whole seconds.
    #[must_use]
    pub const fn new(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// The time.
    #[must_use]
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl TryFrom<f64> for Seconds {
    type Error = String;

    fn try_from(seconds: f64) -> Result<Self, String> {
        Duration::try_from_secs_f64(seconds)
            .map(Self)
            .map_err(|_| format!("{seconds} is no time\nwrite seconds, as 10 or 0.5"))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}
