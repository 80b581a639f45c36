//! The same at TC, where a copy is a clone of the packet: for devices that take no frames from XDP.

mod frame;
mod ingress;
mod walk;

pub(crate) use ingress::run;
