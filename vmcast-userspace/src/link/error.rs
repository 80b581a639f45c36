//! What can go wrong between a node and its admins.

use std::error::Error as _;

use vmcast_signal::tonic::{Code, Status};

use crate::{admin::REFUSAL, identity::Refusal};

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
    #[error("{}; {url}: {reason}", none_answers(reason))]
    Unreachable {
        /// The last one tried.
        url: String,
        /// What happened.
        reason: String,
    },
    /// No admin takes this node's certificate, of those that answer.
    #[error("{url}: {reason}")]
    NotTaken {
        /// Which admin.
        url: String,
        /// What it said.
        reason: String,
        /// What it has against it.
        objection: Objection,
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

/// What an admin has against the certificate of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objection {
    /// It is not good any more, or of another authority.
    NotGood,
    /// There is no record of it: the admin has not heard of it yet, or has lost its registry.
    Unknown,
    /// It is out of its time by the clock of the admin.
    OutOfTime,
}

impl Objection {
    /// What the answer of an admin has against the certificate, if it is about that.
    pub(super) fn of(status: &Status) -> Option<Self> {
        if is_transport(status) {
            let failure = causes(status);
            if !is_not_taken(&failure) {
                return None;
            }
            return Some(if is_out_of_time(&failure) { Self::OutOfTime } else { Self::NotGood });
        }
        if status.code() != Code::Unauthenticated {
            return None;
        }
        let refusal = status.metadata().get(REFUSAL).and_then(|label| label.to_str().ok());
        let is = |of: Refusal| refusal == Some(of.label());
        Some(if is(Refusal::CertificateUnknown) {
            Self::Unknown
        } else if is(Refusal::CertificateExpired) {
            Self::OutOfTime
        } else {
            Self::NotGood
        })
    }
}

impl AdminError {
    /// Whether the admin answered and does not want this node, so that somebody must act.
    pub(super) const fn is_refusal(&self) -> bool {
        match self {
            Self::Duplicate(_) | Self::Refused { .. } | Self::NotTaken { .. } => true,
            Self::Url { .. }
            | Self::NoAdmin
            | Self::Unreachable { .. }
            | Self::NotRegistered(_)
            | Self::Answer(_) => false,
        }
    }

    /// Whether the admin has shut this node out, as after its revocation: it is no node of this network any more.
    pub(super) const fn shuts_out(&self) -> bool {
        match self {
            // An admin that is behind says nothing of a node that is in.
            Self::NotTaken { objection, .. } => !matches!(objection, Objection::Unknown),
            Self::Refused { code, .. } => matches!(code, Code::Unauthenticated | Code::PermissionDenied),
            Self::Url { .. }
            | Self::NoAdmin
            | Self::Unreachable { .. }
            | Self::Duplicate(_)
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

/// What rustls says of an admin whose certificate another authority has signed.
const FOREIGN: &str = "invalid peer certificate: UnknownIssuer";

/// Somebody answers who is none of the admins that this node looks for: time alone does not help.
fn none_answers(reason: &str) -> &'static str {
    if reason.contains(FOREIGN) {
        "no admin of the authority of this node's token or certificate answers"
    } else {
        "no admin can be reached"
    }
}

/// What a TLS handshake that fails is called. An alert that comes before its end is of somebody of whom nothing is known
/// yet.
pub(super) const HANDSHAKE: &str = "no TLS handshake";

/// Whether a failure is the answer of an admin that does not take the certificate of this node. It comes after the handshake
/// has ended for the node, encrypted by an admin that has shown its own certificate (RFC 8446 §4.4.2.4).
fn is_not_taken(failure: &str) -> bool {
    !failure.contains(HANDSHAKE) && failure.contains("received fatal alert: ") && alert(failure).is_some()
}

/// Whether that is since the certificate is out of its time by the clock of the admin.
fn is_out_of_time(failure: &str) -> bool {
    failure.contains("received fatal alert: CertificateExpired")
}

/// What a failure of TLS (RFC 8446 §6) means here. An admin that refuses a certificate can say it by an alert alone.
fn alert(text: &str) -> Option<&'static str> {
    if text.contains(FOREIGN) {
        return Some(
            "the admin's certificate is of another authority than this node's token or certificate: is the URL \
             right? If the admin was set up anew, join again with a new token",
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
        "CertificateRevoked" | "AccessDenied" | "CertificateUnknown" | "UnsupportedCertificate" => {
            "the admin does not take this node's certificate: join again with a new token"
        }
        _ => return None,
    })
}
