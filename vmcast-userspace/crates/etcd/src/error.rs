//! What can go wrong.

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A URL of the settings cannot be read.
    #[error("\"{url}\" is no URL of an etcd: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No endpoint is given.
    #[error("no URL of an etcd is given")]
    NoEndpoint,
    /// No endpoint answered, or the cluster has no leader. Whether the call took effect is not known.
    #[error("no etcd answers at {urls}: {reason}")]
    Unavailable {
        /// The endpoints that were tried.
        urls: String,
        /// What the last one said.
        reason: String,
    },
    /// The cluster understood the call and refuses it.
    #[error("etcd refuses: {0}")]
    Refused(String),
    /// The history behind a watch is gone: everything is to be read again.
    #[error("etcd has compacted its history up to revision {0}")]
    Compacted(i64),
}

impl Error {
    /// Whether the same call may succeed later.
    #[must_use]
    pub const fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}
