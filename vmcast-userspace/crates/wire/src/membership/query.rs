//! Queries that can list sources: IGMPv3 (RFC 9776 §4.1) and MLDv2 (RFC 9777 §5.1).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::{
    WireAddress, code, count,
    reader::{Reader, Truncated},
};

/// Length of what follows the group, without sources, in bytes.
const TAIL_LEN: usize = 4;
const SUPPRESS: u8 = 0x08;
const ROBUSTNESS_MASK: u8 = 0x07;

/// A query of IGMPv3 or MLDv2; what follows its group is the same in both:
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// | Flags |S| QRV |     QQIC      |     Number of Sources (N)     |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |            Source Address [1 .. N] (4 or 16 bytes)            |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryV3<A> {
    /// Longest time until the answer: Max Resp Time, in steps of 1/10 s up to 53 minutes, or Maximum
    /// Response Delay of MLD, in steps of 1 ms up to 2 h 19 min; what the code cannot say is rounded
    /// down when written.
    pub max_resp_time: Duration,
    /// The group asked for, unspecified in a General Query.
    pub group: A,
    /// The S flag: routers that hear it leave their timers alone.
    pub suppress_router_side_processing: bool,
    /// The querier's Robustness Variable, 0 if it is above 7 (RFC 9776 §4.1.6, RFC 9777 §5.1.8).
    pub robustness_variable: u8,
    /// The querier's Query Interval, in whole seconds up to 31,744; rounded down when written.
    pub query_interval: Duration,
    /// The sources asked for, in a Group-and-Source-Specific Query.
    pub sources: Vec<A>,
}

impl<A: Copy> QueryV3<A> {
    /// The same with every address turned into another kind, or the first that cannot be.
    pub(super) fn try_convert<B, E>(
        &self,
        convert: impl Fn(A) -> Result<B, E> + Copy,
    ) -> Result<QueryV3<B>, E> {
        Ok(QueryV3 {
            max_resp_time: self.max_resp_time,
            group: convert(self.group)?,
            suppress_router_side_processing: self.suppress_router_side_processing,
            robustness_variable: self.robustness_variable,
            query_interval: self.query_interval,
            sources: self.sources.iter().copied().map(convert).collect::<Result<_, _>>()?,
        })
    }

    fn widen(self, convert: impl Fn(A) -> IpAddr) -> QueryV3<IpAddr> {
        QueryV3 {
            max_resp_time: self.max_resp_time,
            group: convert(self.group),
            suppress_router_side_processing: self.suppress_router_side_processing,
            robustness_variable: self.robustness_variable,
            query_interval: self.query_interval,
            sources: self.sources.into_iter().map(convert).collect(),
        }
    }
}

impl From<QueryV3<Ipv4Addr>> for QueryV3<IpAddr> {
    fn from(query: QueryV3<Ipv4Addr>) -> Self {
        query.widen(IpAddr::V4)
    }
}

impl From<QueryV3<Ipv6Addr>> for QueryV3<IpAddr> {
    fn from(query: QueryV3<Ipv6Addr>) -> Self {
        query.widen(IpAddr::V6)
    }
}

impl<A: WireAddress> QueryV3<A> {
    /// Bytes that [`QueryV3::emit_tail`] writes.
    pub(crate) const fn tail_len(&self) -> usize {
        TAIL_LEN + A::LEN * self.sources.len()
    }

    /// Writes what follows the group.
    pub(crate) fn emit_tail(&self, out: &mut Vec<u8>) {
        let suppress = if self.suppress_router_side_processing { SUPPRESS } else { 0 };
        let robustness =
            if self.robustness_variable > ROBUSTNESS_MASK { 0 } else { self.robustness_variable };
        let interval = u32::try_from(self.query_interval.as_secs()).unwrap_or(code::MAX);
        out.extend_from_slice(&[suppress | robustness, code::encode(interval)]);
        out.extend_from_slice(&count(self.sources.len()));
        self.sources.iter().for_each(|source| source.append_to(out));
    }

    /// Reads what follows the group.
    pub(crate) fn parse_tail(
        max_resp_time: Duration,
        group: A,
        reader: &mut Reader<'_>,
    ) -> Result<Self, Truncated> {
        let flags = reader.u8()?;
        let interval = reader.u8()?;
        let sources = reader.u16()?;
        Ok(Self {
            max_resp_time,
            group,
            suppress_router_side_processing: flags & SUPPRESS != 0,
            robustness_variable: flags & ROBUSTNESS_MASK,
            query_interval: Duration::from_secs(u64::from(code::decode(interval))),
            sources: reader.addresses(sources)?,
        })
    }
}
