//! The second way to the nearest VMR: by round-trip time, without anything that the requester
//! measures.
//!
//! The admin keeps an average of every VMR's round-trip time ([`Averages`]). On a miss it orders all
//! VMRs that the requester may be given to probe it. Each waits from the order's arrival on, so that
//! all probes leave together ([`Volley`]), and the first that arrives names the nearest
//! ([`Awaiting`]). A requester behind a translator opens the way by a Relay Discovery to each VMR:
//! a VMR probes where that came from, and nobody who has not asked.

mod averages;
mod awaiting;
mod volley;

pub use averages::{Averages, WaitRule};
pub use awaiting::{Arrival, Awaiting, AwaitingConfig, AwaitingOutput};
pub use volley::{Order, Probe, Volley, VolleyCounters};

#[cfg(test)]
mod tests;
