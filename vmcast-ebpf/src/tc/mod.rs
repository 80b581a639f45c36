//! The same at TC, where a copy is a clone of the packet: for packets that come in by a device without XDP, and
//! for members behind devices that take no frames from XDP.

mod bare;
mod frame;
mod ingress;
mod list;
mod walk;

pub(crate) use bare::run as run_bare;
pub(crate) use ingress::run;
pub(crate) use list::run as run_list;
