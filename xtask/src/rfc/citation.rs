//! Citations in comments: `RFC 7450 §5.2.3.4`, more sections of it as `§5.2.3.5`, a range as `§6.2 to §6.5`, `RFC
//! 1112 appendix I`.
//!
//! In tests a citation is a proof if it stands right above `#[test]`, in the text of the whole file, or in a comment
//! with the word `proves`. Others, as of a helper, are neither proof nor code.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

/// A place that names a section.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Citation {
    #[serde(skip)]
    pub(super) rfc: u32,
    #[serde(skip)]
    pub(super) section: String,
    /// The file, from the root of the workspace.
    pub(super) file: String,
    /// The line, from 1.
    pub(super) line: usize,
    /// Whether a test says it.
    #[serde(skip)]
    pub(super) test: bool,
}

/// What kind of test proves a section, told by where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A recorded case of a protocol machine: inputs and all that must come of them, as data.
    Case,
    /// A case of the suite that every plane passes, on the real kernel too.
    Conformance,
    /// The real program, or the real kernel program, in namespaces or a virtual machine.
    Lab,
    /// A unit test or a simulation.
    Unit,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Case, Self::Conformance, Self::Lab, Self::Unit];

    fn of(file: &str) -> Self {
        if file.ends_with(".case") {
            Self::Case
        } else if file.contains("dataplane/src/conformance/") {
            Self::Conformance
        } else if file.starts_with("tests/") && !file.starts_with("tests/fuzz/") {
            Self::Lab
        } else {
            Self::Unit
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Case => "case",
            Self::Conformance => "suite",
            Self::Lab => "lab",
            Self::Unit => "unit",
        }
    }

    /// What a test of the kind is called in a sentence.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Case => "by a recorded case",
            Self::Conformance => "by a case of the planes' suite",
            Self::Lab => "by a lab",
            Self::Unit => "by unit tests alone",
        }
    }
}

/// Everything that was found.
#[derive(Debug, Default)]
pub(super) struct Citations {
    pub(super) all: Vec<Citation>,
    /// What cannot be told apart, with the reason.
    pub(super) faults: Vec<String>,
}

impl Citation {
    /// What kind of test it is of, if it is of one.
    pub(super) fn kind(&self) -> Kind {
        Kind::of(&self.file)
    }
}

/// Reads every source and every recorded case that git knows or would add.
pub(super) fn scan(root: &Path) -> Result<Citations> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", "*.rs", "*.case"])
        .output()
        .context("git lists the sources")?;
    if !output.status.success() {
        bail!("git lists no sources: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut citations = Citations::default();
    for file in String::from_utf8_lossy(&output.stdout).split_terminator('\0') {
        // Here citations are only spoken of.
        if file.starts_with("xtask/") {
            continue;
        }
        let path = root.join(PathBuf::from(file));
        // Deleted and not yet told to git.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        if file.ends_with(".case") {
            of_case(file, &text, &mut citations);
        } else {
            of_source(file, &text, &mut citations);
        }
    }
    citations.all.sort();
    citations.all.dedup();
    Ok(citations)
}

/// A recorded case says in its first lines what it proves: `rfc 9776 §6.6.2`.
fn of_case(file: &str, text: &str, citations: &mut Citations) {
    let before = citations.all.len();
    for (index, line) in text.lines().enumerate() {
        if let Some(rest) = line.strip_prefix("rfc ") {
            let words = [(index + 1, format!("RFC {rest}"))];
            of_block(file, Role::Proof, &words, citations);
        }
    }
    if citations.all.len() == before {
        citations.faults.push(format!("{file}: says of no section that it proves it"));
    }
}

/// What a comment is to the section it names.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Code,
    Proof,
    /// Of a test, but of none that proves it.
    Mention,
}

fn of_source(file: &str, text: &str, citations: &mut Citations) {
    let own = is_test_file(file);
    let mut in_tests = false;
    let mut block: Vec<(usize, String)> = Vec::new();
    let mut of_file = false;
    for (index, line) in text.lines().enumerate() {
        match comment(line) {
            Some(words) => {
                of_file |= line.starts_with("//!");
                block.push((index + 1, words.to_owned()));
            }
            None => {
                let test = own || in_tests;
                let role = |proof| match (test, proof) {
                    (false, _) => Role::Code,
                    (true, true) => Role::Proof,
                    (true, false) => Role::Mention,
                };
                let says = block.iter().any(|(_, words)| words.contains("proves"));
                let proof = says || of_file || line.trim() == "#[test]";
                of_block(file, role(proof), &std::mem::take(&mut block), citations);
                of_file = false;
                if let Some((_, words)) = line.split_once(" // ") {
                    of_block(
                        file,
                        role(words.contains("proves")),
                        &[(index + 1, words.to_owned())],
                        citations,
                    );
                }
            }
        }
        in_tests |= line.trim() == "#[cfg(test)]" && !declares_module(text, index);
    }
}

/// Whether the attribute on this line is of a module in a file of its own, so that what follows is no test.
fn declares_module(text: &str, attribute: usize) -> bool {
    text.lines()
        .skip(attribute + 1)
        .find(|line| !line.trim_start().starts_with("#["))
        .is_none_or(|line| line.ends_with(';') || !line.trim_start().starts_with("mod "))
}

/// The words of a line that is a comment and nothing else.
fn comment(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let words = line.strip_prefix("//")?;
    Some(words.trim_start_matches(['/', '!']))
}

fn is_test_file(file: &str) -> bool {
    let tests = |part: &str| part == "tests" || part == "conformance";
    file.split('/').any(tests) || file.ends_with("tests.rs") || file.ends_with("conformance.rs")
}

/// Reads one comment of one or more lines. A section without a document belongs to the document named before it in
/// the same comment.
fn of_block(file: &str, role: Role, block: &[(usize, String)], citations: &mut Citations) {
    let test = role == Role::Proof;
    let words: Vec<(usize, &str)> =
        block.iter().flat_map(|(line, text)| text.split_whitespace().map(|word| (*line, word))).collect();
    let mut document = Document::None;
    let mut last: Option<String> = None;
    let mut at = 0;
    while let Some((line, word)) = words.get(at).copied() {
        let next = words.get(at + 1).map(|(_, word)| trim(word));
        at += 1;
        match trim(word) {
            "RFC" => {
                if let Some(number) = next.and_then(|number| number.parse().ok()) {
                    document = Document::Rfc(number);
                    last = None;
                }
            }
            "802.1Q" | "13818-1" => document = Document::Other,
            "appendix" => {
                if let (Document::Rfc(rfc), Some(name), true) = (document, next, role != Role::Mention) {
                    let section = format!("appendix {name}");
                    citations.all.push(Citation { rfc, section, file: file.to_owned(), line, test });
                }
            }
            word => {
                let Some(section) = word.strip_prefix('§') else { continue };
                match document {
                    Document::None => {
                        citations.faults.push(format!("{file}:{line}: {word} of no document"));
                    }
                    Document::Other => {}
                    Document::Rfc(_) if role == Role::Mention => {}
                    Document::Rfc(rfc) => {
                        // `§6.2 to §6.5` is all of them.
                        let of_range = at >= 2 && words.get(at - 2).is_some_and(|(_, word)| *word == "to");
                        let sections = match last.as_deref().filter(|_| of_range) {
                            Some(first) => range(first, section),
                            None => vec![section.to_owned()],
                        };
                        citations.all.extend(sections.into_iter().map(|section| Citation {
                            rfc,
                            section,
                            file: file.to_owned(),
                            line,
                            test,
                        }));
                        last = Some(section.to_owned());
                    }
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
enum Document {
    None,
    Rfc(u32),
    /// Of another publisher.
    Other,
}

fn trim(word: &str) -> &str {
    word.trim_matches(|letter: char| "()[]`,.;:*\"".contains(letter))
}

/// Sections from one to another of the same parent, the first left out.
fn range(first: &str, last: &str) -> Vec<String> {
    let split = |section: &str| -> Option<(String, u32)> {
        let (parent, number) = section.rsplit_once('.')?;
        Some((parent.to_owned(), number.parse().ok()?))
    };
    match (split(first), split(last)) {
        (Some((parent, from)), Some((other, to))) if parent == other && from < to => {
            (from + 1..=to).map(|number| format!("{parent}.{number}")).collect()
        }
        _ => vec![last.to_owned()],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC, section, line, and whether a test says it.
    type Found = (u32, String, usize, bool);

    fn found(file: &str, text: &str) -> (Vec<Found>, Vec<String>) {
        let mut citations = Citations::default();
        if file.ends_with(".case") {
            of_case(file, text, &mut citations);
        } else {
            of_source(file, text, &mut citations);
        }
        let all = citations.all.into_iter().map(|it| (it.rfc, it.section, it.line, it.test));
        (all.collect(), citations.faults)
    }

    #[test]
    fn sections_belong_to_the_document_before_them_in_the_same_comment() {
        let text = "/// Lists (RFC 9776 §4.1.6,\n/// §4.1.7, RFC 9777 §5.1.8).\nfn a() {}\n// RFC 1112 appendix I\n\n";
        let expected = [(9776, "4.1.6", 1), (9776, "4.1.7", 2), (9777, "5.1.8", 2), (1112, "appendix I", 4)];
        let (all, faults) = found("src/a.rs", text);
        assert_eq!(all, expected.map(|(rfc, section, line)| (rfc, section.to_owned(), line, false)));
        assert!(faults.is_empty());
    }

    #[test]
    fn a_range_is_every_section_of_it() {
        let (all, _) = found("src/a.rs", "//! RFC 9776 §6.2 to §6.5.\n\n");
        let sections: Vec<_> = all.iter().map(|(_, section, ..)| section.as_str()).collect();
        assert_eq!(sections, ["6.2", "6.3", "6.4", "6.5"]);
    }

    #[test]
    fn a_section_of_no_document_is_a_fault_and_one_of_others_is_not_ours() {
        let (all, faults) = found("src/a.rs", "// see §6.3\nfn a() {}\n// IEEE 802.1Q §9.6\n\n");
        assert_eq!((all.len(), faults), (0, vec!["src/a.rs:1: §6.3 of no document".to_owned()]));
    }

    #[test]
    fn in_tests_only_what_says_so_is_a_proof() {
        let inline = "// RFC 1 §1\nfn a() {}\n#[cfg(test)]\nmod tests {\n    // RFC 1 §2\n    #[test]\n}\n";
        assert_eq!(found("src/a.rs", inline).0.iter().map(|it| it.3).collect::<Vec<_>>(), [false, true]);
        let declared = "#[cfg(test)]\nmod tests;\n// RFC 1 §1\nfn a() {}\n";
        assert!(!found("src/a.rs", declared).0[0].3);
        for file in ["tests/netns/src/a.rs", "src/core_tests.rs", "src/conformance/a.rs"] {
            for proof in ["//! RFC 1 §1\n\n", "// proves A1 and\n// RFC 1 §1\n\n", "/// RFC 1 §1\n#[test]\n"]
            {
                assert!(found(file, proof).0[0].3, "{file} {proof}");
            }
            assert_eq!(found(file, "/// A helper (RFC 1 §1).\nfn a() {}\n").0, []);
        }
    }

    #[test]
    fn a_case_says_what_it_proves() {
        let (all, faults) = found("tests/cases/a.case", "# words\nrfc 9776 §6.6.2\n0 start\n");
        assert_eq!((all, faults), (vec![(9776, "6.6.2".to_owned(), 2, true)], vec![]));
        assert_eq!(found("tests/cases/a.case", "0 start\n").1.len(), 1);
    }

    #[test]
    fn a_place_tells_the_kind_of_its_test() {
        for (file, kind) in [
            ("tests/cases/mld/a.case", Kind::Case),
            ("vmcast-userspace/crates/dataplane/src/conformance/cases/a.rs", Kind::Conformance),
            ("tests/netns/src/labs/a.rs", Kind::Lab),
            ("tests/vm/src/a.rs", Kind::Lab),
            ("tests/fuzz/src/a.rs", Kind::Unit),
            ("vmcast-userspace/crates/proto/tests/amt/a.rs", Kind::Unit),
        ] {
            assert_eq!(Kind::of(file), kind, "{file}");
        }
    }
}
