//! What failed tests said, to be said again at the end: who looks at a long log reads its last lines first.

/// Lines kept of each failed test, the first of its words.
const LINES: usize = 30;

/// Listens to test programs and keeps what they say of their failures.
#[derive(Debug, Default)]
pub(super) struct Failures {
    kept: Vec<Failure>,
    open: bool,
}

/// A test that failed.
#[derive(Debug)]
pub(super) struct Failure {
    name: String,
    lines: Vec<String>,
    left_out: usize,
    alone: bool,
}

impl Failure {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Run alone it has passed.
    pub(super) fn passes_alone(&mut self) {
        self.alone = true;
    }
}

impl Failures {
    /// Takes the next line of what a test program prints.
    pub(super) fn hear(&mut self, line: &str) {
        if let Some(name) = title(line) {
            let name = name.to_owned();
            self.kept.push(Failure { name, lines: Vec::new(), left_out: 0, alone: false });
            self.open = true;
        } else if line.trim_end() == "failures:" || line.starts_with("test result:") {
            self.open = false;
        } else if let (true, Some(last)) = (self.open, self.kept.last_mut())
            && !line.trim().is_empty()
        {
            if last.lines.len() < LINES {
                last.lines.push(line.to_owned());
            } else {
                last.left_out += 1;
            }
        }
    }

    /// How many so far.
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// Those after so many.
    pub(super) fn since(&mut self, count: usize) -> &mut [Failure] {
        &mut self.kept[count..]
    }

    /// Prints them.
    pub(super) fn print(&self) {
        for failure in &self.kept {
            if failure.alone {
                println!(
                    "\nUNSTEADY test {}: passed when it was run again alone; before, it said",
                    failure.name
                );
            } else {
                println!("\nFAILED test {}", failure.name);
            }
            for line in &failure.lines {
                println!("  {line}");
            }
            if failure.left_out > 0 {
                println!("  … and {} lines more, above", failure.left_out);
            }
        }
    }
}

/// The test whose words follow: `---- NAME stdout ----`, or without `stdout`.
fn title(line: &str) -> Option<&str> {
    let name = line.trim_end().strip_prefix("---- ")?.strip_suffix(" ----")?;
    Some(name.strip_suffix(" stdout").unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Vec<(String, Vec<String>, usize)> {
        let mut failures = Failures::default();
        for line in text.lines() {
            failures.hear(line);
        }
        failures.kept.into_iter().map(|failure| (failure.name, failure.lines, failure.left_out)).collect()
    }

    #[test]
    fn the_words_of_each_failed_test_are_kept() {
        let text = "test a ... FAILED\n\nfailures:\n\n---- a stdout ----\nleft: 1\nright: 2\n\n---- b: c, d ----\nlost\n\n\
                    failures:\n    a\n    b: c, d\n\ntest result: FAILED. 0 passed; 2 failed\nother words\n";
        let expected = [("a", vec!["left: 1", "right: 2"]), ("b: c, d", vec!["lost"])];
        let expected = expected.map(|(name, lines)| {
            (name.to_owned(), lines.into_iter().map(str::to_owned).collect::<Vec<_>>(), 0)
        });
        assert_eq!(heard(text), expected);
    }

    #[test]
    fn of_a_long_speech_the_beginning_is_kept() {
        let text = format!("---- a ----\n{}", "word\n".repeat(LINES + 7));
        let heard = heard(&text);
        assert_eq!((heard[0].1.len(), heard[0].2), (LINES, 7));
    }

    #[test]
    fn tests_that_pass_say_nothing() {
        assert!(heard("running 1 test\ntest a ... ok\n\ntest result: ok. 1 passed; 0 failed\n").is_empty());
    }
}
