//! The trait that every plane implements.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    os::fd::BorrowedFd,
};

use vmcast_common::{
    fib::{
        Conversion, ConversionId, FibOp, IfIndex, Input, Interface, Members, NextHop, NextHopId, Output,
        Priority, Rpf, Stream, Tunnel, TunnelId,
    },
    maps::{DroppedCopies, Losses, StreamCounters},
    verdict::{DropReason, PuntReason},
};

use crate::{capacity::setting, oversize::PacketTooBig};

/// Forwards what its desired state says.
pub trait Dataplane: Send {
    /// Applies changes in order; each is idempotent, so a caller may repeat the lot after an error.
    ///
    /// # Errors
    /// The first operation that could not be applied; those before it stand.
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError>;

    /// Applies one change of several that follow one another. What none of the others needs to be in the kernel may wait
    /// until [`Dataplane::end_turn`], for one call instead of many.
    ///
    /// # Errors
    /// If it could not be applied.
    fn apply_in_turn(&mut self, op: &FibOp) -> Result<(), ApplyError> {
        self.apply(std::slice::from_ref(op))
    }

    /// Puts in force what waits since [`Dataplane::apply_in_turn`]. Returns the changes that could not be, of which
    /// nothing stands.
    fn end_turn(&mut self) -> Vec<ApplyError> {
        Vec::new()
    }

    /// Starts to forward where a plane of an earlier process forwards on until now. Call it once, when
    /// the desired state is complete; a plane that found nothing of the kind forwards already.
    ///
    /// # Errors
    /// If an interface cannot be taken over.
    fn release(&mut self) -> Result<(), ReleaseError> {
        Ok(())
    }

    /// Looks again at what the devices can, which may change while they are there: copies for one that takes
    /// them no longer as they are made go another way from now on.
    ///
    /// # Errors
    /// If the kernel does not take a change; what was in force stays.
    fn refresh(&mut self) -> Result<(), RefreshError> {
        Ok(())
    }

    /// Reads back what is in force, for reconciling after a restart.
    ///
    /// # Errors
    /// If the kernel's tables cannot be read.
    fn dump(&self) -> Result<Fib, DumpError>;

    /// Takes the next packet that the controller should hear of.
    fn poll_punt(&mut self) -> Option<Punt>;

    /// A descriptor that can be read while packets wait for [`Dataplane::serve_waiting`]; `None` if none ever do.
    fn waiting(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Does what the kernel leaves to this process: makes and sends the copies that a member's link does not take whole,
    /// and takes in packets to tunnels that the host has put together out of fragments. Some of those that wait, so that
    /// time remains for everything else. Returns whether more wait.
    fn serve_waiting(&mut self) -> bool {
        false
    }

    /// Takes the next message to a source whose packets are larger than a member's link takes.
    fn poll_too_big(&mut self) -> Option<PacketTooBig>;

    /// Reads the counters since the plane was made.
    ///
    /// # Errors
    /// If the kernel's tables cannot be read.
    fn counters(&self) -> Result<Counters, StatsError>;

    /// Reads the counters of one stream as they are now; `None` if it is not in force.
    ///
    /// # Errors
    /// As [`Dataplane::counters`].
    fn stream_counters(&self, stream: Stream) -> Result<Option<StreamCounters>, StatsError>;

    /// The same as it was at some time in this turn: a plane may read many streams at once when several are asked for
    /// between two calls of [`Dataplane::end_turn`].
    ///
    /// # Errors
    /// As [`Dataplane::counters`].
    fn stream_counters_in_turn(&self, stream: Stream) -> Result<Option<StreamCounters>, StatsError> {
        self.stream_counters(stream)
    }

    /// What members of a stream, or one of them, have missed since each became one: copies that were dropped for it
    /// alone, though the stream counted the packet. Members that missed nothing are left out, and so is what a device
    /// does not say whose copies it lost.
    ///
    /// # Errors
    /// As [`Dataplane::counters`].
    fn dropped_copies(
        &self,
        stream: Stream,
        member: Option<Output>,
    ) -> Result<Vec<(Output, DroppedCopies)>, StatsError>;

    /// The engine that replicates, and why this one; shown to the operator.
    fn engine(&self) -> EngineInfo;

    /// Where the frames of a device are taken; `None` if they are not looked at.
    fn hook(&self, device: IfIndex) -> Option<Hook>;

    /// Where packets to a group are taken that come in natively on an interface, and why elsewhere than those of others if
    /// they are; `None` if they are not looked at.
    fn intake(&self, interface: &Interface, group: IpAddr) -> Option<(Hook, Option<&'static str>)> {
        let _ = group;
        self.hook(interface.device).map(|hook| (hook, None))
    }

    /// What makes the copies that leave by a device, and why; `None` if no interface is on it.
    fn egress(&self, device: IfIndex) -> Option<EngineInfo> {
        self.hook(device).map(|_| self.engine())
    }
}

/// The forwarding information base in force.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fib {
    /// Interfaces that are looked at.
    pub interfaces: BTreeMap<IfIndex, Interface>,
    /// Groups that are shared with listeners on this host, and the interfaces on which they listen.
    pub shared_groups: BTreeSet<(IfIndex, IpAddr)>,
    /// Our tunnel endpoints.
    pub endpoints: BTreeSet<SocketAddr>,
    /// Endpoints where streams come in by unicast, and the groups to which they go on.
    pub unicast_inputs: BTreeMap<SocketAddr, SocketAddr>,
    /// Next hops.
    pub next_hops: BTreeMap<NextHopId, NextHop>,
    /// Tunnels.
    pub tunnels: BTreeMap<TunnelId, Tunnel>,
    /// Conversions.
    pub conversions: BTreeMap<ConversionId, Conversion>,
    /// Streams with their own members.
    pub streams: BTreeMap<Stream, FibStream>,
}

/// A stream in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibStream {
    /// From where its packets are accepted.
    pub rpf: Rpf,
    /// Whose members they go to.
    pub members: Members,
    /// What they are marked with.
    pub priority: Priority,
    /// Its own members.
    pub outputs: BTreeSet<Output>,
}

/// A packet that the controller hears of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Punt {
    /// Why.
    pub reason: PuntReason,
    /// Where the packet came from.
    pub input: Input,
    /// Its (S,G).
    pub stream: Stream,
}

/// Counters of one stream, summed over the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamStats {
    /// The stream.
    pub stream: Stream,
    /// Its counters.
    pub counters: StreamCounters,
    /// Copies that its members missed, those of members that have left too. What its packets' members are told by is
    /// the entry that has them: (*,G) for a stream of [`vmcast_common::fib::Members::OfAnySource`]. A copy that a device
    /// refused after a program of XDP had let it go is among those of no stream.
    pub losses: Losses,
}

/// Counters of the whole plane, summed over the CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets, and copies where the reason speaks of one copy, by drop reason.
    pub drops: BTreeMap<DropReason, u64>,
    /// Copies that were sent in fragments.
    pub fragmented: u64,
    /// Packets to tunnels that came in fragments and were taken in when the host had put them together.
    pub reassembled: u64,
    /// How often a member waited for the kernel when it joined, as the tables that are made in advance were used up.
    pub waits_for_tables: u64,
    /// Every stream in force.
    pub streams: Vec<StreamStats>,
}

/// What replicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// XDP at ingress, devmap broadcast, one shared program rewriting each copy.
    XdpBroadcast,
    /// TC, a clone of the packet for every member.
    TcClone,
    /// XDP for some devices and TC for the others.
    Mixed,
    /// This process, over packet sockets.
    Software,
    /// Nothing: operations are only recorded.
    Recording,
}

impl Engine {
    /// The name that commands and metrics show.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::XdpBroadcast => "xdp-broadcast",
            Self::TcClone => "tc-clone",
            Self::Mixed => "xdp-broadcast+tc-clone",
            Self::Software => "software",
            Self::Recording => "recording",
        }
    }
}

/// Where a plane takes the frames of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP in the device's driver.
    Xdp,
    /// TC, before the host's stack.
    Tc,
    /// A packet socket.
    PacketSocket,
    /// Nowhere: operations are only recorded.
    Recording,
}

impl Hook {
    /// The name that commands show.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::PacketSocket => "packet-socket",
            Self::Recording => "recording",
        }
    }
}

/// The engine in use, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineInfo {
    /// The engine.
    pub engine: Engine,
    /// Why it was chosen, as a sentence for the operator.
    pub reason: String,
}

/// Why an operation could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The operation names something that was never set.
    #[error("{op:?} refers to something that is not in the forwarding base")]
    Unknown {
        /// The operation.
        op: FibOp,
    },
    /// A table is full.
    #[error("{table} is full at {limit} entries{}; {op:?} was refused", setting(table))]
    Full {
        /// The table's name.
        table: &'static str,
        /// Its capacity.
        limit: u32,
        /// The operation.
        op: FibOp,
    },
    /// What this plane does not carry.
    #[error("{op:?} is not supported by the {engine} engine: {why}")]
    Unsupported {
        /// The operation.
        op: FibOp,
        /// The engine's label.
        engine: &'static str,
        /// What is missing.
        why: &'static str,
    },
    /// The kernel refused a change.
    #[error("the kernel refused {what} for {op:?}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The operation.
        op: FibOp,
        /// The kernel's answer.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ApplyError {
    /// Why, without the operation.
    #[must_use]
    pub fn reason(&self) -> String {
        match self {
            Self::Unknown { .. } => "it refers to something that is not in the forwarding base".to_owned(),
            Self::Full { table, limit, .. } => {
                format!("{table} is full at {limit} entries{}", setting(table))
            }
            Self::Unsupported { engine, why, .. } => {
                format!("it is not supported by the {engine} engine: {why}")
            }
            Self::Kernel { what, source, .. } => format!("the kernel refused {what}: {source}"),
        }
    }
}

/// An interface could not be taken over from an earlier process.
#[derive(Debug, thiserror::Error)]
#[error("taking over from the process before this one: {source}")]
pub struct ReleaseError {
    /// The kernel's answer.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// Devices could not be served by what they can now.
#[derive(Debug, thiserror::Error)]
#[error("serving devices that have changed: {source}")]
pub struct RefreshError {
    /// What was refused.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The kernel's tables could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading {table}: {source}")]
pub struct DumpError {
    /// The table's name.
    pub table: &'static str,
    /// The kernel's answer.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The kernel's counters could not be read.
#[derive(Debug, thiserror::Error)]
#[error("reading {table}: {source}")]
pub struct StatsError {
    /// The table's name.
    pub table: &'static str,
    /// The kernel's answer.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}
