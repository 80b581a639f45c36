//! Hop count by the arithmetic of the time to live.

/// The time to live a packet set out with: systems start at 32, 64, 128 or 255, and few paths are
/// longer than 32 routers, so it is the smallest of these that is not below what arrived.
#[must_use]
pub const fn initial_ttl(received: u8) -> u8 {
    match received {
        0..=32 => 32,
        33..=64 => 64,
        65..=128 => 128,
        129..=255 => 255,
    }
}

/// Routers a packet passed that arrived with a time to live (IPv4) or hop limit (IPv6) of
/// `received`; 0 on one link.
#[must_use]
pub const fn hops(received: u8) -> u8 {
    initial_ttl(received) - received
}
