//! The kernel plane: XDP at ingress, devmap broadcast, one shared program for every copy.

mod attach;
mod error;
mod filler;
mod index;
mod keep;
mod kernel;
mod log;
mod member_table;
mod object;
mod open;
mod outer;
mod plane;
mod pool;
mod refused;
mod state;
mod sys;
#[cfg(test)]
mod tests;
mod tunnel_table;

pub use keep::remove_kept;
pub use log::KernelLog;
pub use object::is_embedded;
pub use open::{OnExit, OpenError, Options};
pub use plane::XdpPlane;
