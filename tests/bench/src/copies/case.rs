//! What is to be copied to whom.

use std::time::Duration;

/// One combination of everything that a figure depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub(crate) output: Output,
    /// Members of each group.
    pub(crate) members: usize,
    /// Groups that take turns; a power of two.
    pub(crate) groups: u32,
    /// Bytes of UDP payload in a packet.
    pub(crate) payload: usize,
}

/// What is sent to members of [`Output::UnicastV6`].
pub(crate) const OVER_IPV6: &str = "AMT, IPv6 over IPv6";

/// What a copy looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Output {
    /// For one member alone: in a tunnel, or to its link-layer address.
    Unicast,
    /// The same with IPv6 groups in tunnels over IPv6.
    UnicastV6,
    /// As it came, on an interface of its own.
    Native,
}

impl Output {
    /// Its name in results.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Unicast | Self::UnicastV6 => "unicast",
            Self::Native => "native",
        }
    }
}

/// Most frames between two turns of the softirqs, as a driver's poll has it (`NAPI_POLL_WEIGHT`).
const MAX_BATCH: usize = 64;
/// Most copies between two turns, if a packet has less: as many as the caches and the page allocator's
/// lists of one core hold, as when packets arrive a few at a time. The softirqs would take about 3,000
/// (ten times `netdev_budget`) before they hand the rest to a thread.
const COPIES_PER_BATCH: usize = 256;
/// Copies of a batch that one egress device gets: its ring of 256 places takes three batches, as the
/// softirqs that empty it may be late.
const COPIES_PER_DEVICE: usize = 80;
/// Egress devices at least.
const LEAST_DEVICES: usize = 4;
/// Copies of one call for each microsecond of a round, about what an engine makes: setting a call up makes the
/// kernel wait for some 20 ms, on a busy machine for much longer.
const COPIES_PER_MICROSECOND: usize = 2;
/// Copies of a call that only shows whether everybody gets everything.
const FEW_COPIES: usize = 20_000;
/// Packets of a call, whatever the fan-out.
const LEAST_PACKETS: usize = 20;
/// Calls of a round at most where each has one packet, if there are no more groups than that.
const MOST_CALLS: usize = 50;

impl Case {
    /// Packets between two turns of the softirqs.
    pub(super) fn batch(&self) -> usize {
        (COPIES_PER_BATCH / self.members).clamp(1, MAX_BATCH)
    }

    /// Whether the next packet is put in when all copies of the one before are made: a packet has more copies
    /// than a turn of the softirqs, and were packets always there, as many would be on their way at a time as
    /// the largest group has member tables. A stream that a core can serve leaves that time between two.
    pub(super) const fn one_at_a_time(&self) -> bool {
        self.members > COPIES_PER_BATCH
    }

    /// Egress devices that the members are spread over.
    pub(crate) fn devices(&self) -> usize {
        match self.output {
            Output::Unicast | Output::UnicastV6 => {
                (self.batch() * self.members).div_ceil(COPIES_PER_DEVICE).max(LEAST_DEVICES)
            }
            Output::Native => self.members,
        }
    }

    /// Packets of one call in a round of this length, `most` of them at most; without a length a few.
    pub(super) fn packets(&self, round: Duration, most: usize) -> u32 {
        let copies = (COPIES_PER_MICROSECOND * round.as_micros() as usize).max(FEW_COPIES);
        let most = if self.one_at_a_time() { most.min(MOST_CALLS) } else { most };
        // Every group has its turn.
        ((copies / self.members).clamp(LEAST_PACKETS, most) as u32).max(self.groups)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_batch_of_copies_fills_the_ring_of_a_device() {
        for members in [1, 3, 8, 64, 65, 256, 257, 1_000, 10_000] {
            let case = Case { output: Output::Unicast, members, groups: 1, payload: 64 };
            assert!(
                (case.batch() * members).div_ceil(case.devices()) <= COPIES_PER_DEVICE,
                "{members} members"
            );
            assert!(case.devices() <= 128, "{members} members need {} devices", case.devices());
        }
    }

    #[test]
    fn a_call_is_about_as_long_as_the_round() {
        let packets = |members, groups, milliseconds| {
            let case = Case { output: Output::Unicast, members, groups, payload: 64 };
            case.packets(Duration::from_millis(milliseconds), 65_536)
        };
        assert_eq!(packets(64, 1, 250), 7_812);
        assert_eq!(packets(1, 1, 250), 65_536);
        assert_eq!((packets(10_000, 1, 250), packets(1_000, 1, 250)), (50, 50));
        assert_eq!((packets(64, 1, 0), packets(10_000, 1, 0)), (312, 20));
        assert_eq!(packets(16, 4_096, 0), 4_096);
    }
}
