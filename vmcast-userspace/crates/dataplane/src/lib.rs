//! The data plane: what forwards, behind one trait, whether the kernel does it or this process.

mod bare;
mod capacity;
mod carried;
pub mod clock;
#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod conversions;
mod copy_buffer;
pub mod device;
mod endpoints;
pub mod features;
pub mod kernel;
mod numbered;
pub mod oversize;
mod plane;
pub mod probe;
mod reassembled;
pub mod recording;
pub mod shares;
pub mod software;
mod ways;

pub use capacity::Capacities;
pub use copy_buffer::Copied;
pub use oversize::PacketTooBig;
pub use plane::{
    ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, FibStream, Hook, Punt, RefreshError,
    ReleaseError, StatsError, StreamStats,
};
