//! The timers of a relay.

/// What a relay waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// The next tunnel without a Membership Update for robustness × query interval + query
    /// response interval ends (RFC 7450 §5.3.3, RFC 9776 §8.4; 260 s).
    MembershipExpiry,
    /// The next tunnel without groups ends (30 s; no RFC asks for it).
    IdleLinger,
    /// A new secret for the Response MAC (RFC 7450 §5.3; 2 h).
    SecretRotation,
}
