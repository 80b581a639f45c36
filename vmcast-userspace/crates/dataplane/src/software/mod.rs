//! The software plane: the decision and the rewrite of the kernel program, run by this process where
//! there is no BPF, and as the reference that the kernel program is compared with.

mod apply;
mod arrived;
mod core;
mod limits;
mod offload;
pub(crate) mod outbox;
mod plane;
mod punts;
mod socket;
mod tables;
#[cfg(test)]
mod tests;

pub use self::{
    core::{Core, Disposition},
    limits::Limits,
    plane::Plane,
};
pub(crate) use socket::set_option_of;
