//! Recordings: what a machine was told, when, and what it did, as text that a test replays.
//!
//! A daemon writes one while it runs, so that a fault in the field becomes a case among those in `tests/cases`, which
//! have the same form. One line is one input, `TIME WORDS`, with the seconds since the machine was made; the indented
//! lines below it are what came out:
//!
//! ```text
//! machine querier
//! clock real
//! config address 192.0.2.1
//! 0 start
//!   send 192.0.2.1 > 224.0.0.1 1164ec1e00000000027d0000
//! 3.25 datagram 192.0.2.100 > 224.0.0.22 ttl 1 alert 2200ea0e0000000104000000ef010103
//!   membership 239.1.1.3 exclude{}
//! 31.25 wake
//!   send 192.0.2.1 > 224.0.0.1 1164ec1e00000000027d0000
//! ```
//!
//! `clock real` says that timers were served when the daemon came to it, `clock exact` that they were when due. No
//! secret is in it: a Response MAC stands as `mac N`, the Nth that the relay made, with zeros in its place, and seeds
//! are left out. It does hold addresses of hosts, groups and sources.

mod querier;
mod recorder;
mod relay;
mod words;

pub use recorder::{Budget, Recorded, Recording};
pub use words::{filter, hex, seconds};
