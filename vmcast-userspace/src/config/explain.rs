//! What the TOML reader says, in words that help.

use std::{ops::Range, path::Path};

use super::report::{Diagnostic, Place, Severity};

/// Turns an error of the TOML reader into a diagnostic with a hint.
#[must_use]
pub(super) fn diagnostic(file: &Path, text: &str, error: &toml::de::Error) -> Diagnostic {
    let (message, hint) = words(error.message());
    let place = error.span().map(|range| Place::of(text, &narrow(text, range, &message)));
    Diagnostic { severity: Severity::Error, file: file.to_owned(), place, message, hint }
}

/// An error in an item of a list comes with the place of the list: looks for the quoted value in it.
fn narrow(text: &str, range: Range<usize>, message: &str) -> Range<usize> {
    let value = message.split_inclusive('"').take(2).collect::<String>();
    match text.get(range.clone()).and_then(|list| list.find(&value)) {
        Some(at) if value.len() > 2 && value.starts_with('"') => {
            range.start + at..range.start + at + value.len()
        }
        Some(_) | None => range,
    }
}

/// Message and hint for what serde said.
fn words(said: &str) -> (String, Option<String>) {
    let said = said.trim_end();
    if let Some(rest) = said.strip_prefix("unknown field ") {
        let (key, known) = quoted(rest);
        return (format!("unknown key `{key}`"), Some(did_you_mean(key, &known, "the keys here are")));
    }
    if let Some(rest) = said.strip_prefix("unknown variant ") {
        let (word, known) = quoted(rest);
        return (
            format!("\"{word}\" is not one of the possible values"),
            Some(did_you_mean(word, &known, "possible are")),
        );
    }
    if let Some(rest) = said.strip_prefix("missing field ") {
        let (key, _) = quoted(rest);
        return (format!("the key `{key}` is missing"), None);
    }
    if let Some(rest) = said.strip_prefix("duplicate key") {
        return (format!("duplicate key{rest}"), Some("each key may stand once in its table".to_owned()));
    }
    if let Some(rest) = said.strip_prefix("invalid type: ").or_else(|| said.strip_prefix("invalid value: "))
        && let Some((found, expected)) = rest.rsplit_once(", expected ")
    {
        return (format!("{found} cannot stand here"), Some(format!("expected {}", plain(expected))));
    }
    match said.split_once('\n') {
        Some((message, hint)) => (message.to_owned(), Some(hint.replace('\n', ", "))),
        None => (said.to_owned(), None),
    }
}

/// The first word in backquotes, and all others.
fn quoted(text: &str) -> (&str, Vec<&str>) {
    let mut words = text.split('`').skip(1).step_by(2);
    (words.next().unwrap_or(text), words.collect())
}

/// What serde expected, for somebody who does not write Rust.
fn plain(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" | "u64" => "a whole number, 0 or more",
        "a boolean" => "true or false",
        "a sequence" => "a list, as [\"…\", \"…\"]",
        "a string" => "a text in quotes",
        other if other.starts_with("struct ") || other == "a map" => "a table",
        other => other,
    }
}

/// The known word that is most likely meant, or all of them.
#[must_use]
pub(super) fn did_you_mean(word: &str, known: &[&str], otherwise: &str) -> String {
    let word = word.to_lowercase();
    let nearest = known
        .iter()
        .map(|candidate| (distance(&word, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len().min(word.len()).div_ceil(3));
    match nearest {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None if known.is_empty() => "none is known here".to_owned(),
        None => format!("{otherwise} {}", known.join(", ")),
    }
}

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<usize>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            row.push(least);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_single_slips() {
        for (a, b, expected) in
            [("", "", 0), ("abc", "", 3), ("querier", "quirier", 1), ("port", "prot", 1), ("rank", "bank", 1)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn only_a_word_that_is_near_is_suggested() {
        let known = ["name", "accepts_sources", "querier"];
        assert_eq!(did_you_mean("accept_source", &known, "known:"), "did you mean `accepts_sources`?");
        assert_eq!(did_you_mean("Name", &known, "known:"), "did you mean `name`?");
        assert_eq!(did_you_mean("mtu", &known, "known:"), "known: name, accepts_sources, querier");
        assert_eq!(did_you_mean("mtu", &[], "known:"), "none is known here");
    }
}
