//! Domain names as they stand on the wire.

use std::{
    fmt::{self, Write as _},
    net::IpAddr,
};

use super::error::Error;

/// Longest name in bytes, its length bytes included (RFC 1035 §2.3.4).
const MAX_LEN: usize = 255;
/// A length byte from here on is no length (RFC 1035 §4.1.4).
const FIRST_POINTER: u8 = 0x40;

/// A domain name that is not compressed (RFC 1035 §3.1): labels behind their lengths, then a zero.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Reads a name that fills `bytes`, which stand at `offset` of their record.
    ///
    /// # Errors
    /// If it is cut short, compressed, too long, or ends before the bytes do.
    pub fn parse(bytes: &[u8], offset: usize) -> Result<Self, Error> {
        let mut at = 0;
        loop {
            let have = offset + bytes.len();
            let Some(&length) = bytes.get(at) else {
                return Err(Error::Truncated { offset: offset + at, needed: offset + at + 1, have });
            };
            if length >= FIRST_POINTER {
                return Err(Error::Label { offset: offset + at, value: length });
            }
            let next = at + 1 + usize::from(length);
            if next > MAX_LEN {
                return Err(Error::NameTooLong { most: MAX_LEN });
            }
            if length == 0 {
                let needed = offset + next;
                return if have == needed {
                    Ok(Self(bytes.into()))
                } else {
                    Err(Error::Excess { needed, have })
                };
            }
            if next > bytes.len() {
                return Err(Error::Truncated { offset: offset + at, needed: offset + next, have });
            }
            at = next;
        }
    }

    /// The name under which an address is found in the reverse tree: in-addr.arpa (RFC 1035 §3.5) or ip6.arpa
    /// (RFC 3596 §2.5).
    #[must_use]
    pub fn reverse(address: IpAddr) -> Self {
        let mut bytes = Vec::with_capacity(74);
        let mut label = |text: &[u8]| {
            bytes.push(text.len() as u8);
            bytes.extend_from_slice(text);
        };
        match address {
            IpAddr::V4(address) => {
                for octet in address.octets().iter().rev() {
                    label(octet.to_string().as_bytes());
                }
                label(b"in-addr");
            }
            IpAddr::V6(address) => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                for octet in address.octets().iter().rev() {
                    label(&[DIGITS[usize::from(octet & 0x0f)]]);
                    label(&[DIGITS[usize::from(octet >> 4)]]);
                }
                label(b"ip6");
            }
        }
        label(b"arpa");
        bytes.push(0);
        Self(bytes.into())
    }

    /// The bytes on the wire.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The labels, from the left; that of the root is left out.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (&length, behind) = rest.split_first()?;
            let (label, behind) = behind.split_at_checked(usize::from(length))?;
            rest = behind;
            Some(label).filter(|label| !label.is_empty())
        })
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.labels().next().is_none()
    }
}

/// The name as a master file has it (RFC 1035 §5.1), absolute.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_char('.');
        }
        for label in self.labels() {
            for &byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => {
                        write!(f, "\\{}", byte as char)?
                    }
                    0x21..=0x7e => f.write_char(byte as char)?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
            f.write_char('.')?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
