//! The numbers that are floating-point where they are large: of one byte Max Resp Code of IGMP (RFC 9776 §4.1.1) and
//! QQIC (§4.1.7, RFC 9777 §5.1.9), of two bytes Maximum Response Code of MLD (RFC 9777 §5.1.3).
//!
//! With the first bit clear, the code is the value; else it is, here of one byte:
//!
//! ```text
//!  0 1 2 3 4 5 6 7
//! +-+-+-+-+-+-+-+-+
//! |1| exp | mant  |    value = (mant | 0x10) << (exp + 3)
//! +-+-+-+-+-+-+-+-+
//! ```
//!
//! Of two bytes the mantissa has 12 bits, and the bit before it is 0x1000.

/// Codes of so many bits.
struct Format {
    bits: u32,
}

impl Format {
    /// The first code that is no value by itself.
    const fn first(&self) -> u32 {
        1 << (self.bits - 1)
    }

    const fn mantissa_bits(&self) -> u32 {
        self.bits - 4
    }

    /// The largest value a code can say.
    const fn max(&self) -> u32 {
        ((2 << self.mantissa_bits()) - 1) << 10
    }

    const fn decode(&self, code: u32) -> u32 {
        if code < self.first() {
            return code;
        }
        let one = 1 << self.mantissa_bits();
        let exponent = code >> self.mantissa_bits() & 7;
        (code & (one - 1) | one) << (exponent + 3)
    }

    const fn encode(&self, value: u32) -> u32 {
        if value < self.first() {
            return value;
        }
        let value = if value > self.max() { self.max() } else { value };
        // The leading one of the first such value belongs to exponent 0.
        let exponent = value.ilog2() - (self.bits - 1);
        let mantissa = value >> (exponent + 3) & ((1 << self.mantissa_bits()) - 1);
        self.first() | exponent << self.mantissa_bits() | mantissa
    }
}

const BYTE: Format = Format { bits: 8 };
const TWO_BYTES: Format = Format { bits: 16 };

/// The largest value a code of one byte can say.
pub(crate) const MAX: u32 = BYTE.max();
/// The largest value a code of two bytes can say.
pub(crate) const MAX_OF_TWO: u32 = TWO_BYTES.max();

/// The value of a code of one byte.
pub(crate) const fn decode(code: u8) -> u32 {
    BYTE.decode(code as u32)
}

/// The code of one byte of the largest value that is not above `value`.
pub(crate) const fn encode(value: u32) -> u8 {
    BYTE.encode(value) as u8
}

/// The value of a code of two bytes.
pub(crate) const fn decode_two(code: u16) -> u32 {
    TWO_BYTES.decode(code as u32)
}

/// The code of two bytes of the largest value that is not above `value`.
pub(crate) const fn encode_two(value: u32) -> u16 {
    TWO_BYTES.encode(value) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_for_the_values_the_rfcs_compute() {
        assert_eq!((MAX, MAX_OF_TWO), (31_744, 8_387_584));
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
            assert_eq!((decode(code), encode(value)), (value, code), "code {code:#04x}");
        }
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
            assert_eq!((decode_two(code), encode_two(value)), (value, code), "code {code:#06x}");
        }
    }

    #[test]
    fn every_code_is_the_code_of_its_value() {
        for format in [BYTE, TWO_BYTES] {
            for code in 0..1 << format.bits {
                assert_eq!(format.encode(format.decode(code)), code);
            }
        }
    }

    #[test]
    fn a_value_between_two_codes_is_rounded_down() {
        for (format, values, step) in [(BYTE, 40_000, 1), (TWO_BYTES, 9_000_000, 37)] {
            let last = (1 << format.bits) - 1;
            for value in (0..values).step_by(step) {
                let code = format.encode(value);
                assert!(format.decode(code) <= value, "{value}");
                let next = if code == last { u32::MAX } else { format.decode(code + 1) };
                assert!(next > value, "{value}");
            }
        }
    }
}
