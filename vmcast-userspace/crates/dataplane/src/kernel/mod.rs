//! The kernel plane: at XDP a packet is broadcast to a devmap, and one shared program makes every copy; TC makes
//! those for devices that XDP does not do for.

mod attach;
mod chain;
mod converted;
mod device;
mod devmap;
mod dropped;
pub(crate) mod error;
mod filler;
pub(crate) mod index;
mod keep;
mod lease;
pub(crate) mod list;
mod log;
mod mapped;
mod member_table;
pub(crate) mod net_device;
pub(crate) mod object;
pub(crate) mod open;
#[cfg(test)]
mod order_tests;
mod outer;
mod plane;
mod pool;
mod quiet;
mod reassembly;
mod refused;
mod relay;
mod shapes;
mod shared;
mod state;
pub(crate) mod stats;
pub(crate) mod sys;
#[cfg(test)]
mod tests;
mod tunnel_table;
pub(crate) mod writes;

pub use device::Rule;
pub use keep::{Inheritance, remove_kept};
pub use log::KernelLog;
pub(crate) use mapped::Mapped;
pub use object::is_embedded;
pub use open::{OnExit, OpenError, Options, Statistics, try_out};
pub(crate) use open::{chain, whole_load};
pub use plane::KernelPlane;
pub use relay::is_relay_device;
pub(crate) use sys::update_batch;
