//! `[record]`: recordings of the protocol machines.

use std::path::PathBuf;

use serde::Deserialize;

use super::{Problem, sections::relative_path};

/// `[record]`: recordings of the protocol machines, for whoever looks for a fault.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RecordConfig {
    /// Where they are written; `None`: there are none.
    pub directory: Option<PathBuf>,
    /// How much is written in all, in megabytes, 1 to 1,000.
    pub megabytes: u32,
}

impl RecordConfig {
    const MOST: u32 = 1_000;

    /// How much is written in all, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.megabytes as usize * 1_000_000
    }

    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(1..=Self::MOST).contains(&self.megabytes) {
            let message = format!("{} is not from 1 to {}", self.megabytes, Self::MOST);
            problems.push(Problem::error("record.megabytes", message));
        }
        problems.extend(self.directory.as_deref().and_then(|path| relative_path("record.directory", path)));
        problems
    }
}

impl Default for RecordConfig {
    fn default() -> Self {
        Self { directory: None, megabytes: 16 }
    }
}
