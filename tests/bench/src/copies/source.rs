//! Frames put into the kernel plane without a wire.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};
use vmcast_common::{
    fib::IfIndex,
    maps::{PROGRAM_SOURCE, SOURCE_HEAD, SOURCE_HEAD_LEN, SOURCE_NEXT},
};

use crate::sink;

/// Feeds a program with live frames (`BPF_PROG_TEST_RUN`, Linux 5.18). The kernel uses each frame's
/// page again as the programs left it; a program of ours makes its headers new each time.
pub(super) struct Source {
    object: Ebpf,
}

impl Source {
    /// Loads it in front of a program.
    pub(super) fn load(next: &ProgramFd) -> Result<Self> {
        let mut object = EbpfLoader::new().load(sink::object()?).context("loading the source")?;
        let map = object.map_mut(SOURCE_NEXT).ok_or_else(|| anyhow!("{SOURCE_NEXT} is missing"))?;
        ProgramArray::try_from(map)?.set(0, next, 0).context("putting the program behind the source")?;
        program(&mut object)?.load().context("loading the source's program")?;
        Ok(Self { object })
    }

    /// Puts in `packets` times the frame as if `ingress` had received it, `batch` at a time. Returns the
    /// time of it all by the kernel's clock, without setting up the run: the programs, the copies, and
    /// what softirqs on this core did with them meanwhile.
    pub(super) fn run(
        &mut self,
        ingress: IfIndex,
        frame: &[u8],
        packets: u32,
        batch: u32,
    ) -> Result<Duration> {
        ensure!(frame.len() >= SOURCE_HEAD_LEN, "a frame of {} bytes is too short", frame.len());
        let head: [u8; SOURCE_HEAD_LEN] = frame[..SOURCE_HEAD_LEN].try_into()?;
        let map = self.object.map_mut(SOURCE_HEAD).ok_or_else(|| anyhow!("{SOURCE_HEAD} is missing"))?;
        Array::<_, [u8; SOURCE_HEAD_LEN]>::try_from(map)?.set(0, head, 0)?;
        let context = context(u32::try_from(frame.len())?, ingress);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: packets,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::default()
        };
        let result = program(&mut self.object)?.test_run(options).context("live frames need Linux 5.18")?;
        Ok(result.duration * packets)
    }
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp> {
    let program = object.program_mut(PROGRAM_SOURCE).ok_or_else(|| anyhow!("{PROGRAM_SOURCE} is missing"))?;
    Ok(program.try_into()?)
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
