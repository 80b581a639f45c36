//! The cases, by subject.

mod churn;
mod convert;
mod encapsulation;
mod forward;
mod missed;
mod oversize;
mod pass;
mod priority;
mod refuse;
mod shared;
mod state;
mod stream;

use vmcast_common::fib::{FibOp, IfIndex};

use super::{
    case::{Case, Expect, Step},
    device::Devices,
    scene::Scene,
};

/// Every case, for these devices.
#[must_use]
pub fn cases(devices: Devices) -> Vec<Case> {
    let scene = Scene { devices };
    [
        forward::cases(&scene),
        stream::cases(&scene),
        refuse::cases(&scene),
        pass::cases(&scene),
        churn::cases(&scene),
        state::cases(&scene),
        encapsulation::cases(&scene),
        convert::cases(&scene),
        oversize::cases(&scene),
        priority::cases(&scene),
        missed::cases(&scene),
        shared::cases(&scene),
    ]
    .concat()
}

fn case(name: &str, steps: impl IntoIterator<Item = Step>) -> Case {
    Case { name: name.to_owned(), steps: steps.into_iter().collect() }
}

fn apply(ops: impl IntoIterator<Item = FibOp>) -> Step {
    Step::Apply(ops.into_iter().collect())
}

fn inject(ingress: IfIndex, frame: Vec<u8>, expect: Expect) -> Step {
    Step::Inject { ingress, frame, expect }
}
