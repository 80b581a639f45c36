//! The same at TC, where a copy is a clone of the packet: for devices that take no frames from XDP.

mod frame;
mod ingress;
mod list;
mod walk;

pub(crate) use ingress::run;
pub(crate) use list::run as run_list;
