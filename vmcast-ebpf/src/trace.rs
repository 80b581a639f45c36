//! Every verdict in words, for one who looks for a packet; built with the feature `trace` alone.

use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::{debug, trace};
use vmcast_common::{
    maps::{InputId, StreamKey},
    verdict::Verdict,
};

/// Logs what was decided: a frame or a packet at `trace`, what an operator may want to know at `debug`.
/// Inputs are [`InputId`]s, reasons are numbers of `DropReason` and `PuntReason`.
#[inline(always)]
pub(crate) fn verdict(ctx: &XdpContext, verdict: &Verdict) {
    match verdict {
        Verdict::Pass => trace!(ctx, "pass: interface={}", ctx.ingress_ifindex() as u32),
        Verdict::PassAndPunt(reason, InputId(input), StreamKey { source, group }) => debug!(
            ctx,
            "pass and punt: reason={} input={} source={:i} group={:i}",
            *reason as u32,
            *input,
            *source,
            *group
        ),
        Verdict::Refuse(refusal) => debug!(
            ctx,
            "refuse: reason={} input={} source={:i} group={:i}",
            refusal.reason.index(),
            refusal.input.0,
            refusal.stream.source,
            refusal.stream.group
        ),
        Verdict::Replicate(packet) => trace!(
            ctx,
            "replicate: table={} input={} source={:i} group={:i}",
            packet.table,
            packet.input.0,
            packet.stream.source,
            packet.stream.group
        ),
    }
}
