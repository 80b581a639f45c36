//! What the RFCs ask of us, in our own words: `tests/rfc/*.toml`.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// One RFC.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// Its number.
    pub(super) rfc: u32,
    /// Its title, shortened.
    pub(super) title: String,
    /// Sections that code may name although they have no row, as what they ask for stands in the rows of others. No
    /// test proves them.
    #[serde(default)]
    pub(super) named: Vec<String>,
    /// The sections that ask something of us.
    pub(super) sections: Vec<Section>,
}

/// A section that asks something of us.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Section {
    /// Its number, as the RFC has it: `5.2.3.4`, `appendix I`.
    pub(super) section: String,
    /// How strongly.
    pub(super) level: Level,
    /// What, in our words.
    pub(super) says: String,
    /// Why we do not do it, or why no test of ours can show it; of no account once a test does.
    pub(super) reason: Option<String>,
    /// What of it we leave out, and why, though we do the rest.
    pub(super) but: Option<String>,
}

/// How strongly an RFC asks for something (RFC 2119); the strongest of a section counts.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Level {
    /// Also MUST NOT, SHALL, and what is said without such a word but is the protocol.
    Must,
    /// Also RECOMMENDED.
    Should,
}

impl Level {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::Should => "SHOULD",
        }
    }
}

/// Reads the tables of these RFCs, or of all, by number.
pub(super) fn read(dir: &Path, wanted: &[u32]) -> Result<Vec<Table>> {
    let mut tables = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        tables.push(parse(&text).with_context(|| format!("in {}", path.display()))?);
    }
    if let Some(unknown) = wanted.iter().find(|rfc| tables.iter().all(|table| table.rfc != **rfc)) {
        bail!("there is no table of RFC {unknown} in {}", dir.display());
    }
    tables.retain(|table| wanted.is_empty() || wanted.contains(&table.rfc));
    tables.sort_by_key(|table| table.rfc);
    Ok(tables)
}

fn parse(text: &str) -> Result<Table> {
    let table: Table = toml::from_str(text)?;
    let mut seen = BTreeSet::new();
    if let Some(twice) = table.sections.iter().find(|section| !seen.insert(&section.section)) {
        bail!("section {} stands there twice", twice.section);
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_stands_in_its_table_once() {
        let line = r#"{ section = "4.1", level = "MUST", says = "Asks." },"#;
        let text = |lines: &str| format!("rfc = 1\ntitle = \"T\"\nsections = [\n{lines}\n]\n");
        assert_eq!(parse(&text(line)).unwrap().sections.len(), 1);
        assert!(parse(&text(&line.repeat(2))).unwrap_err().to_string().contains("4.1 stands there twice"));
        assert!(parse(&text(&line.replace("says", "said"))).is_err());
    }
}
