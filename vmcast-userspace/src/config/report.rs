//! What is wrong with a file, shown with the line it is about.

use std::{
    fmt,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{Problem, locate};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The daemon starts, but an operator should look.
    Warning,
    /// The daemon refuses to start.
    Error,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The whole line, without its line feed.
    pub text: String,
    /// Characters that are meant, at least 1.
    pub length: usize,
}

impl Place {
    /// The place of a range of bytes.
    #[must_use]
    pub fn of(text: &str, range: &Range<usize>) -> Self {
        let start = floor_char_boundary(text, range.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor_char_boundary(text, range.end).clamp(start, line_end);
        Self {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            text: text[line_start..line_end].trim_end_matches('\r').to_owned(),
            length: text[start..end].chars().count().max(1),
        }
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file.
    pub file: PathBuf,
    /// Where in it, `None` if it is about the file as a whole.
    pub place: Option<Place>,
    /// What is wrong.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        let file = self.file.display();
        writeln!(f, "{severity}: {}", self.message)?;
        match &self.place {
            None => writeln!(f, "  --> {file}")?,
            Some(Place { line, column, text, length }) => {
                // As wide as the number of the line.
                let margin = " ".repeat(line.to_string().len());
                // Tabs stay tabs, so that the marks stand below what they mark.
                let indent: String =
                    text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
                writeln!(f, "{margin} --> {file}:{line}:{column}")?;
                writeln!(f, "{margin} |")?;
                writeln!(f, "{line} | {text}")?;
                writeln!(f, "{margin} | {indent}{}", "^".repeat(*length))?;
            }
        }
        match &self.hint {
            Some(hint) => writeln!(f, "  hint: {hint}"),
            None => Ok(()),
        }
    }
}

/// Everything that is wrong with a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In the order of the checks.
    pub diagnostics: Vec<Diagnostic>,
}

impl Report {
    /// Places problems in the file.
    #[must_use]
    pub fn of_problems(file: &Path, text: &str, problems: Vec<Problem>) -> Self {
        let place = |problem: Problem| Diagnostic {
            severity: problem.severity,
            file: file.to_owned(),
            place: locate::find(text, &problem.key).map(|range| Place::of(text, &range)),
            message: problem.message,
            hint: problem.hint,
        };
        Self { diagnostics: problems.into_iter().map(place).collect() }
    }

    /// Both reports.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.diagnostics.extend(other.diagnostics);
        self
    }

    /// How many of this severity there are.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// The value with the warnings, or the report if there is an error in it.
    ///
    /// # Errors
    /// The report itself.
    pub fn into_result<T>(self, value: T) -> Result<(T, Self), Self> {
        if self.count(Severity::Error) == 0 { Ok((value, self)) } else { Err(self) }
    }
}

impl From<Diagnostic> for Report {
    fn from(diagnostic: Diagnostic) -> Self {
        Self { diagnostics: vec![diagnostic] }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, diagnostic) in self.diagnostics.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            diagnostic.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_counted_in_characters_and_ends_with_its_line() {
        let text = "a = 1\r\n# é\nname = \"ü\"\n";
        let at = text.find('"').unwrap();
        let place = Place::of(text, &(at..text.len()));
        assert_eq!((place.line, place.column, place.length, place.text.as_str()), (3, 8, 3, "name = \"ü\""));
        assert_eq!(Place::of(text, &(0..1)).text, "a = 1");
    }

    #[test]
    fn a_place_past_the_end_or_inside_a_character_is_still_one() {
        for start in 0..12 {
            for end in 0..12 {
                let place = Place::of("é\nü\n", &(start..end));
                assert!(place.line >= 1 && place.column >= 1 && place.length >= 1);
            }
        }
    }
}
