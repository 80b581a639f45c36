//! The words of a recording.

use std::{fmt::Write as _, time::Duration};

use crate::Filter;

/// A time, in seconds without needless digits.
#[must_use]
pub fn seconds(time: Duration) -> String {
    let text = format!("{}.{:09}", time.as_secs(), time.subsec_nanos());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Bytes, two digits each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A filter: `include{198.51.100.1,198.51.100.2}`.
#[must_use]
pub fn filter(filter: &Filter) -> String {
    let (mode, sources) = match filter {
        Filter::Include(sources) => ("include", sources),
        Filter::Exclude(sources) => ("exclude", sources),
    };
    let sources: Vec<_> = sources.iter().map(ToString::to_string).collect();
    format!("{mode}{{{}}}", sources.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_no_needless_digits() {
        for (nanos, text) in
            [(0, "0"), (31_250_000_000, "31.25"), (125_000_000_000, "125"), (1_000_000_001, "1.000000001")]
        {
            assert_eq!(seconds(Duration::from_nanos(nanos)), text);
        }
    }

    #[test]
    fn filters_and_bytes_are_one_word_each() {
        assert_eq!(filter(&Filter::any()), "exclude{}");
        let two = ["192.0.2.2", "192.0.2.1"].map(|source| source.parse().unwrap());
        assert_eq!(filter(&Filter::Include(two.into())), "include{192.0.2.1,192.0.2.2}");
        assert_eq!(hex(&[0x11, 0, 0xee]), "1100ee");
    }
}
