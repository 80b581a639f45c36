//! A plane that forwards nothing: it keeps what it was told, and says what it is told to say.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use vmcast_common::{
    fib::{FibOp, IfIndex, Output, Stream},
    maps::{DroppedCopies, StreamCounters},
};

use crate::{
    ApplyError, Counters, Dataplane, DumpError, Engine, EngineInfo, Fib, Hook, PacketTooBig, Punt,
    StatsError, software::Core,
};

#[derive(Debug, Default)]
struct State {
    core: Core,
    ops: Vec<FibOp>,
    punts: VecDeque<Punt>,
    counters: Counters,
}

/// The plane; give it to a role and keep its [`Recording`].
#[derive(Debug, Default)]
pub struct Plane(Arc<Mutex<State>>);

/// The other end of a recording plane: what was asked of it, and what it shall answer.
#[derive(Clone, Debug)]
pub struct Recording(Arc<Mutex<State>>);

impl Plane {
    /// An empty plane and its recording.
    #[must_use]
    pub fn new() -> (Self, Recording) {
        let plane = Self::default();
        let recording = Recording(Arc::clone(&plane.0));
        (plane, recording)
    }
}

impl Recording {
    /// Takes the operations since the last call, refused ones left out.
    pub fn take_ops(&self) -> Vec<FibOp> {
        std::mem::take(&mut lock(&self.0).ops)
    }

    /// What is in force.
    #[must_use]
    pub fn fib(&self) -> Fib {
        lock(&self.0).core.dump()
    }

    /// Lets the plane report a punt.
    pub fn punt(&self, punt: Punt) {
        lock(&self.0).punts.push_back(punt);
    }

    /// Lets the plane report these counters from now on.
    pub fn set_counters(&self, counters: Counters) {
        lock(&self.0).counters = counters;
    }
}

impl Dataplane for Plane {
    /// Refuses what the software plane refuses, so that a role's mistakes show in its tests.
    fn apply(&mut self, ops: &[FibOp]) -> Result<(), ApplyError> {
        let mut state = lock(&self.0);
        for op in ops {
            state.core.apply(std::slice::from_ref(op))?;
            state.ops.push(*op);
        }
        Ok(())
    }

    fn dump(&self) -> Result<Fib, DumpError> {
        Ok(lock(&self.0).core.dump())
    }

    fn poll_punt(&mut self) -> Option<Punt> {
        lock(&self.0).punts.pop_front()
    }

    fn poll_too_big(&mut self) -> Option<PacketTooBig> {
        None
    }

    fn counters(&self) -> Result<Counters, StatsError> {
        Ok(lock(&self.0).counters.clone())
    }

    fn stream_counters(&self, stream: Stream) -> Result<Option<StreamCounters>, StatsError> {
        let streams = &lock(&self.0).counters.streams;
        Ok(streams.iter().find(|entry| entry.stream == stream).map(|entry| entry.counters))
    }

    fn dropped_copies(
        &self,
        stream: Stream,
        member: Option<Output>,
    ) -> Result<Vec<(Output, DroppedCopies)>, StatsError> {
        Ok(lock(&self.0).core.dropped_copies(stream, member))
    }

    fn engine(&self) -> EngineInfo {
        EngineInfo {
            engine: Engine::Recording,
            reason: "operations are recorded and nothing is forwarded".to_owned(),
        }
    }

    fn hook(&self, device: IfIndex) -> Option<Hook> {
        let interfaces = lock(&self.0).core.dump().interfaces;
        interfaces.values().any(|interface| interface.device == device).then_some(Hook::Recording)
    }
}

/// A poisoned state is still a whole one: no change of it can panic half-way.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use vmcast_common::{
        fib::{EngineWish, Input, Interface, Members, Rpf},
        verdict::{DropReason, PuntReason},
    };

    use super::*;

    const STREAM: Stream = Stream { source: None, group: std::net::IpAddr::V4(Ipv4Addr::new(232, 1, 1, 1)) };

    #[test]
    fn what_a_role_asks_for_is_recorded_in_order_and_in_force() {
        let (mut plane, recording) = Plane::new();
        let interface = Interface {
            ifindex: IfIndex(3),
            device: IfIndex(3),
            link: vmcast_common::fib::Link::PLAIN,
            peer: None,
            mac: [2; 6],
            mtu: 1500,
            accepts_sources: true,
            shared: false,
            engine: EngineWish::Any,
            xdp_members: None,
        };
        let output = Output::Interface(IfIndex(3));
        let ops = [
            FibOp::SetInterface(interface),
            FibOp::SetStream(STREAM, Rpf::AnyUpstream, Members::Own),
            FibOp::AddMember(STREAM, output),
        ];
        plane.apply(&ops).unwrap();
        assert_eq!(recording.take_ops(), ops);
        assert_eq!(recording.take_ops(), []);
        assert!(recording.fib().streams[&STREAM].outputs.contains(&output));
        assert_eq!(plane.dump().unwrap(), recording.fib());
    }

    #[test]
    fn a_refused_operation_is_reported_and_not_recorded() {
        let (mut plane, recording) = Plane::new();
        let op = FibOp::AddMember(STREAM, Output::Interface(IfIndex(3)));
        assert!(matches!(plane.apply(&[op]), Err(ApplyError::Unknown { .. })));
        assert_eq!(recording.take_ops(), []);
    }

    #[test]
    fn punts_and_counters_are_what_the_test_set() {
        let (mut plane, recording) = Plane::new();
        let punt =
            Punt { reason: PuntReason::NewSource, input: Input::Interface(IfIndex(1)), stream: STREAM };
        recording.punt(punt);
        assert_eq!(plane.poll_punt(), Some(punt));
        assert_eq!(plane.poll_punt(), None);
        let counters = Counters {
            drops: [(DropReason::Oversize, 7)].into(),
            fragmented: 3,
            reassembled: 2,
            waits_for_tables: 1,
            streams: vec![],
        };
        recording.set_counters(counters.clone());
        assert_eq!(plane.counters().unwrap(), counters);
    }
}
