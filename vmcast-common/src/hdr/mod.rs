//! Header views, one parser per header, for the kernel program and the host.

pub mod amt;
pub mod ecn;
pub mod eth;
pub mod gre;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod link;
pub mod udp;
