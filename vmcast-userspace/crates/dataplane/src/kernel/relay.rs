//! Relay devices: pairs of our own through which a packet comes to the next of our programs.
//!
//! A veth pair in the router's own namespace, without addresses and without ARP. What is redirected to the near
//! end comes in at the far end, where the kernel polls for it as for any device. A pair is named after its
//! process, so that a later one finds those of processes that were killed.

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering},
};

use aya::programs::links::FdLink;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use nix::net::if_::if_nametoindex;
use vmcast_common::fib::IfIndex;

use super::{
    error::KernelError,
    net_device::{Offload, set_offload},
};

/// Begins the name of every relay device.
const PREFIX: &str = "vmc";
/// Tells the pairs of one process apart.
static PAIRS: AtomicU32 = AtomicU32::new(0);

/// A pair, which goes with it unless it is told to stay.
#[derive(Debug)]
pub(super) struct Relay {
    name: String,
    stays: bool,
    /// Where frames are sent.
    pub(super) near: IfIndex,
    /// Where they come in.
    pub(super) far: IfIndex,
}

impl Relay {
    /// Makes a pair in the calling thread's namespace that takes packets of up to `mtu` bytes.
    ///
    /// # Errors
    /// If the kernel makes none.
    pub(super) fn create(stays: bool, mtu: u32) -> Result<Self, KernelError> {
        let pair = PAIRS.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}x{pair}", std::process::id());
        let far = format!("{name}p");
        let what = "making a relay device (a veth pair)";
        ask(create(&name, &far, mtu), NLM_F_CREATE | NLM_F_EXCL).map_err(KernelError::call(what))?;
        for end in [&name, &far] {
            silence(end);
        }
        let index = |name: &str| {
            let index = if_nametoindex(name).map_err(KernelError::call(what))?;
            Ok(IfIndex(index))
        };
        let relay = Self { near: index(&name)?, far: index(&far)?, name, stays };
        // A frame that XDP sends on must be complete. It also keeps the device from segmentation offload, with which
        // frames from TC would not wait to be polled for, but go through in one turn with those before them.
        set_offload(&relay.name, Offload::TxChecksum, false).map_err(KernelError::call(what))?;
        // Without it the far end takes frames from XDP only where a program runs at XDP.
        set_offload(&far, Offload::Gro, true).map_err(KernelError::call(what))?;
        // In this order: an end that comes up while the other is down waits for the kernel to notice that it has a
        // carrier, and drops until then what TC sends by it.
        for end in [relay.far, relay.near] {
            ask(up(end), 0).map_err(KernelError::call(what))?;
        }
        Ok(relay)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // Its namespace may have gone before it.
        if !self.stays && if_nametoindex(self.name.as_str()) == Ok(self.near.0) {
            remove(self.near);
        }
    }
}

/// A relay device of the daemon before this one, with the program behind it: packets may wait there yet.
#[derive(Debug)]
pub(super) struct Left {
    device: IfIndex,
    /// Keeps the program attached.
    _link: Option<FdLink>,
}

impl Left {
    pub(super) const fn new(device: IfIndex, link: Option<FdLink>) -> Self {
        Self { device, _link: link }
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        remove(self.device);
    }
}

/// Removes a relay device and the far end of it.
pub(super) fn remove(device: IfIndex) {
    let mut message = LinkMessage::default();
    message.header.index = device.0;
    if let Err(error) = ask(RouteNetlinkMessage::DelLink(message), 0) {
        tracing::debug!(ifindex = device.0, %error, "a relay device was already removed");
    }
}

/// Removes the relay devices of processes that are no more, but for those where packets may wait yet.
pub(super) fn sweep(spared: &[Left]) {
    let Ok(devices) = nix::net::if_::if_nameindex() else {
        return;
    };
    let spared = |device: u32| spared.iter().any(|left| left.device.0 == device);
    for device in devices.iter().filter(|device| !spared(device.index())) {
        let name = device.name().to_string_lossy();
        if owner(&name).is_some_and(|process| !std::path::Path::new(&format!("/proc/{process}")).exists()) {
            tracing::info!(interface = %name, "a relay device of a process that was killed is removed");
            remove(IfIndex(device.index()));
        }
    }
}

/// Whether a device of this name is an end of a pair that a router made to lead from one program to the next.
#[must_use]
pub fn is_relay_device(name: &str) -> bool {
    owner(name.strip_suffix('p').unwrap_or(name)).is_some()
}

/// The process that made a relay device; `None` for other devices, and for the far ends.
fn owner(name: &str) -> Option<u32> {
    let (process, pair) = name.strip_prefix(PREFIX)?.split_once('x')?;
    pair.parse::<u32>().ok()?;
    process.parse().ok()
}

fn create(near: &str, far: &str, mtu: u32) -> RouteNetlinkMessage {
    // As many queues as CPUs, so that each goes on with what it has begun itself.
    let queues =
        std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1));
    let end = |name: &str| {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Noarp;
        message.header.change_mask = LinkFlags::Noarp;
        message.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Mtu(mtu),
            LinkAttribute::NumTxQueues(queues),
            LinkAttribute::NumRxQueues(queues),
        ];
        message
    };
    let mut message = end(near);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(far)))),
    ]));
    RouteNetlinkMessage::NewLink(message)
}

fn up(device: IfIndex) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = device.0;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Keeps the host from speaking by a device: IPv6 would give itself an address there and tell of it.
fn silence(name: &str) {
    let key = format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6");
    if let Err(error) = std::fs::write(key, "1") {
        tracing::debug!(interface = name, %error, "there is no IPv6 to be kept off a relay device");
    }
}

/// Asks the kernel for a change, in the calling thread's namespace.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send(&bytes, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let answer = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_near_end_tells_its_process() {
        assert_eq!(owner("vmc4194304x12"), Some(4_194_304));
        assert!(is_relay_device("vmc17x3") && is_relay_device("vmc17x3p"));
        assert!(!is_relay_device("vmcast0") && !is_relay_device("ppp0"));
        for name in ["vmc17x3p", "vmcast0", "vmc17", "eth0", "vmcx1", "vmc17x"] {
            assert_eq!(owner(name), None, "{name}");
        }
        assert!(format!("{PREFIX}4194304x99p").len() < libc::IFNAMSIZ);
    }
}
