//! The multicast routing information base: memberships come in; the streams that the data plane
//! forwards and the interest that upstreams are told of come out.
//!
//! The merge of members is that of RFC 9776 §3.2, the proxying that of RFC 4605 §4.
//!
//! # Streams of a group
//! - (*,G) exists while a member is in EXCLUDE mode; its members are those in EXCLUDE mode.
//! - (S,G) exists for each S that a member's list names, included or excluded; its members are
//!   those whose filter wants S. It has none where S is excluded by all: (*,G) must not serve S.
//! - (S,G) may exist for a live S that no list names; it shares the members of (*,G) and gives S
//!   its own counters and RPF check. It goes when S is silent.
//! - (*,G) takes nothing while more sources may not send than there is room to refuse by an (S,G)
//!   each: then only an S that has its (S,G) is forwarded.
//!
//! # Order of operations
//! After each operation, every member that wants a source before and after the input gets it, and
//! nobody gets it who wants it neither before nor after. One changed filter yields, in this order:
//! 1. (S,G) of sources that are named for the first time. Where (*,G) served S, the entry begins
//!    with [`Members::OfAnySource`], is given its own members, and turns to [`Members::Own`] in one
//!    step; so a plane keeps own members while they are not in force.
//! 2. The member's place in (S,G) that stay or go.
//! 3. The member's place in (*,G), which is made before its first member.
//! 4. Removal of (S,G) that no list names any more: (*,G) serves S again, already as it shall.
//! 5. If nobody is left in EXCLUDE mode: removal of (S,G) that shared (*,G), then of (*,G).
//! 6. [`Output::Interest`].
//!
//! [`Event::MembershipChanged`] goes before all of them.
//!
//! # What is stated
//! An operator may state a membership ([`Input::Stated`]) and from where a group or a source of it comes
//! ([`Input::StatedInput`]). A member that both states and reports gets what either wants, each packet once.
//!
//! # A network above
//! Where a proxy has one ([`Input::SetUpstreamInterface`]), sources that send below are forwarded there whoever has
//! joined (RFC 4605 §4.2): the interface is a member of each (S,G) that is heard below, by [`Input::NewSource`], or
//! that a list names and that is on-link below. It goes when S is silent. Such a membership is no interest: nobody is
//! asked for what comes from below. Sources that are neither on-link nor heard below are accepted from above alone.
//!
//! # Room
//! There are at most [`Config::streams`] streams, and whoever makes many leaves room to those who make few: see
//! [`Account`]. A membership whose streams there is no room for waits: the member gets what of it needs no new
//! stream, and all of it when enough streams have ended. Then those who wait are looked at, some of each account in turn.
//!
//! A change of upstreams yields one [`FibOp::SetStream`] for each (S,G) whose RPF differs, and
//! leaves the members alone.
//!
//! [`Members::OfAnySource`]: vmcast_common::fib::Members::OfAnySource
//! [`Members::Own`]: vmcast_common::fib::Members::Own
//! [`FibOp::SetStream`]: vmcast_common::fib::FibOp::SetStream

mod below;
mod config;
mod group;
mod groups;
mod info;
mod input;
mod list;
mod machine;
mod output;
mod routes;
mod shares;
mod stated;
mod timer;
mod waiting;

#[cfg(test)]
mod tests;

pub use config::Config;
pub use info::{Counters, GroupInfo, MemberInfo, StreamInfo};
pub use input::Input;
pub use machine::Mrib;
pub use output::{Event, Output};
pub(crate) use routes::covers;
pub use shares::Account;
