//! Small records that the store keeps beside nodes and cache, and does not read.

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// The certificate authority that all admins of this registry share; one record.
    Authority,
    /// A join token, by its id.
    Token,
    /// A certificate, by `NODE/SERIAL`.
    Certificate,
    /// How often, and when, a node was revoked, by its id.
    Revocation,
    /// The certificate that a name was last given to, by the node's id. Those that earlier versions gave have none.
    Name,
    /// The policy: who may send to and receive what; one record.
    Policy,
    /// The joins that a VMR refuses by the policy, by its id.
    Refused,
    /// The time that the admins of this registry have seen pass; one record.
    Seen,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Authority,
        Self::Token,
        Self::Certificate,
        Self::Revocation,
        Self::Name,
        Self::Policy,
        Self::Refused,
        Self::Seen,
    ];

    /// As it stands in stores.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Revocation => "revocation",
            Self::Name => "name",
            Self::Policy => "policy",
            Self::Refused => "refused",
            Self::Seen => "seen",
        }
    }

    /// The kind of a label.
    #[must_use]
    pub fn of_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.label() == label)
    }
}

/// What must stand in the store for a commit of records to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Of this kind,
    pub kind: RecordKind,
    /// by this key,
    pub key: String,
    /// this; `None`: nothing.
    pub value: Option<Vec<u8>>,
}

/// A change of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordWrite {
    /// Of this kind,
    pub kind: RecordKind,
    /// by this key,
    pub key: String,
    /// this; `None` removes it.
    pub value: Option<Vec<u8>>,
}
