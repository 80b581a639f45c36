//! Packet sockets (packet(7)): the only place of the software plane that speaks to the kernel.

use std::{
    io::{self, IoSlice},
    mem::{offset_of, size_of, zeroed},
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    ptr::{from_mut, from_ref},
};

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use vmcast_common::{
    fib::IfIndex,
    hdr::{eth, link},
};

use super::offload::{HEADER_LEN, Offload};
use crate::bare::is_bare;

/// Frames taken from a socket by one call.
const BATCH: usize = 16;
/// Largest frame: a whole IP packet behind its Ethernet header.
const FRAME_LEN: usize = 65_535 + 14;
/// Buffer that a socket asks for in bytes; the kernel may grant less.
const BUFFER_LEN: usize = 4 << 20;
/// `MAX_ADDR_LEN` (linux/netdevice.h): bytes of the longest link-layer address.
const MAX_ADDR_LEN: usize = 32;
/// Room for one `tpacket_auxdata` and its header, in units of 8 bytes.
const CONTROL_WORDS: usize = 16;

/// A tap on what an interface receives. While it is open the interface receives every group.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: Socket,
    /// Whether packets come without a link-layer header; they get one.
    bare: bool,
}

/// A way out by an interface.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    /// The kernel's priority of what is sent.
    priority: u32,
    /// Whom packets of IPv4 and of IPv6 are sent to, if the device sends them without a link-layer header.
    bare: Option<[SockAddr; 2]>,
}

impl Receiver {
    pub(super) fn open(ifindex: IfIndex) -> io::Result<Self> {
        // Without a protocol the socket receives nothing before it is bound to the interface.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        socket.set_recv_buffer_size(BUFFER_LEN)?;
        set_option(&socket, libc::PACKET_IGNORE_OUTGOING, &1i32)?;
        set_option(&socket, libc::PACKET_AUXDATA, &1i32)?;
        set_option(&socket, libc::PACKET_VNET_HDR, &1i32)?;
        let every_group = libc::packet_mreq {
            mr_ifindex: ifindex.0 as i32,
            mr_type: libc::PACKET_MR_ALLMULTI as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        set_option(&socket, libc::PACKET_ADD_MEMBERSHIP, &every_group)?;
        socket.bind(&address(ifindex, libc::ETH_P_ALL as u16))?;
        Ok(Self { socket, bare: is_bare(ifindex) })
    }

    /// Takes the frames that wait, up to a batch of them, without waiting for any.
    pub(super) fn receive(&self, batch: &mut Batch) -> io::Result<usize> {
        batch.len = 0;
        // SAFETY: all-zero bytes are valid values of these C structures of integers and pointers.
        let mut slots: [(libc::sockaddr_ll, [libc::iovec; 2], [u64; CONTROL_WORDS]); BATCH] =
            unsafe { zeroed() };
        // SAFETY: as above.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        for ((buffer, slot), message) in batch.buffers.iter_mut().zip(&mut slots).zip(&mut messages) {
            let (before, behind) = buffer.split_at_mut(HEADER_LEN);
            // In front of a packet without one there is room for a link-layer header.
            let frame = if self.bare { &mut behind[eth::LEN..] } else { behind };
            slot.1 = [before, frame]
                .map(|part| libc::iovec { iov_base: part.as_mut_ptr().cast(), iov_len: part.len() });
            message.msg_hdr.msg_name = from_mut(&mut slot.0).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_ll>() as u32;
            message.msg_hdr.msg_iov = slot.1.as_mut_ptr();
            message.msg_hdr.msg_iovlen = slot.1.len();
            message.msg_hdr.msg_control = slot.2.as_mut_ptr().cast();
            message.msg_hdr.msg_controllen = size_of::<[u64; CONTROL_WORDS]>();
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        // SAFETY: every message points to buffers of the stated lengths that outlive the call.
        let count = unsafe {
            libc::recvmmsg(
                self.socket.as_raw_fd(),
                messages.as_mut_ptr(),
                BATCH as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        if count < 0 {
            return Err(io::Error::last_os_error());
        }
        batch.len = count as usize;
        let filled = batch.meta.iter_mut().zip(&mut batch.buffers).zip(&slots).zip(&messages);
        for (((meta, buffer), slot), message) in filled.take(batch.len) {
            let front = if self.bare { eth::LEN } else { 0 };
            if self.bare {
                let header = &mut buffer[HEADER_LEN..HEADER_LEN + eth::LEN];
                header.fill(0);
                // It is in network order there, too.
                header[eth::LEN - 2..].copy_from_slice(&slot.0.sll_protocol.to_ne_bytes());
            }
            *meta = Meta {
                len: message.msg_len as usize + front,
                front,
                ours: (slot.0.sll_pkttype != libc::PACKET_OTHERHOST)
                    && (slot.0.sll_pkttype != libc::PACKET_OUTGOING),
                tag: vlan_tag(&message.msg_hdr),
            };
        }
        Ok(batch.len)
    }
}

impl Receiver {
    /// How many frames had no room in the socket's buffer since this was asked last.
    pub(super) fn take_lost(&self) -> u64 {
        let mut stats = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
        let mut len = size_of::<libc::tpacket_stats>() as libc::socklen_t;
        // SAFETY: the pointers are to values of these sizes, which outlive the call.
        let asked = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                from_mut(&mut stats).cast(),
                &raw mut len,
            )
        };
        if asked == 0 { stats.tp_drops.into() } else { 0 }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Sender {
    pub(super) fn open(ifindex: IfIndex) -> io::Result<Self> {
        let bare = is_bare(ifindex);
        // A datagram is what stands behind the link-layer header, which the device then writes, if it has one.
        let kind = if bare { Type::DGRAM } else { Type::RAW };
        let socket = Socket::new(Domain::PACKET, kind, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        socket.set_send_buffer_size(BUFFER_LEN)?;
        socket.bind(&address(ifindex, 0))?;
        let bare = bare.then(|| [eth::TYPE_IPV4, eth::TYPE_IPV6].map(|kind| datagram_address(ifindex, kind)));
        Ok(Self { socket, priority: 0, bare })
    }

    /// Sends frames, each in two pieces, with a priority of the kernel and returns how many the device refused; one
    /// that does is passed over.
    pub(super) fn send(&mut self, frames: &[[IoSlice<'_>; 2]], priority: u32) -> u64 {
        if priority != self.priority {
            // For the socket and not for a message: of packet sockets only Linux 6.14 and later take it there.
            match set_option_of(&self.socket, libc::SOL_SOCKET, libc::SO_PRIORITY, &priority) {
                Ok(()) => self.priority = priority,
                // They leave as any other packets do.
                Err(error) => tracing::debug!(%error, priority, "packets cannot be given a priority"),
            }
        }
        let packets: Vec<_>;
        let pieces = if self.bare.is_some() {
            packets = frames.iter().map(without_header).collect();
            &packets
        } else {
            frames
        };
        let mut messages: Vec<libc::mmsghdr> = pieces
            .iter()
            .zip(frames)
            .map(|(pieces, frame)| {
                // SAFETY: all-zero bytes are a valid value of this C structure.
                let mut message: libc::mmsghdr = unsafe { zeroed() };
                // IoSlice has the layout of iovec; the kernel only reads through it.
                message.msg_hdr.msg_iov = pieces.as_ptr().cast_mut().cast();
                message.msg_hdr.msg_iovlen = pieces.len();
                if let Some([v4, v6]) = &self.bare {
                    let to = if is_ipv6(frame) { v6 } else { v4 };
                    // The kernel only reads through it.
                    message.msg_hdr.msg_name = to.as_ptr().cast_mut().cast();
                    message.msg_hdr.msg_namelen = to.len();
                }
                message
            })
            .collect();
        let (mut done, mut refused) = (0, 0);
        while done < messages.len() {
            let rest = &mut messages[done..];
            // SAFETY: every message points to slices that `frames` and `packets` keep alive, and to an address of
            // ours if to any.
            let sent = unsafe {
                libc::sendmmsg(
                    self.socket.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as u32,
                    libc::MSG_DONTWAIT,
                )
            };
            if sent > 0 {
                done += sent as usize;
            } else if io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                done += 1;
                refused += 1;
            }
        }
        refused
    }
}

/// Frames taken from a socket, and their buffers.
#[derive(Debug)]
pub(super) struct Batch {
    buffers: Vec<Box<[u8]>>,
    meta: [Meta; BATCH],
    len: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Meta {
    len: usize,
    /// Bytes of a link-layer header that it came without.
    front: usize,
    /// Whether it came in, and not for another host.
    ours: bool,
    /// The outermost tag, which the kernel takes out of a frame.
    tag: Option<[u8; link::TAG_LEN]>,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            buffers: (0..BATCH).map(|_| vec![0; HEADER_LEN + FRAME_LEN].into_boxed_slice()).collect(),
            meta: [Meta::default(); BATCH],
            len: 0,
        }
    }

    pub(super) const fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// The frames that are for this host and came whole, with what is left to do for each.
    pub(super) fn frames(&mut self) -> impl Iterator<Item = (Offload, &mut [u8])> {
        self.buffers.iter_mut().zip(&self.meta).take(self.len).filter(|(_, meta)| meta.ours).filter_map(
            |(buffer, meta)| {
                let (buffer, tag) = (buffer.get_mut(..meta.len)?, meta.tag);
                let offload = Offload::from_bytes(buffer.first_chunk::<HEADER_LEN>()?).behind(meta.front);
                match tag {
                    None => Some((offload, &mut buffer[HEADER_LEN..])),
                    Some(tag) => Some((offload.behind(link::TAG_LEN), put_back(buffer, tag)?)),
                }
            },
        )
    }
}

/// Whether there is IPv6 behind the Ethernet header of a frame, all of which is in the first piece.
fn is_ipv6([own, _]: &[IoSlice<'_>; 2]) -> bool {
    own.get(eth::LEN - 2..eth::LEN).is_some_and(|kind| kind == eth::TYPE_IPV6.to_be_bytes())
}

/// The packet in a frame behind an Ethernet header, all of which is in the first piece.
fn without_header<'a>([own, shared]: &'a [IoSlice<'_>; 2]) -> [IoSlice<'a>; 2] {
    [IoSlice::new(own.get(eth::LEN..).unwrap_or_default()), IoSlice::new(shared)]
}

/// The frame in a buffer with its outermost tag, for which there is room in the header before it.
fn put_back(buffer: &mut [u8], tag: [u8; link::TAG_LEN]) -> Option<&mut [u8]> {
    const ADDRESSES: usize = 12;
    let frame = buffer.get_mut(HEADER_LEN - link::TAG_LEN..)?;
    let addresses = *frame.get(link::TAG_LEN..)?.first_chunk::<ADDRESSES>()?;
    frame[..ADDRESSES].copy_from_slice(&addresses);
    frame[ADDRESSES..ADDRESSES + link::TAG_LEN].copy_from_slice(&tag);
    Some(frame)
}

/// The outermost tag of a frame as it was on the wire (IEEE 802.1Q §9.5); `None` if it has none.
fn vlan_tag(message: &libc::msghdr) -> Option<[u8; link::TAG_LEN]> {
    // SAFETY: the kernel filled the control buffer of `message`, which is aligned for its headers.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    let wanted = size_of::<libc::tpacket_auxdata>();
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA)
        || header.cmsg_len < wanted
    {
        return None;
    }
    // SAFETY: the message holds a `tpacket_auxdata`, whose length was checked.
    let data = unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
    if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let is_told = data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
    let [p, q] = if is_told { data.tp_vlan_tpid } else { link::TYPE_DOT1Q }.to_be_bytes();
    let [t, u] = data.tp_vlan_tci.to_be_bytes();
    Some([p, q, t, u])
}

fn address(ifindex: IfIndex, protocol: u16) -> SockAddr {
    address_of(ifindex, protocol, size_of::<libc::sockaddr_ll>())
}

/// Whom a datagram is sent to by a device without a link-layer header: the kernel wants it to have room for an address as
/// long as the device's own, which it does not look at.
fn datagram_address(ifindex: IfIndex, protocol: u16) -> SockAddr {
    address_of(ifindex, protocol, offset_of!(libc::sockaddr_ll, sll_addr) + MAX_ADDR_LEN)
}

fn address_of(ifindex: IfIndex, protocol: u16, length: usize) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the storage is large enough and aligned for every socket address.
    let address = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = ifindex.0 as i32;
    // SAFETY: the storage is longer, and holds an address with zeros behind it.
    unsafe { SockAddr::new(storage, length as u32) }
}

fn set_option<T>(socket: &Socket, option: i32, value: &T) -> io::Result<()> {
    set_option_of(socket, libc::SOL_PACKET, option, value)
}

/// Sets an option of a socket (setsockopt(2)).
///
/// # Errors
/// If the kernel does not take it.
pub(crate) fn set_option_of<T>(socket: &Socket, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `value`.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, from_ref(value).cast(), size_of::<T>() as u32)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
