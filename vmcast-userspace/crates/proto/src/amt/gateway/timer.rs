//! The timers of a gateway.

/// What a gateway waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Timer {
    /// Data that flowed has come no more for longer than its pace explains (no RFC asks for it; 50 ms and more).
    Flow,
    /// An answer to a Relay Discovery (RFC 7450 §5.2.3.4; 1 s, doubling to 120 s).
    DiscoveryRetransmission,
    /// An answer to a Request (RFC 7450 §5.2.3.5; 1 s, doubling to 120 s).
    RequestRetransmission,
    /// The time to shake hands again (RFC 7450 §5.2.3.5, the query interval of RFC 9776 §8.2;
    /// 125 s).
    Query,
    /// The time to repeat reports and Teardowns, which nobody acknowledges (the unsolicited report
    /// interval of RFC 9776 §8.11; up to 1 s).
    ReportRetransmission,
}
