//! Sends packets that end with the moment at which they should have been sent.

use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};

use super::PAYLOAD;
use crate::{
    copies::{stand::Stand, stream},
    kernel::layout::{TAIL_LEN, mark},
    wire::FrameSocket,
};

/// The far end of a stand's ingress cable.
pub(super) struct Sender {
    socket: FrameSocket,
    frame: Vec<u8>,
    /// Random numbers drawn so far.
    drawn: u64,
}

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) packets: u64,
    pub(super) per_second: f64,
}

impl Sender {
    /// Sends packets of a range's first group.
    pub(super) fn open(stand: &Stand, range: u8) -> Result<Self> {
        let socket = stand.far.enter(|| FrameSocket::open(stand.ingress.far_ifindex))??;
        Ok(Self { socket, frame: stream::frame(stand.ingress.far_mac, range, 0, PAYLOAD)?, drawn: 0 })
    }

    /// Sends as fast as the core can.
    pub(super) fn send_at_once(&mut self, time: Duration) -> Result<Sent> {
        let start = now()?;
        let end = start + time.as_nanos() as u64;
        let mut packets = 0;
        let mut moment = start;
        while moment < end {
            self.send(moment)?;
            packets += 1;
            moment = now()?;
        }
        Ok(sent(packets, moment - start))
    }

    /// Sends so many packets a second, at random moments.
    pub(super) fn send_at_random(&mut self, per_second: f64, time: Duration) -> Result<Sent> {
        let start = now()?;
        let length = time.as_nanos() as f64;
        let mut packets = 0;
        let mut after = self.gap(per_second);
        while after < length {
            let moment = start + after as u64;
            while now()? < moment {
                std::hint::spin_loop();
            }
            self.send(moment)?;
            packets += 1;
            after += self.gap(per_second);
        }
        Ok(sent(packets, now()? - start))
    }

    /// Nanoseconds to the next packet: exponentially distributed.
    fn gap(&mut self, per_second: f64) -> f64 {
        self.drawn += 1;
        // In (0, 1], of 53 bits.
        let uniform = ((mark(self.drawn) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        -uniform.ln() * 1e9 / per_second
    }

    fn send(&mut self, moment: u64) -> Result<()> {
        let tail = self.frame.len() - TAIL_LEN;
        self.frame[tail..].copy_from_slice(&moment.to_be_bytes());
        self.socket.send(&self.frame)
    }
}

fn sent(packets: u64, nanoseconds: u64) -> Sent {
    Sent { packets, per_second: packets as f64 * 1e9 / nanoseconds as f64 }
}

/// Nanoseconds of the clock that kernel programs read.
fn now() -> Result<u64> {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).context("reading the clock")?;
    Ok(time.tv_sec().unsigned_abs() * 1_000_000_000 + time.tv_nsec().unsigned_abs())
}
