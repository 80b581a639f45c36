//! The conformance suite of every plane, on the real programs.

use std::sync::Mutex;

use libtest_mimic::{Failed, Trial};
use vmcast_common::fib::{FibOp, IfIndex};
use vmcast_dataplane::conformance::{
    Case, Device, Devices, Model, RandomStep, Step, cases, random_case, run,
};

use crate::dut::{At, Dut, KernelUnderTest};

/// The names do not depend on the devices; the cases are made again once these exist.
fn nominal() -> Devices {
    let device =
        |number: u8| Device { ifindex: IfIndex(number.into()), mac: [2, 0, 0, 0, 0, number], mtu: 1500 };
    Devices { a: device(2), b: device(3), c: device(4) }
}

/// Random cases on the kernel, each of some fifty frames.
const RANDOM_CASES: u64 = 30;

pub(crate) fn trials() -> Vec<Trial> {
    At::ALL.into_iter().flat_map(trials_at).collect()
}

fn trials_at(at: At) -> Vec<Trial> {
    let hook = at.label();
    let no_nft = at != At::Xdp && std::process::Command::new("nft").arg("--version").output().is_err();
    if no_nft {
        eprintln!("SKIPPED every conformance test \"{hook}\": `nft` (package nftables) is not installed");
    }
    let random = "the kernel does with random packets what the model says";
    let random = Trial::test(format!("{hook}: {random}"), move || random_packets(at));
    let shown =
        |case: &Case| copies(case) >= at.least_copies() && (copies(case) == 0 || !is_hidden(at, case));
    let fixed =
        cases(nominal()).into_iter().enumerate().filter(|(_, case)| shown(case)).map(|(index, case)| {
            Trial::test(format!("{hook}: {}", case.name), move || on_the_kernel(index, at))
        });
    fixed.chain([random]).map(|trial| trial.with_ignored_flag(no_nft)).collect()
}

/// Whether a case shares packets where this is not seen: after XDP and before TC they seem to come twice.
fn is_hidden(at: At, case: &Case) -> bool {
    let shares = |step: &Step| matches!(step, Step::Apply(ops) if ops.iter().any(is_sharing));
    at == At::Xdp && case.steps.iter().any(shares)
}

const fn is_sharing(op: &FibOp) -> bool {
    matches!(op, FibOp::ShareGroup(..))
}

/// How many copies are made of one packet of a case at most.
fn copies(case: &Case) -> usize {
    let of_step = |step: &Step| match step {
        Step::Inject { expect, .. } => expect.observed.frames.len(),
        Step::Apply(_) | Step::Refuse(..) | Step::InForce(_) | Step::Missed(..) => 0,
    };
    case.steps.iter().map(of_step).max().unwrap_or_default()
}

/// Packets run one case after the other: two cores carry one device under test at a time without delay. Loading
/// the programs, most of a case's time, needs no turn.
static TURN: Mutex<()> = Mutex::new(());

fn on_the_kernel(index: usize, at: At) -> Result<(), Failed> {
    let dut = Dut::enter("conformance", at)?;
    let case = cases(dut.devices).swap_remove(index);
    in_turn(&case, KernelUnderTest::new(dut))
}

fn in_turn(case: &Case, mut plane: KernelUnderTest) -> Result<(), Failed> {
    let _turn = TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Ok(run(case, &mut plane)?)
}

fn random_packets(at: At) -> Result<(), Failed> {
    for seed in 0..RANDOM_CASES {
        // A thread each: it moves into the namespace of its device under test for good.
        let outcome = std::thread::spawn(move || {
            let dut = Dut::enter("random", at)?;
            in_turn(&modelled(seed, at, dut.devices), KernelUnderTest::new(dut).told_once())
        });
        outcome.join().map_err(|_| format!("seed {seed} panicked"))??;
    }
    Ok(())
}

/// A random case with what the model expects of it.
fn modelled(seed: u64, at: At, devices: Devices) -> Case {
    let mut model = Model::default();
    let mut told = Vec::new();
    let step = |step| match step {
        RandomStep::Apply(mut ops) => {
            ops.retain(|op| at != At::Xdp || !is_sharing(op));
            ops.iter().for_each(|op| model.apply(op));
            Step::Apply(ops)
        }
        RandomStep::Inject(ingress, frame) => {
            let mut expect = model.expect(ingress, &frame);
            // What punts tell of a stream again is left out.
            expect.punts.retain(|punt| !told.contains(&punt.stream));
            told.extend(expect.punts.iter().map(|punt| punt.stream));
            Step::Inject { ingress, frame, expect }
        }
    };
    let steps = random_case(seed, &devices).into_iter().map(step).collect();
    Case { name: format!("random packets, seed {seed}"), steps }
}
