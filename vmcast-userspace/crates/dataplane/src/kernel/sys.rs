//! The bpf(2) commands that aya does not have, or not for the map in question.

#![expect(unsafe_code, reason = "a raw system call")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd},
};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, MapData},
};

use crate::device;

/// `BPF_MAP_DELETE_ELEM` (linux/bpf.h).
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
/// `BPF_MAP_LOOKUP_BATCH` (linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_MAP_UPDATE_BATCH` (linux/bpf.h).
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Stores the map descriptors `values` at `keys` of an array of maps, with one wait for readers at
/// the end instead of one per entry.
///
/// # Errors
/// What the kernel says; `EINVAL` where it does not know batches of this map type. Entries before
/// the refused one may stand.
pub(super) fn update_map_of_maps(outer: &impl AsRawFd, keys: &[u32], values: &[i32]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len());
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map_fd: outer.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: `attr` has the layout and size of the batch member, keys and values point to `count`
    // elements of 4 bytes, the key and value size of an array of maps; all outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes entries of a map in this order.
///
/// # Errors
/// What the kernel says; `EINVAL` where it does not know batches. Those before the refused one may stand.
pub(crate) fn update_batch<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len());
    let map = map.map().fd().as_fd();
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: `attr` has the layout and size of the batch member; keys and values point to `count` elements, plain data
    // of the sizes that the map has; all outlive the call, which only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads so many entries of an array from `first` on that has values for each of so many CPUs, all of these one after
/// the other.
///
/// # Errors
/// What the kernel says; `EINVAL` or `ENOTSUPP` where it does not know batches of this map type, and `ENOENT` if there are
/// not as many entries.
pub(super) fn lookup_from<V: Pod + Default>(
    map: BorrowedFd<'_>,
    first: u32,
    entries: usize,
    cpus: usize,
    values: &mut Vec<V>,
) -> io::Result<()> {
    // The kernel pads values to words.
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    values.resize(entries * cpus, V::default());
    let mut keys = vec![0_u32; entries];
    let mut last = 0_u32;
    // The kernel goes on behind this one.
    let before = first.checked_sub(1);
    let mut attr = BatchAttr {
        in_batch: before.as_ref().map_or(0, |before| std::ptr::from_ref(before) as u64),
        out_batch: (&raw mut last) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(entries).map_err(io::Error::other)?,
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: `attr` has the layout and size of the batch member; the kernel reads a key, and writes at most `count` keys of 4 bytes, as
    // many values for each CPU that it may ever have, which are plain data, and one key more; all outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The part of `union bpf_attr` that element commands use.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Deletes a key of 4 bytes, such as a slot of a devmap.
///
/// # Errors
/// What the kernel says.
pub(super) fn delete(map: &impl AsRawFd, key: u32) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const key) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: `attr` has the layout of the element member, and the key of 4 bytes outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_ELEM, &raw mut attr, size_of::<ElementAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The MTU of a device in this network namespace, as the kernel's broadcast looks at it.
pub(super) fn device_mtu(ifindex: u32) -> Option<u16> {
    let name = device::name_of(ifindex)?;
    let mut request = about(name.to_bytes(), libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 });
    let socket = datagram_socket().ok()?;
    // SAFETY: the request is an initialised `ifreq` with a terminated name that outlives the call, which
    // fills in the MTU.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) };
    if result < 0 {
        return None;
    }
    // SAFETY: the call has set this member of the union.
    u16::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
}

/// Whether a device of this network namespace is set up, whatever its cable does.
pub(super) fn is_up(ifindex: u32) -> Option<bool> {
    let name = device::name_of(ifindex)?;
    let mut request = about(name.to_bytes(), libc::__c_anonymous_ifr_ifru { ifru_flags: 0 });
    let socket = datagram_socket().ok()?;
    // SAFETY: the request is an initialised `ifreq` with a terminated name that outlives the call, which
    // fills in the flags.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS, &raw mut request) };
    if result < 0 {
        return None;
    }
    // SAFETY: the call has set this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Some(i32::from(flags) & libc::IFF_UP != 0)
}

/// What kind of link-layer addresses a device of this network namespace has: an `ARPHRD_` number (linux/if_arp.h).
pub(crate) fn link_layer_type(ifindex: u32) -> Option<u16> {
    let name = device::name_of(ifindex)?;
    let mut request = about(name.to_bytes(), libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 });
    let socket = datagram_socket().ok()?;
    // SAFETY: the request is an initialised `ifreq` with a terminated name that outlives the call, which
    // fills in the address.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) };
    // SAFETY: the request was whole before, so this member of the union can be read whether or not the call has set it.
    let family = unsafe { request.ifr_ifru.ifru_hwaddr.sa_family };
    (result >= 0).then_some(family)
}

/// How a device sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transmit {
    /// Frames that its transmit ring holds.
    ring: u32,
    /// Megabits that its link carries in a second, if its driver says.
    speed: Option<u32>,
}

impl Transmit {
    /// From this speed on a link carries full frames off as fast as a core makes copies, Mbit/s.
    const FAST: u32 = 50_000;

    /// How many copies of a packet it takes in one go; `None` for any number.
    pub(super) fn room(self) -> Option<u32> {
        let is_fast = self.speed.is_some_and(|speed| speed >= Self::FAST);
        (!is_fast && self.ring > 0).then_some(self.ring)
    }
}

/// `ETHTOOL_GSET`, `ETHTOOL_GDRVINFO` and `ETHTOOL_GRINGPARAM` (linux/ethtool.h).
const ETHTOOL_GSET: u32 = 1;
const ETHTOOL_GDRVINFO: u32 = 3;
const ETHTOOL_GRINGPARAM: u32 = 0x10;

/// `struct ethtool_ringparam` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
struct EthtoolRingparam {
    cmd: u32,
    /// What the rings for reception and transmission may be.
    max: [u32; 4],
    rx_pending: [u32; 3],
    tx_pending: u32,
}

/// `struct ethtool_cmd` (linux/ethtool.h).
#[repr(C)]
#[derive(Default)]
struct EthtoolCmd {
    cmd: u32,
    supported: u32,
    advertising: u32,
    speed: u16,
    settings: [u8; 6],
    max_packets: [u32; 2],
    speed_hi: u16,
    mdix: [u8; 2],
    lp_advertising: u32,
    reserved: [u32; 2],
}

impl EthtoolCmd {
    /// Megabits in a second, `None` if they are not known.
    fn speed(&self) -> Option<u32> {
        let speed = u32::from(self.speed_hi) << 16 | u32::from(self.speed);
        (speed != 0 && speed != u32::MAX && speed != u32::from(u16::MAX)).then_some(speed)
    }
}

/// How a device in this network namespace sends; `None` for one without a ring of its own, such as a veth.
pub(super) fn transmit(ifindex: u32) -> Option<Transmit> {
    let name = device::name_of(ifindex)?;
    let mut ring = EthtoolRingparam { cmd: ETHTOOL_GRINGPARAM, ..EthtoolRingparam::default() };
    ethtool(name.to_bytes(), &mut ring).ok()?;
    let mut link = EthtoolCmd { cmd: ETHTOOL_GSET, ..EthtoolCmd::default() };
    let told = ethtool(name.to_bytes(), &mut link);
    Some(Transmit { ring: ring.tx_pending, speed: told.ok().and_then(|()| link.speed()) })
}

/// `struct ethtool_drvinfo` (linux/ethtool.h).
#[repr(C)]
struct EthtoolDrvinfo {
    cmd: u32,
    driver: [u8; 32],
    /// Versions and more texts, and how many statistics there are.
    rest: [u8; 160],
}
const _: () = assert!(size_of::<EthtoolDrvinfo>() == 196);

/// Whether a device in this network namespace is one end of a veth.
pub(super) fn is_veth(ifindex: u32) -> bool {
    let mut info = EthtoolDrvinfo { cmd: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let told = device::name_of(ifindex).is_some_and(|name| ethtool(name.to_bytes(), &mut info).is_ok());
    told && info.driver.starts_with(b"veth\0")
}

/// Asks a device's driver; `question` is one of the structures of linux/ethtool.h, with its command.
fn ethtool<Q>(name: &[u8], question: &mut Q) -> io::Result<()> {
    let pointer = libc::__c_anonymous_ifr_ifru { ifru_data: std::ptr::from_mut(question).cast() };
    let mut request = about(name, pointer);
    let socket = datagram_socket()?;
    // SAFETY: the request is an initialised `ifreq` with a terminated name and points to a structure of the layout and
    // size of its command; both outlive the call, and the kernel reads and writes within them.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An offload of a device, as the command that sets it (linux/ethtool.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Offload {
    /// `ETHTOOL_STXCSUM`: checksums that the device is to complete.
    TxChecksum = 0x17,
    /// `ETHTOOL_SGRO`: generic receive offload. On a veth it also prepares the rings without which frames that
    /// XDP redirects to the peer are dropped.
    Gro = 0x2c,
}

/// `struct ethtool_value` (linux/ethtool.h).
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Sets an offload of a device in this network namespace.
///
/// # Errors
/// What the kernel says.
pub(super) fn set_offload(name: &str, offload: Offload, on: bool) -> io::Result<()> {
    ethtool(name.as_bytes(), &mut EthtoolValue { cmd: offload as u32, data: u32::from(on) })
}

/// A question about an interface.
fn about(name: &[u8], ifr_ifru: libc::__c_anonymous_ifr_ifru) -> libc::ifreq {
    let mut ifr_name = [0; libc::IFNAMSIZ];
    for (place, byte) in ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name) {
        *place = byte.cast_signed();
    }
    libc::ifreq { ifr_name, ifr_ifru }
}

fn datagram_socket() -> io::Result<socket2::Socket> {
    socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)
}
