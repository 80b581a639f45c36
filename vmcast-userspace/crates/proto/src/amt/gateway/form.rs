//! How a Request is written.

use crate::amt::encapsulated::Protocol;

/// How a Request is written. Until it is known whether the relay takes the E flag, those of a handshake take turns, for
/// Linux's relay drops a Request with reserved bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// With the E flag (RFC 9601 §6.1.4.2), which is a reserved bit to Linux.
    Ecn,
    /// Without.
    Plain,
    /// For MLD, with the P flag where Linux has it; see [`Message::linux_request`].
    ///
    /// [`Message::linux_request`]: vmcast_wire::amt::Message::linux_request
    LinuxMld,
}

impl Form {
    /// The form of a Request that comes after so many others of its handshake, with the E flag or without if that is
    /// settled.
    pub(super) const fn after(sent_before: u32, protocol: Protocol, flag: Option<bool>) -> Self {
        match (protocol, flag) {
            (_, Some(true)) => Self::Ecn,
            (Protocol::Igmp, Some(false)) => Self::Plain,
            (Protocol::Mld, Some(false)) if sent_before % 2 == 1 => Self::Plain,
            (Protocol::Mld, Some(false)) => Self::LinuxMld,
            (Protocol::Igmp, None) if sent_before.is_multiple_of(2) => Self::Ecn,
            (Protocol::Igmp, None) => Self::Plain,
            (Protocol::Mld, None) => match sent_before % 3 {
                0 => Self::Ecn,
                1 => Self::Plain,
                _ => Self::LinuxMld,
            },
        }
    }
}
