//! vmcast: IP multicast for networks that do not carry it.

fn main() {}
