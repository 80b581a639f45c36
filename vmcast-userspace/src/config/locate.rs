//! Finds a key in the text of a file.

use std::ops::Range;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The bytes of the value at `key`, as `interface[1].name`; where the file does not have it, those of
/// the nearest table around it. `None` for a key at the top of the file that is absent.
#[must_use]
pub(super) fn find(text: &str, key: &str) -> Option<Range<usize>> {
    let root = DeTable::parse(text).ok()?;
    let mut table = root.get_ref();
    let mut found = None;
    for step in key.split('.') {
        let (name, index) = match step.split_once('[') {
            Some((name, index)) => (name, index.trim_end_matches(']').parse::<usize>().ok()),
            None => (step, None),
        };
        let Some(mut value) = table.get(name) else { return found };
        if let (DeValue::Array(items), Some(index)) = (value.get_ref(), index) {
            let Some(item) = items.get(index) else { return Some(value.span()) };
            value = item;
        }
        found = Some(span(value));
        let DeValue::Table(inner) = value.get_ref() else { return found };
        table = inner;
    }
    found
}

fn span(value: &Spanned<DeValue<'_>>) -> Range<usize> {
    value.span()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "rank = 3\n[tunnel]\naddress = [\"192.0.2.1\", \"192.0.2.2\"]\n\
        [[interface]]\nname = \"a\"\n[[interface]]\nname = \"b\"\nigmp = { version = 9 }\n";

    fn text_of(key: &str) -> Option<&'static str> {
        find(TEXT, key).map(|range| &TEXT[range])
    }

    #[test]
    fn a_value_is_found_by_its_key() {
        assert_eq!(text_of("rank"), Some("3"));
        assert_eq!(text_of("tunnel.address[1]"), Some("\"192.0.2.2\""));
        assert_eq!(text_of("interface[1].name"), Some("\"b\""));
        assert_eq!(text_of("interface[1].igmp.version"), Some("9"));
    }

    #[test]
    fn an_absent_key_is_found_at_the_table_around_it() {
        assert_eq!(text_of("tunnel.port"), Some("[tunnel]"));
        assert_eq!(text_of("interface[1].querier"), Some("[[interface]]"));
        assert_eq!(text_of("name"), None);
    }
}
