//! Devices whose packets have no link-layer header: TUN, WireGuard, PPP, tunnels of the kernel.

use vmcast_common::fib::IfIndex;

use crate::kernel::net_device::NetDevice;

/// `ARPHRD_RAWIP` (linux/if_arp.h).
const ARPHRD_RAWIP: u16 = 519;
/// `ARPHRD_IP6GRE` (linux/if_arp.h).
const ARPHRD_IP6GRE: u16 = 823;

/// Whether packets leave a device of this network namespace, and come in by it, without a link-layer header. From a
/// frame that a program at TC sends there the kernel takes the header off (`dev_is_mac_header_xmit`).
pub(crate) fn is_bare(device: IfIndex) -> bool {
    NetDevice::of(device.0).is_some_and(|device| has_no_header(&device))
}

/// The same of one that is asked about more.
pub(crate) fn has_no_header(device: &NetDevice) -> bool {
    device.link_layer_type().is_some_and(|kind| {
        matches!(
            kind,
            libc::ARPHRD_NONE
                | ARPHRD_RAWIP
                | libc::ARPHRD_PPP
                | libc::ARPHRD_TUNNEL
                | libc::ARPHRD_TUNNEL6
                | libc::ARPHRD_SIT
                | libc::ARPHRD_IPGRE
                | ARPHRD_IP6GRE
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_has_a_header_and_what_is_not_there_has_none_to_leave_out() {
        assert!(!is_bare(IfIndex(1)));
        assert!(!is_bare(IfIndex(0x7fff_fff0)));
    }
}
