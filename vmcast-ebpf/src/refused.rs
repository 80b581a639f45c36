//! Copies that the egress device did not take.

use aya_ebpf::programs::RawTracePointContext;
use vmcast_common::verdict::DropReason;

use crate::map;

/// Argument of `xdp_devmap_xmit` (include/trace/events/xdp.h): frames that the device took.
const SENT: usize = 2;
/// Argument of `xdp_devmap_xmit`: frames that it did not get or not take.
const DROPS: usize = 3;

/// Counts what is missing of the flush that has just ended on this CPU.
///
/// The kernel runs the copy program on the frames it holds for a device, gives those that passed to
/// the device and comes here, all without a pause. So the copies noted since the last call are the
/// frames of this flush, if there are any; if there are none, the flush is that of another daemon or
/// of another namespace. `DROPS` also has what the copy program dropped and counted by itself.
#[inline(always)]
pub(crate) fn run(ctx: &RawTracePointContext) {
    if let Some(flush) = map::flush() {
        count(ctx, flush);
        flush.begin();
    }
}

#[inline(always)]
fn count(ctx: &RawTracePointContext, flush: &map::Flush) {
    let drops = ctx.arg::<u32>(DROPS);
    if drops == 0 || flush.passed == 0 {
        return;
    }
    let sent = ctx.arg::<u32>(SENT);
    // A note that is not of this very flush counts nothing.
    if flush.passed.wrapping_add(flush.dropped) == sent.wrapping_add(drops) && flush.passed > sent {
        map::count_drops(DropReason::DeviceRefused, flush.missed(sent));
    }
}
