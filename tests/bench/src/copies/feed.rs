//! Engines in the kernel get live frames, as if their ingress interface had received them.

use std::time::Duration;

use anyhow::Result;

use super::{case::Case, core_time::CoreTime, engine::Run, stand::Stand, stream};
use crate::kernel::source::{Load, Source};

/// Packets of one call at most.
const MAX_PACKETS: usize = 65_536;
/// And at least.
const LEAST_PACKETS: u32 = 20;
/// How long the thread of the softirqs must have had nothing to do, and how often that is looked for at most.
const SETTLE: (Duration, u32) = (Duration::from_millis(4), 15_000);

/// The source, and the time of the core that works for it.
pub(super) struct Feeder {
    pub(super) source: Source,
    core: CoreTime,
}

impl Feeder {
    pub(super) fn load() -> Result<Self> {
        Ok(Self { source: Source::load()?, core: CoreTime::of(0) })
    }

    /// Puts in packets of a range of groups.
    pub(super) fn run(&mut self, stand: &Stand, case: &Case, range: u8, at_least: Duration) -> Result<Run> {
        stand.dut.enter(|| self.run_here(stand, case, 1, range, at_least))?
    }

    /// Puts in packets that so many parts of the members get one after the other, each from a frame of its own: an
    /// engine goes on by itself with the next members when others had their turn, a floor cannot.
    pub(super) fn run_in_parts(
        &mut self,
        stand: &Stand,
        case: &Case,
        parts: u32,
        at_least: Duration,
    ) -> Result<Run> {
        stand.dut.enter(|| self.run_here(stand, case, parts, 0, at_least))?
    }

    fn run_here(
        &mut self,
        stand: &Stand,
        case: &Case,
        parts: u32,
        range: u8,
        at_least: Duration,
    ) -> Result<Run> {
        let frame = stream::first_frame(stand.ingress.far_mac, range, case)?;
        // What a frame has copies of.
        let part = Case { members: case.members.div_ceil(parts as usize), ..*case };
        let load = |packets| Load {
            ingress: stand.ingress.ifindex,
            frame: &frame,
            groups: case.groups,
            parts,
            frames: packets * parts,
            batch: part.batch() as u32,
        };
        let mut run = Run { first: self.source.number(), ..Run::default() };
        let softirqs = self.core.softirqs();
        if part.one_at_a_time() {
            let packets = case.packets(at_least, MAX_PACKETS);
            // Setting a call up takes longer than the copies of a packet.
            for _ in 0..packets {
                run.time += self.source.run(load(1))?;
            }
            run.packets = packets.into();
        } else {
            let packets = (part.packets(at_least, MAX_PACKETS) / parts).max(LEAST_PACKETS).max(case.groups);
            while run.packets == 0 || run.time < at_least {
                run.time += self.source.run(load(packets))?;
                run.packets += u64::from(packets);
            }
        }
        // The kernel's own time of a run leaves out when the core was given to somebody else.
        run.time += self.settled() - softirqs;
        Ok(run)
    }

    /// How long the thread of the softirqs has run once it has no more to do: copies that go through a relay
    /// device are made when the call is over.
    fn settled(&self) -> Duration {
        let mut last = self.core.softirqs();
        for _ in 0..SETTLE.1 {
            std::thread::sleep(SETTLE.0);
            let now = self.core.softirqs();
            if now == last && self.core.rests() {
                break;
            }
            last = now;
        }
        last
    }
}
