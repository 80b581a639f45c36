//! The continuity counters of an MPEG transport stream (ISO/IEC 13818-1 §2.4.3.3).

use std::collections::BTreeMap;

const PACKET: usize = 188;
const SYNC: u8 = 0x47;
const NULL_PID: u16 = 0x1fff;

/// Follows the continuity counter of every PID.
#[derive(Clone, Debug, Default)]
pub struct Continuity {
    last: BTreeMap<u16, Last>,
    errors: u64,
    malformed: u64,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    counter: u8,
    repeated: bool,
}

impl Continuity {
    /// Looks at a datagram of whole transport packets.
    pub fn push(&mut self, payload: &[u8]) {
        let packets = payload.chunks_exact(PACKET);
        if !packets.remainder().is_empty() {
            self.malformed += 1;
        }
        for packet in packets {
            if packet[0] == SYNC { self.on_packet(packet) } else { self.malformed += 1 }
        }
    }

    fn on_packet(&mut self, packet: &[u8]) {
        let pid = u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
        let (has_adaptation, has_payload) = (packet[3] & 0x20 != 0, packet[3] & 0x10 != 0);
        let counter = packet[3] & 0x0f;
        if pid == NULL_PID {
            return;
        }
        if !has_adaptation && !has_payload {
            self.malformed += 1;
            return;
        }
        let discontinuity = has_adaptation && packet[4] > 0 && packet[5] & 0x80 != 0;
        let mut repeated = false;
        if let Some(last) = self.last.get(&pid).copied()
            && !discontinuity
        {
            if !has_payload {
                // The counter stands still in packets without payload.
                if counter != last.counter {
                    self.errors += 1;
                }
            } else if counter == last.counter {
                // A packet may be sent twice, not more often.
                repeated = true;
                if last.repeated {
                    self.errors += 1;
                }
            } else if counter != (last.counter + 1) & 0x0f {
                self.errors += 1;
            }
        }
        self.last.insert(pid, Last { counter, repeated });
    }

    /// Jumps of a counter that nothing announced.
    #[must_use]
    pub fn errors(&self) -> u64 {
        self.errors
    }

    /// Transport packets without sync byte or content, and datagrams of odd length.
    #[must_use]
    pub fn malformed(&self) -> u64 {
        self.malformed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(pid: u16, control: u8, counter: u8) -> [u8; PACKET] {
        let mut packet = [0xff; PACKET];
        let [high, low] = pid.to_be_bytes();
        packet[..6].copy_from_slice(&[SYNC, high, low, control | counter, 1, 0]);
        packet
    }

    const PAYLOAD: u8 = 0x10;
    const ADAPTATION: u8 = 0x20;

    fn errors(packets: &[[u8; PACKET]]) -> (u64, u64) {
        let mut continuity = Continuity::default();
        continuity.push(&packets.concat());
        (continuity.errors(), continuity.malformed())
    }

    #[test]
    fn a_counter_that_wraps_is_no_error() {
        let packets: Vec<_> = (0..40).map(|n| packet(256, PAYLOAD, n & 0x0f)).collect();
        assert_eq!(errors(&packets), (0, 0));
    }

    #[test]
    fn each_pid_has_its_own_counter() {
        assert_eq!(errors(&[packet(1, PAYLOAD, 3), packet(2, PAYLOAD, 9), packet(1, PAYLOAD, 4)]), (0, 0));
    }

    #[test]
    fn a_gap_is_one_error() {
        assert_eq!(errors(&[packet(1, PAYLOAD, 3), packet(1, PAYLOAD, 5), packet(1, PAYLOAD, 6)]), (1, 0));
    }

    #[test]
    fn a_packet_may_come_twice_but_not_three_times() {
        assert_eq!(errors(&[packet(1, PAYLOAD, 3); 2]), (0, 0));
        assert_eq!(errors(&[packet(1, PAYLOAD, 3); 3]), (1, 0));
    }

    #[test]
    fn null_packets_and_packets_without_payload_do_not_count() {
        assert_eq!(errors(&[packet(NULL_PID, PAYLOAD, 3), packet(NULL_PID, PAYLOAD, 9)]), (0, 0));
        assert_eq!(
            errors(&[
                packet(1, PAYLOAD, 3),
                packet(1, ADAPTATION, 3),
                packet(1, ADAPTATION, 3),
                packet(1, PAYLOAD, 4)
            ]),
            (0, 0)
        );
    }

    #[test]
    fn an_announced_discontinuity_is_no_error() {
        let mut jump = packet(1, ADAPTATION | PAYLOAD, 9);
        jump[5] = 0x80;
        assert_eq!(errors(&[packet(1, PAYLOAD, 3), jump, packet(1, PAYLOAD, 10)]), (0, 0));
    }

    #[test]
    fn what_is_no_transport_packet_is_counted_as_malformed() {
        let mut continuity = Continuity::default();
        continuity.push(&[0; PACKET]);
        continuity.push(&packet(1, PAYLOAD, 0)[..100]);
        continuity.push(&packet(1, 0, 0));
        assert_eq!((continuity.errors(), continuity.malformed()), (0, 3));
    }
}
