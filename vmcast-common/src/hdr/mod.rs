//! Header views, one parser per header, for the kernel program and the host.

pub mod amt;
pub mod eth;
pub mod ipv4;
pub mod udp;
