//! The kernel plane for every device: at TC ingress, a clone of the packet for each member.
//!
//! A stream's members are one list, which the kernel program walks with every packet. Changes of a list
//! are single writes of one member or of the stream's entry, so a walk meets each member that stays once.

mod attach;
mod grace;
mod list;
mod open;
mod plane;
mod state;

pub use plane::TcPlane;
