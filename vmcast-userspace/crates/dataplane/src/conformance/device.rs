//! The devices a suite runs on.

use vmcast_common::{
    fib::{EngineWish, IfIndex, Interface},
    hdr::eth::Mac,
};

/// A device of the plane under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// The kernel's number.
    pub ifindex: IfIndex,
    /// Its link-layer address.
    pub mac: Mac,
    /// Its MTU in bytes, at least 1500.
    pub mtu: u16,
}

impl Device {
    /// The device as the plane is told of it.
    #[must_use]
    pub const fn interface(&self, accepts_sources: bool) -> Interface {
        Interface {
            ifindex: self.ifindex,
            device: self.ifindex,
            link: vmcast_common::fib::Link::PLAIN,
            peer: None,
            mac: self.mac,
            mtu: self.mtu,
            accepts_sources,
            shared: false,
            engine: EngineWish::Any,
            xdp_members: None,
        }
    }
}

/// Three devices: sources and the upstream are behind `a`, members mostly behind `b` and `c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    /// Where packets come in.
    pub a: Device,
    /// Where most copies leave.
    pub b: Device,
    /// Where others leave.
    pub c: Device,
}

impl Devices {
    /// The three in order.
    #[must_use]
    pub const fn all(&self) -> [Device; 3] {
        [self.a, self.b, self.c]
    }
}
