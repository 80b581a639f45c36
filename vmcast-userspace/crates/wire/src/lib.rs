//! Codecs of the protocols vmcast speaks, without I/O.
//!
//! Decoders take untrusted bytes: they never panic, never allocate more than the input's own size
//! calls for, and every error names what is wrong and where.

pub mod amt;
pub mod amtrelay;
pub mod igmp;
pub mod ipv4;
pub mod ipv6;
pub mod membership;
pub mod mld;
