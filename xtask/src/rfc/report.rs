//! Requirements and citations side by side.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{
    citation::{Citation, Citations, Kind},
    table::{Level, Section, Table},
};

/// Places of one kind that are printed; the rest is counted.
const SHOWN: usize = 3;

/// How a section is covered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    /// A test proves it.
    Proved,
    /// The table says why there is no test, or no code either.
    Reason,
    /// There is code, and no test names it.
    NoTest,
    /// Nothing names it.
    Missing,
}

/// One section and the places that name it.
#[derive(Debug, Serialize)]
struct Row<'a> {
    section: &'a str,
    level: Level,
    says: &'a str,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    but: Option<&'a str>,
    code: Vec<&'a Citation>,
    tests: Vec<&'a Citation>,
    /// The kinds of its tests.
    proved_by: Vec<Kind>,
}

impl<'a> Row<'a> {
    /// Where code and each kind of test name it; what nothing names is left out.
    fn places(&self) -> impl Iterator<Item = (&'static str, Vec<&'a Citation>)> {
        let of =
            |kind: Kind| (kind.name(), self.tests.iter().copied().filter(|it| it.kind() == kind).collect());
        let all: Vec<(_, Vec<_>)> =
            [("code", self.code.clone())].into_iter().chain(Kind::ALL.into_iter().map(of)).collect();
        all.into_iter().filter(|(_, places)| !places.is_empty())
    }
}

/// One RFC.
#[derive(Debug, Serialize)]
struct Of<'a> {
    rfc: u32,
    title: &'a str,
    sections: Vec<Row<'a>>,
}

/// All of them.
pub(super) struct Report<'a> {
    rfcs: Vec<Of<'a>>,
    /// What is wrong with the citations.
    faults: Vec<String>,
}

impl<'a> Report<'a> {
    pub(super) fn new(tables: &'a [Table], citations: &'a Citations) -> Self {
        let of = |table: &'a Table| Of {
            rfc: table.rfc,
            title: &table.title,
            sections: table
                .sections
                .iter()
                .map(|section| row(section, citations.all.iter().filter(|it| it.rfc == table.rfc)))
                .collect(),
        };
        let faults = citations.faults.iter().cloned().chain(without_row(tables, citations)).collect();
        Self { rfcs: tables.iter().map(of).collect(), faults }
    }

    fn rows(&self) -> impl Iterator<Item = &Row<'a>> {
        self.rfcs.iter().flat_map(|of| &of.sections)
    }

    /// What `--check` fails for.
    pub(super) fn faults(&self) -> Vec<String> {
        let missing = self.rfcs.iter().flat_map(|of| {
            let missing = |row: &&Row<'_>| row.level == Level::Must && row.status == Status::Missing;
            of.sections.iter().filter(missing).map(|row| {
                format!("RFC {} §{}: neither code nor test nor a reason: {}", of.rfc, row.section, row.says)
            })
        });
        let thin = self.rfcs.iter().flat_map(|of| {
            let thin = |row: &&Row<'_>| {
                row.level == Level::Must
                    && row.status == Status::Proved
                    && row.tests.len() < clauses(row.says)
            };
            of.sections.iter().filter(thin).map(|row| {
                let (asked, tests) = (clauses(row.says), row.tests.len());
                format!(
                    "RFC {} §{}: {asked} things are asked, and {tests} tests name it: {}",
                    of.rfc, row.section, row.says
                )
            })
        });
        missing.chain(thin).chain(self.faults.iter().cloned()).collect()
    }

    pub(super) fn summary(&self) -> String {
        let count =
            |level, status| self.rows().filter(|row| row.level == level && row.status == status).count();
        let of = |level: Level| {
            format!(
                "{}: {} proved by tests, {} with a reason, {} without a test, {} missing",
                level.name(),
                count(level, Status::Proved),
                count(level, Status::Reason),
                count(level, Status::NoTest),
                count(level, Status::Missing),
            )
        };
        format!("{}; {}; of the MUSTs that are proved, {}", of(Level::Must), of(Level::Should), self.kinds())
    }

    /// How many MUSTs are proved by what, each by the first of its kinds.
    fn kinds(&self) -> String {
        let proved = || self.rows().filter(|row| row.level == Level::Must && row.status == Status::Proved);
        let of = |kind: Kind| {
            let count = proved().filter(|row| row.proved_by.first() == Some(&kind)).count();
            format!("{count} {}", kind.words())
        };
        Kind::ALL.map(of).join(", ")
    }

    pub(super) fn to_json(&self, missing: bool) -> serde_json::Value {
        let wanted = |row: &&Row<'_>| !missing || is_gap(row);
        let rfcs: Vec<_> = self
            .rfcs
            .iter()
            .map(|of| {
                let sections: Vec<_> = of.sections.iter().filter(wanted).collect();
                serde_json::json!({ "rfc": of.rfc, "title": of.title, "sections": sections })
            })
            .collect();
        serde_json::json!({ "rfcs": rfcs, "faults": self.faults, "summary": self.summary() })
    }

    pub(super) fn print(&self, missing: bool) {
        for of in &self.rfcs {
            let mut rows = of.sections.iter().filter(|row| !missing || is_gap(row)).peekable();
            if rows.peek().is_none() {
                continue;
            }
            println!("RFC {} {}", of.rfc, of.title);
            for row in rows {
                println!("  {:<12} {:<6} {}", row.section, row.level.name(), row.says);
                for (kind, places) in row.places() {
                    println!("  {:<19} {kind:<5} {}", "", listed(&places));
                }
                if let Some(but) = row.but {
                    println!("  {:<19} but   {but}", "");
                }
                match row.status {
                    Status::Reason => println!("  {:<19} why   {}", "", row.reason.unwrap_or_default()),
                    Status::Missing => println!("  {:<19} MISSING", ""),
                    Status::NoTest => println!("  {:<19} NO TEST", ""),
                    Status::Proved => {}
                }
            }
            println!();
        }
        for fault in &self.faults {
            println!("{fault}");
        }
        println!("{}", self.summary());
    }
}

fn row<'a>(section: &'a Section, of_rfc: impl Iterator<Item = &'a Citation>) -> Row<'a> {
    let (tests, code): (Vec<_>, Vec<_>) =
        of_rfc.filter(|citation| citation.section == section.section).partition(|citation| citation.test);
    let status = match (code.is_empty(), tests.is_empty(), &section.reason) {
        (_, false, _) => Status::Proved,
        (_, true, Some(_)) => Status::Reason,
        (false, true, None) => Status::NoTest,
        (true, true, None) => Status::Missing,
    };
    let Section { section, level, says, reason, but } = section;
    let reason = reason.as_deref().filter(|_| status == Status::Reason);
    let kinds: BTreeSet<_> = tests.iter().map(|it| it.kind()).collect();
    let proved_by = kinds.into_iter().collect();
    Row { section, level: *level, says, status, reason, but: but.as_deref(), code, tests, proved_by }
}

/// Citations of sections that the table of their RFC does not have: the report would pass over them. What RFCs without
/// a table say is only used.
fn without_row(tables: &[Table], citations: &Citations) -> impl Iterator<Item = String> {
    citations.all.iter().filter_map(|Citation { rfc, section, file, line, test }| {
        let Table { sections, named, .. } = tables.iter().find(|table| table.rfc == *rfc)?;
        let stands = sections.iter().any(|row| row.section == *section) || (!test && named.contains(section));
        let sign = if section.starts_with("appendix") { "" } else { "§" };
        (!stands).then(|| {
            format!("{file}:{line}: RFC {rfc} {sign}{section} has no row in tests/rfc/rfc{rfc}.toml")
        })
    })
}

/// How many things a section asks for: one citation does not prove them all.
fn clauses(says: &str) -> usize {
    says.split(';').count()
}

const fn is_gap(row: &Row<'_>) -> bool {
    matches!(row.status, Status::NoTest | Status::Missing)
}

fn listed(places: &[&Citation]) -> String {
    let shown: Vec<_> = places.iter().take(SHOWN).map(|it| format!("{}:{}", it.file, it.line)).collect();
    let rest = places.len().saturating_sub(SHOWN);
    let more = if rest == 0 { String::new() } else { format!(" and {rest} more") };
    format!("{}{more}", shown.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(section: &str, test: bool) -> Citation {
        Citation { rfc: 1, section: section.to_owned(), file: "a.rs".to_owned(), line: 1, test }
    }

    #[test]
    fn a_must_without_code_test_or_reason_is_a_fault() {
        let section = |section: &str, level, reason: Option<&str>| Section {
            section: section.to_owned(),
            level,
            says: "Asks.".to_owned(),
            reason: reason.map(str::to_owned),
            but: None,
        };
        let sections = vec![
            section("1", Level::Must, None),
            section("2", Level::Must, None),
            section("3", Level::Must, Some("No such device.")),
            section("4", Level::Must, None),
            section("5", Level::Should, None),
            Section { says: "Asks; and asks.".to_owned(), ..section("6", Level::Must, None) },
            Section { says: "Asks; and asks.".to_owned(), ..section("7", Level::Must, None) },
        ];
        let tables = [Table { rfc: 1, title: "T".to_owned(), named: Vec::new(), sections }];
        let mut all = vec![place("1", true), place("2", false), place("6", true), place("7", true)];
        all.push(Citation { line: 2, ..place("7", true) });
        let citations = Citations { all, faults: vec!["a fault".to_owned()] };
        let report = Report::new(&tables, &citations);
        let statuses: Vec<_> = report.rows().map(|row| row.status).collect();
        use Status::*;
        assert_eq!(statuses, [Proved, NoTest, Reason, Missing, Missing, Proved, Proved]);
        let faults = report.faults();
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].starts_with("RFC 1 §4: "));
        assert!(faults[1].starts_with("RFC 1 §6: 2 things are asked, and 1 tests name it"));
        assert_eq!(
            report.summary(),
            "MUST: 3 proved by tests, 1 with a reason, 1 without a test, 1 missing; \
             SHOULD: 0 proved by tests, 0 with a reason, 0 without a test, 1 missing; \
             of the MUSTs that are proved, 0 by a recorded case, 0 by a case of the planes' suite, 0 by a lab, \
             3 by unit tests alone"
        );
    }

    #[test]
    fn a_citation_of_a_section_without_a_row_is_a_fault() {
        let section = Section {
            section: "1".to_owned(),
            level: Level::Must,
            says: "Asks.".to_owned(),
            reason: None,
            but: None,
        };
        let named = vec!["2".to_owned()];
        let tables = [Table { rfc: 1, title: "T".to_owned(), named, sections: vec![section] }];
        let of_another = Citation { rfc: 2, ..place("1", true) };
        let all = [("1", true), ("2", false), ("2", true), ("3", false), ("appendix A", true)]
            .map(|it| place(it.0, it.1));
        let citations = Citations { all: all.into_iter().chain([of_another]).collect(), faults: Vec::new() };
        let report = Report::new(&tables, &citations);
        let expected = ["§2", "§3", "appendix A"]
            .map(|section| format!("a.rs:1: RFC 1 {section} has no row in tests/rfc/rfc1.toml"));
        assert_eq!(report.faults(), expected);
    }
}
