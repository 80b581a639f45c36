//! Frames put into the kernel plane without a wire, for benchmarks and tests.

use std::time::Duration;

use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions};
use vmcast_common::{fib::IfIndex, maps::PROGRAM_INGRESS};

use super::{open::xdp, plane::XdpPlane};

/// Most frames that the kernel makes before it lets their copies go (`net/bpf/test_run.c`).
pub const MAX_LIVE_BATCH: u32 = 256;

/// What a run of live frames took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveRun {
    /// Frames put in.
    pub packets: u32,
    /// Mean time per frame by the kernel's clock, without setting up the run: the ingress program,
    /// the copies, and what softirqs on this core did with them meanwhile.
    pub per_packet: Duration,
}

/// The kernel refused a run of live frames.
#[derive(Debug, thiserror::Error)]
#[error("putting live frames into the ingress program: {0}")]
pub struct InjectError(Box<dyn std::error::Error + Send + Sync>);

impl XdpPlane {
    /// Runs the ingress program on `packets` frames as if `ingress` had received them, `batch` at a
    /// time, and lets their copies out on the real interfaces (`BPF_PROG_TEST_RUN` with live frames,
    /// Linux 5.18). For benchmarks and tests.
    ///
    /// The kernel uses each frame's page again once its copies are gone, as the programs left it, and
    /// sets back its bounds alone. So only the first `batch` frames are sure to be `frame`; later ones
    /// have a lower time to live each time, and an Ethernet header that depends on the last slot of
    /// the member table: a native member there leaves a good one, a tunnel does not.
    ///
    /// The calling thread must be in the network namespace of `ingress`, which must be set.
    ///
    /// # Errors
    /// If the kernel is too old or refuses an argument.
    pub fn inject_live(
        &mut self,
        ingress: IfIndex,
        frame: &[u8],
        packets: u32,
        batch: u32,
    ) -> Result<LiveRun, InjectError> {
        let length = u32::try_from(frame.len()).map_err(|error| InjectError(error.into()))?;
        let context = context(length, ingress);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::default()
        };
        let program = xdp(&mut self.object, PROGRAM_INGRESS).map_err(|error| InjectError(error.into()))?;
        let result = program.test_run(options).map_err(|error| InjectError(error.into()))?;
        Ok(LiveRun { packets, per_packet: result.duration })
    }
}

/// A `struct xdp_md` (linux/bpf.h): `data`, `data_end`, `data_meta`, `ingress_ifindex`,
/// `rx_queue_index`, `egress_ifindex`.
fn context(length: u32, ingress: IfIndex) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (to, field) in bytes.chunks_exact_mut(4).zip([0, length, 0, ingress.0, 0, 0]) {
        to.copy_from_slice(&field.to_ne_bytes());
    }
    bytes
}
