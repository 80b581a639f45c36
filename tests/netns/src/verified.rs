//! How much work our programs are for the verifier.

use std::collections::BTreeSet;

use aya::programs::loaded_programs;
use libtest_mimic::{Failed, Trial};
use vmcast_dataplane::kernel::{KernelPlane, Options, Rule};

/// Instructions that the verifier follows at most (`BPF_COMPLEXITY_LIMIT_INSNS` of kernel/bpf/verifier.c).
const LIMIT: u32 = 1_000_000;
/// What a program may take of that here: other kernels follow more, and each instruction is time at each start.
const MOST: u32 = LIMIT / 4;

pub(crate) fn trials() -> Vec<Trial> {
    [(Rule::Auto, "xdp"), (Rule::Tc, "tc")]
        .map(|(rule, hook)| {
            let name = format!("{hook}: the programs are far from the verifier's limit");
            Trial::test(name, move || far_from_the_limit(rule))
        })
        .into()
}

fn far_from_the_limit(rule: Rule) -> Result<(), Failed> {
    let before: BTreeSet<u32> =
        loaded_programs().map(|program| Ok(program?.id())).collect::<Result<_, Failed>>()?;
    let _plane = KernelPlane::open(&Options { rule, ..Options::default() })?;
    let mut seen = Vec::new();
    for program in loaded_programs() {
        let program = program?;
        let name = program.name_as_str().unwrap_or_default().to_owned();
        if name.starts_with("vmcast_") && !before.contains(&program.id()) {
            seen.extend(program.verified_instruction_count().map(|followed| (name, followed)));
        }
    }
    println!("instructions that the verifier followed: {seen:?}");
    if seen.is_empty() {
        return Err("no program of ours is loaded, or the kernel does not tell".into());
    }
    match seen.iter().filter(|(_, followed)| *followed > MOST).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        beyond => Err(format!("the verifier follows more than {MOST} instructions of {beyond:?}").into()),
    }
}
