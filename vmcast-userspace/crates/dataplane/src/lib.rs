//! The data plane: what forwards, behind one trait, whether the kernel does it or this process.

mod capacity;
mod carried;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod conversions;
mod endpoints;
pub mod features;
mod plane;
pub mod probe;
pub mod recording;
pub mod software;
mod tc;
pub mod xdp;

pub use capacity::Capacities;
pub use plane::{
    ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, FibStream, Hook, Punt, RefreshError,
    ReleaseError, StatsError, StreamStats,
};
