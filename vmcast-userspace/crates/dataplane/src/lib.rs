//! The data plane: what forwards, behind one trait, whether the kernel does it or this process.

mod plane;

pub use plane::{ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, FibStream, Punt, StatsError, StreamStats};
