//! The two-byte number Maximum Response Code of version 2 (RFC 9777 §5.1.3), in milliseconds.
//!
//! Below 32,768 it is the value; from there on it is a floating-point number:
//!
//! ```text
//!  0 1 2 3 4 5 6 7 8 9 A B C D E F
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |1| exp |          mant         |    value = (mant | 0x1000) << (exp + 3)
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

/// The largest value a code can say.
pub(super) const MAX: u32 = 0x1fff << 10;

/// The value of a code.
pub(super) const fn decode(code: u16) -> u32 {
    if code < 0x8000 {
        return code as u32;
    }
    let mantissa = (code & 0x0fff) as u32;
    let exponent = ((code >> 12) & 0x07) as u32;
    (mantissa | 0x1000) << (exponent + 3)
}

/// The code of the largest value that is not above `value`.
pub(super) const fn encode(value: u32) -> u16 {
    if value < 0x8000 {
        return value as u16;
    }
    let value = if value > MAX { MAX } else { value };
    // The leading one of 32,768 is bit 15, and it belongs to exponent 0.
    let exponent = value.ilog2() - 15;
    let mantissa = (value >> (exponent + 3)) & 0x0fff;
    0x8000 | (exponent as u16) << 12 | mantissa as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_the_values_the_rfc_computes() {
        for (code, value) in [
            (0, 0),
            (1000, 1000),
            (0x7fff, 32_767),
            (0x8000, 32_768),
            (0x8001, 32_776),
            (0x8fff, 65_528),
            (0x9000, 65_536),
            (0xffff, 8_387_584),
        ] {
            assert_eq!(decode(code), value, "code {code:#06x}");
            assert_eq!(encode(value), code, "value {value}");
        }
    }

    #[test]
    fn every_code_is_the_code_of_its_value() {
        for code in 0..=u16::MAX {
            assert_eq!(encode(decode(code)), code);
        }
    }

    #[test]
    fn a_value_between_two_codes_is_rounded_down() {
        for value in (0..9_000_000).step_by(37) {
            let code = encode(value);
            assert!(decode(code) <= value, "{value}");
            let next = if code == u16::MAX { u32::MAX } else { decode(code + 1) };
            assert!(next > value, "{value}");
        }
    }
}
