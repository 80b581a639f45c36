//! The data plane: what forwards, behind one trait, whether the kernel does it or this process.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod carried;
mod plane;
pub mod xdp;
pub mod software;
pub mod recording;

pub use plane::{ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, FibStream, Punt, StatsError, StreamStats};
