//! What streams are marked with, by what the configuration states.

use vmcast_common::fib::{FibOp, Priority, Stream};

use crate::config::{PriorityRule, priority_of};

/// The priorities that the operator states.
#[derive(Debug, Default)]
pub(super) struct Priorities(Vec<PriorityRule>);

impl Priorities {
    pub(super) fn new(rules: &[PriorityRule]) -> Self {
        Self(rules.to_vec())
    }

    /// What a stream's packets are marked with.
    pub(super) fn of(&self, stream: &Stream) -> Priority {
        priority_of(&self.0, stream)
    }

    /// What the data plane is told behind this operation: a stream is marked before it has a member.
    pub(super) fn behind(&self, op: &FibOp) -> Option<FibOp> {
        let FibOp::SetStream(stream, ..) = op else {
            return None;
        };
        let priority = self.of(stream);
        (priority != Priority::default()).then_some(FibOp::SetPriority(*stream, priority))
    }
}
