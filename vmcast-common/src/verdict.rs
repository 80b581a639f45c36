//! What became of a packet. One number is the error, the counter index and the metric label.

use crate::{
    forward::Replicate,
    maps::{InputId, StreamKey},
};

/// Why a packet, or one copy of it, was not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum DropReason {
    /// The inner IP header is cut short, lies about its length or has no valid version.
    Malformed = 0,
    /// The inner IPv4 header checksum is wrong.
    BadChecksum = 1,
    /// The time to live is 1 or 0 and may not be lowered (RFC 1812 §5.3.1).
    TtlExpired = 2,
    /// AMT data for one of our endpoints from an address and port with no tunnel.
    UnknownTunnel = 3,
    /// AMT data came up a tunnel whose far end may not send.
    SenderNotAllowed = 4,
    /// The inner packet is no multicast data: its source is no host, its destination no group that is
    /// forwarded, or it is IGMP or PIM.
    NotMulticast = 5,
    /// Nobody joined the group that a tunnel delivered.
    NotJoined = 6,
    /// The packet came from another place than the stream's upstream (RPF, RFC 5110 §2.1).
    WrongInput = 7,
    /// The stream is known and has no member at present.
    NoMember = 8,
    /// One copy: with its encapsulation it is larger than the member's link takes, and it may not be sent in
    /// fragments.
    Oversize = 9,
    /// One copy: the member has left, its slot awaits compaction.
    MemberGone = 10,
    /// One copy: the next hop's link-layer address is not known.
    NextHopUnresolved = 11,
    /// One copy: the per-device order of copies was lost, so nobody is guessed at.
    LostOrder = 12,
    /// The frame could not be resized or redirected by the kernel.
    KernelRefused = 13,
    /// One copy: the egress device refused or lost the frame.
    DeviceRefused = 14,
    /// One copy: native multicast would return to the interface it came in on, whose own listeners
    /// had it from the sender.
    SameInterface = 15,
    /// The tunnel that brought the packet was congested, and its transport knows no congestion marks
    /// (RFC 6040 §4.2).
    Congestion = 16,
    /// One copy: its addresses cannot be changed, because it is not UDP or its UDP header is not whole.
    NotConvertible = 17,
    /// One copy that would have to be sent in fragments, beyond the rate at which that is done; or one packet,
    /// for all its members whose links do not take it whole.
    OversizeLimited = 18,
    /// More came at once than waits for this process: frames of an interface that it taps, whatever they carried, or
    /// packets to a tunnel that came in fragments and were put together by the host; or there was no way for those.
    Overrun = 19,
}

impl DropReason {
    /// Every reason, in the order of its number.
    pub const ALL: [Self; 20] = [
        Self::Malformed,
        Self::BadChecksum,
        Self::TtlExpired,
        Self::UnknownTunnel,
        Self::SenderNotAllowed,
        Self::NotMulticast,
        Self::NotJoined,
        Self::WrongInput,
        Self::NoMember,
        Self::Oversize,
        Self::MemberGone,
        Self::NextHopUnresolved,
        Self::LostOrder,
        Self::KernelRefused,
        Self::DeviceRefused,
        Self::SameInterface,
        Self::Congestion,
        Self::NotConvertible,
        Self::OversizeLimited,
        Self::Overrun,
    ];

    /// The metric label, in snake case.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::BadChecksum => "bad_checksum",
            Self::TtlExpired => "ttl_expired",
            Self::UnknownTunnel => "unknown_tunnel",
            Self::SenderNotAllowed => "sender_not_allowed",
            Self::NotMulticast => "not_multicast",
            Self::NotJoined => "not_joined",
            Self::WrongInput => "wrong_input",
            Self::NoMember => "no_member",
            Self::Oversize => "oversize",
            Self::MemberGone => "member_gone",
            Self::NextHopUnresolved => "next_hop_unresolved",
            Self::LostOrder => "lost_order",
            Self::KernelRefused => "kernel_refused",
            Self::DeviceRefused => "device_refused",
            Self::SameInterface => "same_interface",
            Self::Congestion => "congestion",
            Self::NotConvertible => "not_convertible",
            Self::OversizeLimited => "oversize_limited",
            Self::Overrun => "overrun",
        }
    }

    /// Whether a copy that is dropped for this reason is missing to a member. It is not if the member has left, or had
    /// the packet from its sender.
    #[inline(always)]
    #[must_use]
    pub const fn is_loss_of_member(self) -> bool {
        match self {
            Self::Oversize
            | Self::NextHopUnresolved
            | Self::LostOrder
            | Self::KernelRefused
            | Self::DeviceRefused
            | Self::NotConvertible
            | Self::OversizeLimited => true,
            Self::Malformed
            | Self::BadChecksum
            | Self::TtlExpired
            | Self::UnknownTunnel
            | Self::SenderNotAllowed
            | Self::NotMulticast
            | Self::NotJoined
            | Self::WrongInput
            | Self::NoMember
            | Self::MemberGone
            | Self::SameInterface
            | Self::Congestion
            | Self::Overrun => false,
        }
    }

    /// The index of the reason's counter.
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// Why a whole packet of a known stream may be dropped, in the order of the stream's counters.
    pub const OF_STREAM: [Self; 5] =
        [Self::WrongInput, Self::TtlExpired, Self::NoMember, Self::LostOrder, Self::KernelRefused];

    /// The place of the reason's counter among those of a stream.
    #[inline(always)]
    #[must_use]
    pub const fn index_in_stream(self) -> usize {
        match self {
            Self::WrongInput => 0,
            Self::TtlExpired => 1,
            Self::NoMember => 2,
            Self::LostOrder => 3,
            _ => 4,
        }
    }

    /// Why a copy may be missing to a member, in the order of the counters of [`crate::maps::Losses`]: those of which
    /// [`DropReason::is_loss_of_member`] holds.
    pub const OF_MEMBER: [Self; 7] = [
        Self::Oversize,
        Self::NextHopUnresolved,
        Self::LostOrder,
        Self::KernelRefused,
        Self::DeviceRefused,
        Self::NotConvertible,
        Self::OversizeLimited,
    ];

    /// The place of the reason's counter among those of the copies that a stream's members miss.
    #[inline(always)]
    #[must_use]
    pub const fn index_in_losses(self) -> usize {
        match self {
            Self::Oversize => 0,
            Self::NextHopUnresolved => 1,
            Self::LostOrder => 2,
            Self::DeviceRefused => 4,
            Self::NotConvertible => 5,
            Self::OversizeLimited => 6,
            _ => 3,
        }
    }
}

/// Why the controller is told of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum PuntReason {
    /// A native packet of a group with no entry at all; it was passed on untouched.
    UnknownGroup = 0,
    /// A packet of a source that its group's (*,G) entry served and that has no entry of its own.
    NewSource = 1,
    /// A packet of a known stream came from another place than its upstream.
    WrongInput = 2,
}

impl PuntReason {
    /// Reads the number back, `None` if no reason has it.
    #[must_use]
    pub const fn from_index(index: u32) -> Option<Self> {
        match index {
            0 => Some(Self::UnknownGroup),
            1 => Some(Self::NewSource),
            2 => Some(Self::WrongInput),
            _ => None,
        }
    }
}

/// A packet that is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why; its counter is raised.
    pub reason: DropReason,
    /// Index of the counters of the stream it belongs to, 0 if it belongs to none.
    pub stats: u32,
    /// Where it came from.
    pub input: InputId,
    /// Its (S,G), [`StreamKey::NONE`] if its inside was not looked at.
    pub stream: StreamKey,
    /// Whether it came natively: then the host gets it untouched, else it ends here.
    pub native: bool,
    /// See [`Replicate::xdp_first`].
    pub xdp_first: bool,
}

/// What to do with a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Not ours: hand it to the host untouched.
    Pass,
    /// Hand it to the host untouched and tell the controller.
    PassAndPunt(PuntReason, InputId, StreamKey),
    /// Do not forward; count, and tell the controller of a wrong input.
    Refuse(Refusal),
    /// Make a copy for every member of the stream.
    Replicate(Replicate),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_without_gap() {
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index() as usize, index, "{}", reason.label());
        }
    }

    #[test]
    fn a_stream_has_a_counter_for_each_of_its_reasons() {
        for (index, reason) in DropReason::OF_STREAM.into_iter().enumerate() {
            assert_eq!(reason.index_in_stream(), index, "{}", reason.label());
        }
    }

    #[test]
    fn each_loss_of_a_member_has_a_counter() {
        let losses = DropReason::ALL.into_iter().filter(|reason| reason.is_loss_of_member());
        assert!(losses.eq(DropReason::OF_MEMBER), "in the order of their numbers");
        for (index, reason) in DropReason::OF_MEMBER.into_iter().enumerate() {
            assert_eq!(reason.index_in_losses(), index, "{}", reason.label());
        }
    }
}
