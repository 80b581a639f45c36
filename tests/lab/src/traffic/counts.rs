//! Packets and bytes, and the rate between two looks at them.

use std::time::Duration;

use serde::Serialize;

/// Packets and their bytes at layer 3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Bytes, IP header included.
    pub bytes: u64,
}

impl Counts {
    /// Adds a packet.
    pub fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// Turns a growing count into a rate.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    last: Option<(Duration, u64)>,
}

impl Meter {
    /// Bits per second since the last look; zero at the first.
    pub fn bit_rate(&mut self, now: Duration, bytes: u64) -> f64 {
        let before = self.last.replace((now, bytes));
        let Some((then, before)) = before else { return 0.0 };
        let seconds = now.saturating_sub(then).as_secs_f64();
        if seconds > 0.0 { bytes.saturating_sub(before) as f64 * 8.0 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_the_growth_between_two_looks() {
        let mut meter = Meter::default();
        assert_eq!(meter.bit_rate(Duration::from_secs(1), 500), 0.0);
        assert_eq!(meter.bit_rate(Duration::from_secs(3), 1_000_500), 4_000_000.0);
        assert_eq!(meter.bit_rate(Duration::from_secs(3), 1_000_500), 0.0, "no time has passed");
    }
}
