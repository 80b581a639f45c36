//! What the machine reacts to.

use std::net::IpAddr;

use vmcast_common::fib::{self, IfIndex, Rpf, Stream, TunnelId};

use super::shares::Account;
use crate::Filter;

/// An input of [`super::Mrib`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A member's filter of a group is now this one; [`Filter::none`] leaves the group.
    Membership {
        /// Who receives.
        member: fib::Output,
        /// The group.
        group: IpAddr,
        /// What it wants of the group; replaces what it wanted.
        filter: Filter,
        /// On whose account the streams are that come of it; `None` if on nobody's, or if it leaves.
        account: Option<Account>,
    },
    /// A member's filter of a group is stated to be this one, beside the one it reports; [`Filter::none`]
    /// ends the statement.
    Stated {
        /// Who receives.
        member: fib::Output,
        /// The group.
        group: IpAddr,
        /// What is stated; replaces what was stated.
        filter: Filter,
    },
    /// Packets of a stream are accepted from here, or from where routes say again. Without a source it holds
    /// for all sources that nothing is stated of.
    StatedInput {
        /// The stream.
        stream: Stream,
        /// From where they are accepted.
        rpf: Option<Rpf>,
    },
    /// Packets of an (S,G) are accepted from nowhere, or from where they were again.
    Refuse {
        /// The (S,G).
        stream: Stream,
        /// Whether they are refused.
        refused: bool,
    },
    /// What may send is another thing from here on, and all that was known has been judged: groups that were closed to
    /// sources without an (S,G) take them again, if those that may not send can be refused.
    Reopen,
    /// An interface or tunnel vanished; it leaves every group. Every group is looked at: whoever knows
    /// the few groups of a member states them as [`Input::Membership`] instead.
    MemberGone {
        /// Who received.
        member: fib::Output,
    },
    /// Sources that are not on-link are reached through this tunnel, or through none.
    SetUpstream(Option<TunnelId>),
    /// Packets of an (S,G) that is not on-link come by this tunnel, or as those of other sources do. What is stated
    /// goes before it.
    SourceTunnel {
        /// The (S,G).
        stream: Stream,
        /// The tunnel.
        tunnel: Option<TunnelId>,
    },
    /// An interface appeared or changed.
    SetInterface {
        /// The interface.
        ifindex: IfIndex,
        /// Its addresses with their prefix lengths in bits.
        on_link: Vec<(IpAddr, u8)>,
        /// Whether sources on its link may send.
        accepts_sources: bool,
    },
    /// An interface vanished; its membership ends by [`Input::MemberGone`].
    RemoveInterface {
        /// The interface.
        ifindex: IfIndex,
    },
    /// This interface leads to the network above, and the others to networks below (RFC 4605 §1.2); or there is none.
    SetUpstreamInterface(Option<IfIndex>),
    /// The data plane saw a packet that (*,G) served and that has no (S,G); or one that goes up, see
    /// [`super::Mrib::goes_up`].
    NewSource {
        /// The (S,G) of the packet.
        stream: Stream,
        /// Where it came from.
        input: fib::Input,
    },
    /// The data plane's counter of a stream; any other value than the one before is activity.
    StreamActive {
        /// The stream.
        stream: Stream,
        /// Packets forwarded since the stream was set: the running total, not a difference.
        packets: u64,
    },
}
