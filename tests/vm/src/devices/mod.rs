//! Devices that a kernel makes of what comes out of an encapsulation, and receivers behind them.
//!
//! For a test of an encapsulation: [`Device::make`] in the machine, [`Device::listen`], then whatever sends,
//! and [`crate::numbered::Hears`] says what came out of the kernel's own decapsulation.

mod referee;

use std::net::IpAddr;

use libtest_mimic::{Failed, Trial};

use crate::{
    bed::{Bed, Outcome},
    guest::GuestListener,
    numbered::Stream,
    pieces::Kernel,
    vm::Vm,
    wire::{GUEST, GUEST6, HOST, HOST6},
};

/// Tests of the devices themselves on one kernel.
pub(crate) fn trials(series: &str, kernel: Option<&Kernel>) -> Vec<Trial> {
    const NAME: &str = "its devices take each encapsulation as its RFC draws it, and no other";
    vec![crate::trial(series, kernel, NAME, referee::test)]
}

/// A device of the machine on its end of the wire, the node being the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    /// IEEE 802.1Q with this VLAN.
    Vlan(u16),
    /// Two tags: 802.1ad outside, 802.1Q inside.
    QinQ { outer: u16, inner: u16 },
    /// Two tags, both of 802.1Q.
    StackedVlan { outer: u16, inner: u16 },
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

impl Device {
    /// What the machine calls it; it has one at a time.
    pub(crate) const NAME: &'static str = "decap0";

    /// Makes it in the machine, with addresses of its own.
    pub(crate) fn make(self, vm: &mut Vm) -> Outcome {
        let name = Self::NAME;
        let key = |key: Option<u32>| key.map(|key| format!(" key {key}")).unwrap_or_default();
        let over4 = |kind: &str| format!("ip link add {name} type {kind} local {GUEST} remote {HOST}");
        let over6 = |kind: &str| format!("ip link add {name} type {kind} local {GUEST6} remote {HOST6}");
        let tagged = |kind: &str, outer: u16, inner: u16| {
            format!(
                "ip link add link eth0 name outer0 type vlan proto {kind} id {outer}\nip link set outer0 up\n\
                 ip link add link outer0 name {name} type vlan id {inner}"
            )
        };
        let add = match self {
            Self::Vlan(vlan) => format!("ip link add link eth0 name {name} type vlan id {vlan}"),
            Self::QinQ { outer, inner } => tagged("802.1ad", outer, inner),
            Self::StackedVlan { outer, inner } => tagged("802.1Q", outer, inner),
            Self::Gre(of) => over4("gre") + &key(of),
            Self::Ipip => over4("ipip"),
            Self::Sit => over4("sit"),
            Self::Ip6tnl => over6("ip6tnl") + " mode any",
            Self::Ip6gre(of) => over6("ip6gre") + &key(of),
        };
        vm.run(&format!(
            "{add}\necho 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad\n\
             ip link set {name} up multicast on\n\
             ip addr add 10.71.0.2/24 dev {name}\nip addr add fd71::2/64 dev {name} nodad"
        ))?;
        Ok(())
    }

    /// Takes it away.
    pub(crate) fn remove(self, vm: &mut Vm) -> Outcome {
        vm.run(&format!("ip link del {}", Self::NAME))?;
        match self {
            Self::QinQ { .. } | Self::StackedVlan { .. } => {
                vm.run("ip link del outer0")?;
            }
            Self::Vlan(_) | Self::Gre(_) | Self::Ipip | Self::Sit | Self::Ip6tnl | Self::Ip6gre(_) => {}
        }
        Ok(())
    }

    /// A receiver of what the device decapsulates, and of nothing else.
    pub(crate) fn listen(
        self,
        bed: &Bed,
        vm: &Vm,
        stream: Stream,
        source: Option<IpAddr>,
    ) -> Result<GuestListener, Failed> {
        GuestListener::join(bed, vm, Self::NAME, stream, source)
    }
}
