//! Numbers with units, short enough for a table.

use std::net::{IpAddr, SocketAddr};

/// Port of AMT, not worth showing.
const AMT_PORT: u16 = 2268;

/// What stands where there is no value.
pub(super) const NONE: &str = "-";

const PREFIXES: [&str; 7] = ["", "k", "M", "G", "T", "P", "E"];

/// Three digits and an SI prefix: `8.00 M`, `52.6 k`, `7`.
fn si(value: u64) -> (String, &'static str) {
    if value < 1000 {
        return (value.to_string(), PREFIXES[0]);
    }
    let mut scaled = value as f64 / 1000.0;
    let mut prefix = 1;
    // What would be shown as 1000 belongs to the next prefix.
    while scaled >= 999.5 && prefix + 1 < PREFIXES.len() {
        scaled /= 1000.0;
        prefix += 1;
    }
    let digits = if scaled < 9.995 {
        2
    } else if scaled < 99.95 {
        1
    } else {
        0
    };
    (format!("{scaled:.digits$}"), PREFIXES[prefix])
}

/// A rate: `8.00 Mbit/s`.
pub(super) fn bit_rate(bits_per_second: u64) -> String {
    let (number, prefix) = si(bits_per_second);
    format!("{number} {prefix}bit/s")
}

/// A size: `12.4 MB`.
pub(super) fn bytes(bytes: u64) -> String {
    let (number, prefix) = si(bytes);
    format!("{number} {prefix}B")
}

/// A count: exact as long as it fits a narrow column, then `12.4 M`.
pub(super) fn count(value: u64) -> String {
    if value < 10_000_000 {
        return value.to_string();
    }
    let (number, prefix) = si(value);
    format!("{number} {prefix}")
}

/// A time: its largest unit and the next: `2d04h`, `1h05m`, `3m20s`, `12s`, `340ms`.
pub(super) fn duration(milliseconds: u64) -> String {
    let seconds = milliseconds / 1000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    if days > 0 {
        format!("{days}d{:02}h", hours % 24)
    } else if hours > 0 {
        format!("{hours}h{:02}m", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes}m{:02}s", seconds % 60)
    } else if seconds > 0 {
        format!("{seconds}s")
    } else {
        format!("{milliseconds}ms")
    }
}

/// A tunnel's end, its port only if it is not that of AMT.
pub(super) fn endpoint(endpoint: SocketAddr) -> String {
    if matches!(endpoint.port(), 0 | AMT_PORT) { endpoint.ip().to_string() } else { endpoint.to_string() }
}

/// A source; any is `*`.
pub(super) fn source(source: Option<IpAddr>) -> String {
    source.map_or_else(|| "*".to_owned(), |source| source.to_string())
}

/// `1 group`, `2 groups`.
pub(super) fn plural(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_and_sizes_have_three_digits_at_every_size() {
        for (value, shown) in [
            (0, "0 bit/s"),
            (999, "999 bit/s"),
            (1000, "1.00 kbit/s"),
            (9_994, "9.99 kbit/s"),
            (9_996, "10.0 kbit/s"),
            (99_960, "100 kbit/s"),
            (999_499, "999 kbit/s"),
            (999_500, "1.00 Mbit/s"),
            (8_000_000, "8.00 Mbit/s"),
            (u64::MAX, "18.4 Ebit/s"),
        ] {
            assert_eq!(bit_rate(value), shown, "{value}");
        }
        assert_eq!(bytes(12_400_000), "12.4 MB");
    }

    #[test]
    fn counts_are_exact_while_they_fit() {
        assert_eq!(count(9_999_999), "9999999");
        assert_eq!(count(10_000_000), "10.0 M");
    }

    #[test]
    fn durations_show_two_units_at_most() {
        for (milliseconds, shown) in [
            (0, "0ms"),
            (999, "999ms"),
            (12_999, "12s"),
            (200_000, "3m20s"),
            (3_900_000, "1h05m"),
            (187_200_000, "2d04h"),
        ] {
            assert_eq!(duration(milliseconds), shown);
        }
        assert_eq!(duration(u64::MAX), "213503982334d14h");
    }
}
