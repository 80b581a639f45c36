//! `cargo xtask setup`: finds out what is missing, says what and why, and installs it.
//!
//! Everything is looked at again each time; where nothing is missing that takes a fraction of a second and
//! says nothing.

mod ebpf;
mod host;
mod packages;
mod vm;

use std::process::ExitCode;

use anyhow::Result;

pub(crate) use ebpf::Toolchain;
pub(crate) use vm::set_up as virtual_machines;

/// What the machine offers after the set-up.
#[derive(Debug)]
pub(crate) struct Setup {
    /// How the kernel programs are built, if they can be.
    pub(crate) ebpf: Option<Toolchain>,
    /// Why labs cannot run here, if they cannot.
    pub(crate) no_lab: Option<String>,
}

/// Installs what is missing.
pub(crate) fn run() -> Result<Setup> {
    let missing = packages::install_missing()?;
    let ebpf = match ebpf::set_up() {
        Ok(toolchain) => Some(toolchain),
        Err(error) => {
            eprintln!("The kernel programs cannot be built here:\n{error:#}");
            eprintln!("vmcast is built without them; it forwards in software, and says so.");
            None
        }
    };
    host::warn_about_bpf();
    let no_lab = host::no_lab_reason(&missing);
    Ok(Setup { ebpf, no_lab })
}

pub(crate) fn command() -> Result<ExitCode> {
    let setup = run()?;
    match &setup.ebpf {
        Some(toolchain) => println!("Kernel programs: built {}.", toolchain.description()),
        None => println!("Kernel programs: not built."),
    }
    match &setup.no_lab {
        None => println!("Labs and tests: everything is here."),
        Some(reason) => println!("Labs: not possible, {reason}."),
    }
    Ok(ExitCode::SUCCESS)
}
