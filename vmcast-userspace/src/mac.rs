//! Link-layer addresses as text.

use vmcast_common::hdr::eth::Mac;

/// Six octets with colons.
pub(crate) fn text([a, b, c, d, e, f]: Mac) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Reads six octets with colons; `None` if it is anything else.
pub(crate) fn parse(text: &str) -> Option<Mac> {
    let mut mac = Mac::default();
    let mut parts = text.split(':');
    for octet in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *octet = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_it_is_written_and_nothing_else_is() {
        let mac = [0x02, 0, 0, 0xab, 0, 0x0a];
        assert_eq!(parse(&text(mac)), Some(mac));
        assert_eq!(parse("02:00:00:AB:00:0A"), Some(mac));
        for bad in [
            "",
            "02:00:00:ab:00",
            "02:00:00:ab:00:0a:00",
            "2:0:0:ab:0:a",
            "02-00-00-ab-00-0a",
            "+2:00:00:ab:00:0a",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
