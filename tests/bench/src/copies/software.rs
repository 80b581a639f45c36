//! The software plane: packets wait in the queue of its socket, and what counts is the time that its
//! thread works, softirqs included that the thread's own sending raises.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result};
use vmcast_lab::Lab;

use super::{
    case::{Case, OVER_IPV6, Output},
    core_time::{CoreTime, ThreadTime},
    engine::{Engine, Receiver, Run},
    plane::{Kind, Plane},
    stand::Stand,
    stream,
};
use crate::{
    kernel::{layout::TAIL_LEN, sink::Sink},
    wire::FrameSocket,
};

/// The name of the plane's thread.
const THREAD: &str = "vmcast-plane";
/// Packets that wait at most: so many fit into the queue as every system grants it.
const QUEUE: usize = 64;
/// Copies of what waits at least, where the queue takes that.
const COPIES_PER_QUEUE: usize = 20_000;
/// Packets of a run, unless it shall be longer.
const MAX_PACKETS: usize = 400;
/// Between two looks at the thread.
const PAUSE: Duration = Duration::from_micros(100);

pub(super) struct SoftwareEngine {
    stand: Stand,
    plane: Plane,
    core: CoreTime,
    worker: ThreadTime,
    socket: FrameSocket,
    number: u64,
}

impl SoftwareEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, Kind::Software.name(), outputs)?;
        let plane = Plane::open(&stand, Kind::Software)?;
        let worker = ThreadTime::of(THREAD)?;
        worker.do_not_preempt()?;
        let socket = stand.far.enter(|| FrameSocket::open(stand.ingress.far_ifindex))??;
        Ok(Self { stand, plane, core: CoreTime::of(0), worker, socket, number: 0 })
    }
}

fn queue(case: &Case) -> usize {
    (COPIES_PER_QUEUE / case.members).clamp(1, QUEUE)
}

impl Engine for SoftwareEngine {
    fn label(&self) -> &'static str {
        self.plane.kind.label()
    }

    fn is_ours(&self) -> bool {
        true
    }

    fn output(&self, case: &Case) -> &'static str {
        match case.output {
            Output::Unicast => "AMT",
            Output::UnicastV6 => OVER_IPV6,
            Output::Native => "native",
        }
    }

    fn burst(&self, case: &Case) -> usize {
        queue(case)
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        self.plane.prepare(&self.stand, case)
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        let Self { stand, plane, core, worker, socket, number } = self;
        plane.counting(case, |range| {
            let mut run = Run { first: *number, ..Run::default() };
            let packets = u64::from(case.packets(Duration::ZERO, MAX_PACKETS));
            let (start, softirqs) = (worker.run()?, core.softirqs());
            while run.packets < packets || run.time < at_least {
                for _ in 0..queue(case) {
                    let group = *number as u32 & (case.groups - 1);
                    let mut frame = stream::frame(stand.ingress.far_mac, range, group, case.payload)?;
                    let tail = frame.len() - TAIL_LEN;
                    frame[tail..].copy_from_slice(&number.to_be_bytes());
                    socket.send(&frame).context("filling the queue")?;
                    *number += 1;
                    run.packets += 1;
                }
                while !worker.sleeps()? {
                    vmcast_lab::signals::check()?;
                    thread::sleep(PAUSE);
                }
                run.time = worker.run()?.saturating_sub(start) + (core.softirqs() - softirqs);
            }
            Ok(run)
        })
    }

    fn clear(&mut self) -> Result<()> {
        self.plane.clear(&self.stand)
    }

    fn explain_loss(&self) -> Result<String> {
        Ok(format!("drops counted by the plane: {}", self.plane.drops()?))
    }
}
