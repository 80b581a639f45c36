//! The kernel planes' other half: packets that their programs hand over, and the copies made of them.

use std::os::fd::{AsFd as _, BorrowedFd};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use vmcast_common::{
    fib::{Output, Stream},
    hdr::ip,
    maps::{self, InputId},
    rewrite,
    verdict::DropReason,
};

use super::{Fragmenter, Limits, PacketTooBig};
use crate::{
    clock::now_ns,
    copy_buffer::CopyBuffer,
    kernel::{error::KernelError, writes::take},
    plane::Counters,
    software::outbox::Outbox,
    ways::{Way, Ways},
};

/// Packets that are served before everything else has its turn.
const PACKETS_AT_ONCE: usize = 64;
/// Bytes of a record before the packet.
const PACKET_AT: usize = 12;

/// What a kernel plane was told of streams.
pub(crate) trait Streams: Ways {
    /// The number of the stream whose members a stream's packets go to, the priority code point of the packets, and the
    /// members; `None` if there is no such stream.
    fn members(&self, stream: &Stream) -> Option<(u32, u8, impl Iterator<Item = Output>)>;
}

/// What became of the packets that waited.
#[derive(Debug, Default)]
pub(crate) struct Served {
    /// Whether more wait.
    pub(crate) more: bool,
    /// Numbers of streams of which every member takes whole what was handed over: the kernel's bound is too low.
    pub(crate) needless: Vec<u32>,
}

/// Makes and sends the copies of packets that the kernel hands over.
pub(crate) struct Server {
    ring: RingBuf<MapData>,
    fragmenter: Fragmenter,
    buffer: CopyBuffer,
    outbox: Outbox,
    drops: [u64; DropReason::ALL.len()],
}

impl Server {
    /// Takes the ring out of the object.
    pub(crate) fn take_from(object: &mut Ebpf, limits: Limits) -> Result<Self, KernelError> {
        Ok(Self {
            ring: take(object, maps::OVERSIZED)?,
            fragmenter: Fragmenter::new(limits),
            buffer: CopyBuffer::default(),
            outbox: Outbox::default(),
            drops: [0; DropReason::ALL.len()],
        })
    }

    /// Readable while packets wait.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Makes and sends the copies of some of the packets that wait, for the members whose links do not take them
    /// whole; the others have theirs from the kernel, unless it makes none.
    pub(crate) fn serve(&mut self, plane: &impl Streams) -> Served {
        let Self { ring, fragmenter, buffer, outbox, drops } = self;
        let mut served = Served { more: true, ..Served::default() };
        for _ in 0..PACKETS_AT_ONCE {
            let Some(record) = ring.next() else {
                served.more = false;
                break;
            };
            let Some(Record { input, beyond, packet }) = Record::parse(&record) else {
                continue;
            };
            let packet = &*buffer.load(packet);
            let Some(view) = ip::View::parse_any(packet, 0) else {
                continue;
            };
            let of_source = Stream { source: Some(view.source.ip()), group: view.destination.ip() };
            let of_any = Stream { source: None, ..of_source };
            let Some((number, pcp, members)) = plane.members(&of_source).or_else(|| plane.members(&of_any))
            else {
                continue;
            };
            let now_ns = now_ns();
            let mut needed = beyond;
            for output in members {
                let Way { egress, member, hop } = match plane.way(output) {
                    Ok(way) => way,
                    Err(reason) => {
                        drops[reason as usize] += u64::from(beyond);
                        continue;
                    }
                };
                let is_whole = view.total_len + rewrite::overhead(member.kind) <= usize::from(hop.mtu);
                if is_whole && !beyond {
                    continue;
                }
                needed = true;
                let made = match rewrite::copy(buffer.begin(), &member, &hop, input, pcp, false) {
                    Ok(()) => fragmenter.admit(now_ns).map(|()| outbox.push(egress, buffer.frame())),
                    Err(DropReason::Oversize) => {
                        let mut each = |frame: &[u8]| outbox.push(egress, frame);
                        fragmenter.copy(buffer.packet(), &member, &hop, (input, pcp), now_ns, &mut each)
                    }
                    // Where the kernel makes copies, this is one that it has counted.
                    Err(_) if !beyond => Ok(()),
                    Err(reason) => Err(reason),
                };
                if let Err(reason) = made {
                    drops[reason as usize] += 1;
                }
            }
            if !needed {
                served.needless.push(number);
            }
            fragmenter.end(buffer.packet(), now_ns);
        }
        drops[DropReason::DeviceRefused as usize] += outbox.flush();
        served
    }

    /// Takes the next message to a source.
    pub(crate) fn poll_too_big(&mut self) -> Option<PacketTooBig> {
        self.fragmenter.poll_too_big()
    }

    /// Adds what was counted here.
    pub(crate) fn count(&self, counters: &mut Counters) {
        counters.fragmented += self.fragmenter.fragmented();
        for (reason, count) in DropReason::ALL.into_iter().zip(self.drops).filter(|(_, count)| *count > 0) {
            *counters.drops.entry(reason).or_default() += count;
        }
    }
}

/// A [`maps::OversizeRecord`].
struct Record<'a> {
    input: InputId,
    beyond: bool,
    packet: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads a record of the ring; `None` if it is not one.
    fn parse(record: &'a [u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*record.get(at..)?.first_chunk()?));
        let (input, len, beyond) = (word(0)?, word(4)?, word(8)?);
        let packet = record.get(PACKET_AT..)?.get(..len as usize)?;
        Some(Self { input: InputId(input), beyond: beyond != 0, packet })
    }
}
