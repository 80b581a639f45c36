//! The one-byte numbers: Max Resp Code of IGMP (RFC 9776 §4.1.1) and QQIC (§4.1.7, RFC 9777 §5.1.9).
//!
//! Below 128 the byte is the value; from 128 it is a floating-point number:
//!
//! ```text
//!  0 1 2 3 4 5 6 7
//! +-+-+-+-+-+-+-+-+
//! |1| exp | mant  |    value = (mant | 0x10) << (exp + 3)
//! +-+-+-+-+-+-+-+-+
//! ```

/// The largest value a code can say.
pub(crate) const MAX: u32 = 0x1f << 10;

/// The value of a code.
pub(crate) const fn decode(code: u8) -> u32 {
    if code < 128 {
        return code as u32;
    }
    let mantissa = (code & 0x0f) as u32;
    let exponent = ((code >> 4) & 0x07) as u32;
    (mantissa | 0x10) << (exponent + 3)
}

/// The code of the largest value that is not above `value`.
pub(crate) const fn encode(value: u32) -> u8 {
    if value < 128 {
        return value as u8;
    }
    let value = if value > MAX { MAX } else { value };
    // The leading one of 128 is bit 7, and it belongs to exponent 0.
    let exponent = value.ilog2() - 7;
    let mantissa = (value >> (exponent + 3)) & 0x0f;
    0x80 | (exponent as u8) << 4 | mantissa as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_the_values_the_rfc_computes() {
        for (code, value) in [
            (0, 0),
            (1, 1),
            (100, 100),
            (127, 127),
            (0x80, 128),
            (0x8f, 248),
            (0x90, 256),
            (0xa5, 672),
            (0xf0, 16_384),
            (0xff, 31_744),
        ] {
            assert_eq!(decode(code), value, "code {code:#04x}");
            assert_eq!(encode(value), code, "value {value}");
        }
    }

    #[test]
    fn every_code_is_the_code_of_its_value() {
        for code in 0..=255 {
            assert_eq!(encode(decode(code)), code);
        }
    }

    #[test]
    fn a_value_between_two_codes_is_rounded_down() {
        for value in 0..40_000 {
            let code = encode(value);
            assert!(decode(code) <= value, "{value}");
            let next = if code == 255 { u32::MAX } else { decode(code + 1) };
            assert!(next > value, "{value}");
        }
    }
}
