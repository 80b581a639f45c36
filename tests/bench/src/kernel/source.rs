//! Frames put in without a wire.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf,
    maps::{MapData, ProgramArray},
    programs::{ProgramFd, TestRun as _, TestRunAttrs, TestRunOptions, Xdp},
};

use super::{
    One,
    layout::{
        CHECKSUM_AT, ETHER_TYPE_AT, FEED, Feed, GROUP_AT, GROUP_V6_AT, HEAD, HEAD_LEN, HEAD_V4_LEN, NEXT,
        PROGRAM_SOURCE, TAIL_LEN,
    },
    load, program, take,
};

/// Where the IPv4 header starts.
const IPV4_AT: usize = 14;

/// Puts in live frames (`BPF_PROG_TEST_RUN`, Linux 5.18). The kernel uses each frame's page again as
/// whoever had it left it; a program of ours makes headers and number new each time.
pub(crate) struct Source {
    object: Ebpf,
    head: One<[u8; HEAD_LEN]>,
    feed: One<Feed>,
    next: ProgramArray<MapData>,
    number: u64,
}

/// What to put in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load<'a> {
    /// As which interface received it.
    pub(crate) ingress: u32,
    pub(crate) frame: &'a [u8],
    /// Groups that take turns: with the part, the last two bytes of the destination.
    pub(crate) groups: u32,
    /// Frames of each packet, with one number.
    pub(crate) parts: u32,
    /// Frames.
    pub(crate) frames: u32,
    /// Frames at a time.
    pub(crate) batch: u32,
}

impl Source {
    /// Loads it in front of the stack.
    pub(crate) fn load() -> Result<Self> {
        let mut object = load(NEXT, 1)?;
        let (head, feed, next) =
            (take(&mut object, HEAD)?, take(&mut object, FEED)?, take(&mut object, NEXT)?);
        program::<Xdp>(&mut object, PROGRAM_SOURCE)?.load().context("loading the source")?;
        Ok(Self { object, head, feed, next, number: 0 })
    }

    /// Goes on with this program from now on.
    pub(crate) fn go_on_with(&mut self, program: &ProgramFd) -> Result<()> {
        self.next.set(0, program, 0).context("putting the program behind the source")
    }

    /// Number of the next packet.
    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    /// Puts frames in. Returns the time of it all by the kernel's clock, without setting up the run: the
    /// programs, the copies, and what softirqs on this core did with them meanwhile.
    pub(crate) fn run(&mut self, load: Load<'_>) -> Result<Duration> {
        let Load { ingress, frame, groups, parts, frames, batch } = load;
        ensure!(frame.len() >= HEAD_LEN + TAIL_LEN, "a frame of {} bytes is too short", frame.len());
        ensure!(parts > 0 && frames.is_multiple_of(parts), "{frames} frames of {parts} parts");
        let mut head: [u8; HEAD_LEN] = frame[..HEAD_LEN].try_into()?;
        let is_ipv6 = head[ETHER_TYPE_AT..ETHER_TYPE_AT + 2] == [0x86, 0xdd];
        let variable: &[usize] = if is_ipv6 { &[GROUP_V6_AT] } else { &[CHECKSUM_AT, GROUP_AT] };
        variable.iter().for_each(|at| head[*at..at + 2].fill(0));
        let words = head[IPV4_AT..HEAD_V4_LEN]
            .chunks_exact(2)
            .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let feed = Feed {
            next: self.number,
            places: groups * parts,
            place: (self.number % u64::from(groups)) as u32 * parts,
            sum: words.sum(),
            tail: u32::try_from(frame.len() - TAIL_LEN)?,
            parts,
            done: 0,
            is_ipv6: is_ipv6.into(),
            reserved: 0,
        };
        self.head.set(0, head, 0)?;
        self.feed.set(0, feed, 0)?;
        let context = context(u32::try_from(frame.len())?, ingress);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(batch),
            ..TestRunOptions::default()
        };
        let program: &mut Xdp = program(&mut self.object, PROGRAM_SOURCE)?;
        let result = program.test_run(options).context("live frames need Linux 5.18")?;
        self.number += u64::from(frames / parts);
        Ok(result.duration * frames)
    }
}

/// A `struct xdp_md` (linux/bpf.h): `data`, `data_end`, `data_meta`, `ingress_ifindex`,
/// `rx_queue_index`, `egress_ifindex`.
fn context(length: u32, ingress: u32) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (to, field) in bytes.chunks_exact_mut(4).zip([0, length, 0, ingress, 0, 0]) {
        to.copy_from_slice(&field.to_ne_bytes());
    }
    bytes
}
