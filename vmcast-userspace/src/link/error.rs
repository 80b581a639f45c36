//! What can go wrong between a node and its admins.

use std::error::Error as _;

use vmcast_signal::tonic::{Code, Status};

/// Why a call had no result.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Not a URL of the form `https://host:port`, or `http://` where that is allowed.
    #[error("{url:?} is not the URL of an admin: {reason}")]
    Url {
        /// The text.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// No admin was named.
    #[error("no admin is configured")]
    NoAdmin,
    /// No admin answered; the reason is that of the last one tried.
    #[error("no admin can be reached; {url}: {reason}")]
    Unreachable {
        /// The last one tried.
        url: String,
        /// What happened.
        reason: String,
    },
    /// The admin does not know the caller, or no longer.
    #[error("the admin does not know this node: {0}")]
    NotRegistered(String),
    /// Another live node has one of the endpoints.
    #[error("the registration is a duplicate: {0}")]
    Duplicate(String),
    /// The admin refuses for another reason.
    #[error("the admin refuses: {reason} ({code:?})")]
    Refused {
        /// The kind.
        code: Code,
        /// Its words.
        reason: String,
    },
    /// The admin's answer makes no sense.
    #[error("the admin's answer cannot be read: {0}")]
    Answer(String),
}

impl AdminError {
    /// Whether the admin answered and does not want this node, so that somebody must act.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Duplicate(_) | Self::Refused { .. } => true,
            Self::Url { .. }
            | Self::NoAdmin
            | Self::Unreachable { .. }
            | Self::NotRegistered(_)
            | Self::Answer(_) => false,
        }
    }

    /// What a status of the admin at `url` means.
    pub(crate) fn of(url: &str, status: &Status) -> Self {
        if is_transport(status) {
            Self::Unreachable { url: url.to_owned(), reason: causes(status) }
        } else {
            Self::refused(status)
        }
    }

    pub(super) fn refused(status: &Status) -> Self {
        let reason = status.message().to_owned();
        match status.code() {
            Code::NotFound => Self::NotRegistered(reason),
            Code::AlreadyExists => Self::Duplicate(reason),
            code => Self::Refused { code, reason },
        }
    }
}

/// Whether another admin, or the same one later, might do better.
pub(super) fn is_transport(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown)
}

/// A status and the chain of what caused it, since a transport error alone says nothing.
pub(super) fn causes(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = status.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    match alert(&text) {
        Some(meaning) => format!("{meaning} ({text})"),
        None => text,
    }
}

/// What a failure of TLS (RFC 8446 §6) means here. An admin that refuses a certificate can say it by an alert alone.
fn alert(text: &str) -> Option<&'static str> {
    if text.contains("invalid peer certificate: UnknownIssuer") {
        return Some(
            "the admin's certificate is of another authority than this node's: is the URL right? If the admin was \
             set up anew, join again with a new token",
        );
    }
    let (_, alert) = text.split_once("received fatal alert: ")?;
    Some(match alert.split(|c: char| !c.is_ascii_alphanumeric()).next()? {
        "UnknownCA" | "DecryptError" | "BadCertificate" => {
            "the admin does not take this node's certificate, which is of another authority: join again with a new \
             token"
        }
        "CertificateExpired" => {
            "the admin does not take this node's certificate, which has expired or begins later: set the clock right, \
             or join again with a new token"
        }
        _ => return None,
    })
}
