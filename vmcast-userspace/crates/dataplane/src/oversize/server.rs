//! The kernel planes' other half: packets that their programs hand over, and the copies made of them.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use vmcast_common::{
    fib::{IfIndex, Output, Priority, Stream},
    hdr::ip,
    maps::{self, DroppedCopies, InputId, Losses},
    rewrite,
    verdict::DropReason,
};

use super::{Fragmenter, Limits, PacketTooBig};
use crate::{
    clock::now_ns,
    copy_buffer::{Copied, CopyBuffer},
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
    /// The number of the stream whose members a stream's packets go to, the priority of the packets, and the members with
    /// whether they are served at XDP; `None` if there is no such stream.
    fn members(&self, stream: &Stream) -> Option<(u32, Priority, impl Iterator<Item = (Output, bool)>)>;

    /// Largest IP packet that the kernel broadcasts to a device at XDP: it leaves the device out of one of larger packets
    /// before any program sees the copy.
    fn broadcast_max(&self, device: IfIndex) -> usize;
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
    /// What is to be added to the kernel's count of what members of a stream have missed: less for copies that were
    /// made here, more for those that nobody made. Modulo 2^64.
    missed: HashMap<(u32, Output), DroppedCopies>,
    /// Copies that were not made here, by the number of their stream.
    losses: HashMap<u32, Losses>,
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
            missed: HashMap::new(),
            losses: HashMap::new(),
        })
    }

    /// Readable while packets wait.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Makes and sends the copies of some of the packets that wait, for the members whose links do not take them
    /// whole; the others have theirs from the kernel, unless it makes none.
    pub(crate) fn serve(&mut self, plane: &impl Streams) -> Served {
        let Self { ring, fragmenter, buffer, outbox, drops, missed, losses } = self;
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
            let Some((number, priority, members)) =
                plane.members(&of_source).or_else(|| plane.members(&of_any))
            else {
                continue;
            };
            let now_ns = now_ns();
            let (pcp, waits) = (priority.pcp, priority.skb_priority.unwrap_or(0));
            let mut needed = beyond;
            let one = DroppedCopies { packets: 1, bytes: view.total_len as u64 };
            let mut note = |output, copies: DroppedCopies| {
                let noted = missed.entry((number, output)).or_default();
                *noted = noted.plus(&copies);
            };
            for (output, at_xdp) in members {
                let Way { egress, member, hop } = match plane.way(output) {
                    Ok(way) => way,
                    Err(reason) => {
                        if beyond {
                            drops[reason as usize] += 1;
                            note(output, one);
                            if reason.is_loss_of_member() {
                                losses.entry(number).or_default().count(reason, 1);
                            }
                        }
                        continue;
                    }
                };
                let is_whole = view.total_len + rewrite::overhead(member.kind) <= usize::from(hop.mtu);
                if is_whole && !beyond {
                    continue;
                }
                needed = true;
                // Nobody but us knows of this copy.
                let unseen = beyond || at_xdp && view.total_len > plane.broadcast_max(egress);
                let made = match rewrite::copy(buffer.begin(), &member, &hop, input, pcp, false) {
                    Ok(()) => fragmenter
                        .admit(now_ns)
                        .map(|()| outbox.push(egress, Copied::alone(buffer.frame()), waits)),
                    Err(DropReason::Oversize) => {
                        let mut each = |frame: &[u8]| outbox.push(egress, Copied::alone(frame), waits);
                        fragmenter.copy(buffer.packet(), &member, &hop, (input, pcp), now_ns, &mut each)
                    }
                    // Where the kernel makes copies, this is one that it has counted.
                    Err(_) if !unseen => continue,
                    Err(reason) => Err(reason),
                };
                match made {
                    Ok(()) if unseen => {}
                    // The kernel has counted that it did not make it.
                    Ok(()) => note(output, DroppedCopies::default().minus(&one)),
                    Err(reason) => {
                        drops[reason as usize] += 1;
                        if reason.is_loss_of_member() {
                            losses.entry(number).or_default().count(reason, 1);
                            if unseen {
                                note(output, one);
                            }
                        }
                    }
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

    /// What a member of a stream has missed in all, of what it has missed by the kernel's count.
    pub(crate) fn settle(&self, number: u32, output: Output, kernel: DroppedCopies) -> DroppedCopies {
        let Some(noted) = self.missed.get(&(number, output)) else {
            return kernel;
        };
        let all = kernel.plus(noted);
        // A copy may be made here before the kernel has come to it.
        if all.packets.cast_signed() <= 0 { DroppedCopies::default() } else { all }
    }

    /// Members that more was made for than they have missed otherwise, with the numbers of their streams.
    pub(crate) fn credited(&self) -> Vec<(u32, Output)> {
        let credited = self.missed.iter().filter(|(_, noted)| noted.packets.cast_signed() < 0);
        credited.map(|(member, _)| *member).collect()
    }

    /// Takes no more off what the kernel counts for a member than it has counted: what it had no room to count must not
    /// hide what the member misses later.
    pub(crate) fn bound_credit(&mut self, number: u32, output: Output, kernel: DroppedCopies) {
        let Some(noted) = self.missed.get_mut(&(number, output)) else {
            return;
        };
        if kernel.plus(noted).packets.cast_signed() < 0 {
            *noted = DroppedCopies::default().minus(&kernel);
        }
    }

    /// Forgets what a member of a stream has missed.
    pub(crate) fn forget_member(&mut self, number: u32, output: Output) {
        self.missed.remove(&(number, output));
    }

    /// Forgets what members of a stream have missed.
    pub(crate) fn forget_stream(&mut self, number: u32) {
        self.losses.remove(&number);
    }

    /// Adds what was counted here. `number_of` is that of a stream.
    pub(crate) fn count(&self, counters: &mut Counters, number_of: impl Fn(Stream) -> Option<u32>) {
        if !self.losses.is_empty() {
            for entry in &mut counters.streams {
                if let Some(losses) = number_of(entry.stream).and_then(|number| self.losses.get(&number)) {
                    entry.losses = entry.losses.plus(losses);
                }
            }
        }
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
