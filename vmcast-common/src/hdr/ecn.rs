//! Explicit Congestion Notification in tunnels (RFC 6040, RFC 9601): the lower two bits of the type of
//! service and of the traffic class.

/// The two bits.
pub const MASK: u8 = 0b11;
/// The transport knows no congestion marks.
pub const NOT_ECT: u8 = 0b00;
/// The transport is ECN-capable, codepoint 1.
pub const ECT_1: u8 = 0b01;
/// The transport is ECN-capable, codepoint 0.
pub const ECT_0: u8 = 0b10;
/// Congestion was experienced.
pub const CE: u8 = 0b11;

/// The type of service with which a packet goes on that came with `inner` behind an outer header with
/// `outer`; `None` if it must be dropped, because congestion can be told to its receiver in no other way
/// (RFC 6040 §4.2, figure 4).
#[inline(always)]
#[must_use]
pub const fn decapsulate(inner: u8, outer: u8) -> Option<u8> {
    match (inner & MASK, outer & MASK) {
        (NOT_ECT, CE) => None,
        (ECT_0 | ECT_1, CE) => Some(inner | CE),
        (ECT_0, ECT_1) => Some((inner & !MASK) | ECT_1),
        _ => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_marks_comes_out_as_rfc_6040_says() {
        let figure_4 = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in figure_4 {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let got = decapsulate(0xb8 | inner, 0x28 | outer);
                assert_eq!(got, expected.map(|mark| 0xb8 | mark), "inner {inner:02b}, outer {outer:02b}");
            }
        }
    }
}
