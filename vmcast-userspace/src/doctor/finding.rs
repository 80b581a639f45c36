//! What was found.

use serde::Serialize;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, but slower, or not for everybody.
    Warning,
    /// Streams are lost, or the router does not start.
    Error,
}

/// Something about this host or one of its interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// The interface; `None` for the host.
    pub(crate) interface: Option<String>,
    /// How bad it is.
    pub(crate) level: Level,
    /// What was found.
    pub(crate) found: String,
    /// What follows from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) means: Option<String>,
    /// What mends it: a command, or a change of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
}

impl Finding {
    fn new(level: Level, found: impl Into<String>) -> Self {
        Self { interface: None, level, found: found.into(), means: None, mend: None }
    }

    pub(super) fn ok(found: impl Into<String>) -> Self {
        Self::new(Level::Ok, found)
    }

    pub(super) fn warning(found: impl Into<String>, means: impl Into<String>) -> Self {
        Self { means: Some(means.into()), ..Self::new(Level::Warning, found) }
    }

    pub(super) fn error(found: impl Into<String>, means: impl Into<String>) -> Self {
        Self { means: Some(means.into()), ..Self::new(Level::Error, found) }
    }

    pub(super) fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }
}

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// How many findings are errors.
    pub(crate) errors: usize,
    /// How many are warnings.
    pub(crate) warnings: usize,
    /// The host's first, then interface by interface.
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        Self { errors: count(Level::Error), warnings: count(Level::Warning), findings }
    }
}
