//! The far end of packets whose way takes time.

use anyhow::Result;
use aya::{Ebpf, util::nr_cpus};

use super::{
    PerCpu, attach,
    layout::{BUCKETS, DELAYS, PROGRAM_CLOCK, bucket},
    load, take,
};

/// The clock's program; detached when dropped.
pub(crate) struct Clock {
    object: Ebpf,
    delays: PerCpu<u64>,
}

/// How many packets were how long under way.
#[derive(Clone, Debug)]
pub(crate) struct Delays(Vec<u64>);

impl Clock {
    pub(crate) fn load() -> Result<Self> {
        let mut object = load(DELAYS, BUCKETS)?;
        let delays = take(&mut object, DELAYS)?;
        Ok(Self { object, delays })
    }

    /// Attaches to interfaces of the calling thread's namespace.
    pub(crate) fn attach(&mut self, interfaces: impl IntoIterator<Item = u32>) -> Result<()> {
        attach(&mut self.object, PROGRAM_CLOCK, interfaces)
    }

    /// What came since the last call.
    pub(crate) fn take(&mut self) -> Result<Delays> {
        let cpus = nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))?;
        let mut delays = Vec::with_capacity(BUCKETS as usize);
        for bucket in 0..BUCKETS {
            let count: u64 = self.delays.get(&bucket, 0)?.iter().sum();
            if count > 0 {
                self.delays.set(bucket, vec![0; cpus].try_into()?, 0)?;
            }
            delays.push(count);
        }
        Ok(Delays(delays))
    }
}

impl Delays {
    /// Packets.
    pub(crate) fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The time that `percent` of the packets do not exceed, in nanoseconds; `None` without packets.
    pub(crate) fn percentile(&self, percent: f64) -> Option<f64> {
        let wanted = ((percent / 100.0 * self.count() as f64).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(start(found as u32) as f64)
    }
}

/// The least time of a bucket.
fn start(wanted: u32) -> u64 {
    let (mut least, mut most) = (0, 1_u64 << 40);
    while least < most {
        let middle = least.midpoint(most);
        if bucket(middle) < wanted { least = middle + 1 } else { most = middle }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_starts_at_the_least_time_that_it_has() {
        for time in [0, 1, 63, 64, 127, 128, 129, 1_000, 123_456, 999_999_999] {
            let start = start(bucket(time));
            assert!(start <= time && time - start <= time / 64, "{time} is in a bucket from {start} on");
            assert_eq!(bucket(start), bucket(time));
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        for bucket_number in 0..BUCKETS - 1 {
            assert_eq!(bucket(start(bucket_number)), bucket_number);
        }
    }

    #[test]
    fn percentiles_are_read_from_the_counts() {
        let mut counts = vec![0; BUCKETS as usize];
        counts[bucket(50) as usize] = 98;
        counts[bucket(60) as usize] = 2;
        let delays = Delays(counts);
        assert_eq!(delays.percentile(50.0), Some(50.0));
        assert_eq!(delays.percentile(98.0), Some(50.0));
        assert_eq!(delays.percentile(99.0), Some(60.0));
        assert_eq!(Delays(vec![0; 8]).percentile(50.0), None);
    }
}
