//! Automatic Multicast Tunneling (RFC 7450): the relay that sends streams down, the gateway that
//! asks for them.

mod counters;
pub mod discovery;
mod encapsulated;
pub mod gateway;
pub mod relay;
mod silence;

pub use discovery::Discovery;
pub use gateway::Gateway;
pub use relay::Relay;
pub use silence::Silence;
