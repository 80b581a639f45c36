//! Loading the programs.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, Xdp},
};
use vmcast_common::maps::{PROGRAM_COPY, PROGRAM_INGRESS, TABLES};

use super::{error::KernelError, kernel::KernelMaps, object, plane::XdpPlane, pool::TablePool};

/// What becomes of the programs when the daemon ends, by whatever cause.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// They go with the process.
    #[default]
    Remove,
    /// They stay, pinned below this directory of a BPF file system, and forward on.
    Keep(PathBuf),
}

/// How the plane is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What becomes of the programs at the end.
    pub on_exit: OnExit,
}

/// Why the kernel plane cannot be used here.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The build carries no kernel programs.
    #[error("this build carries no eBPF object; build it with `cargo xtask build-ebpf` and compile again")]
    NoObject,
    /// The kernel refuses the object or one of its maps.
    #[error("the kernel did not take the eBPF object: {0}")]
    Object(String),
    /// The kernel refuses a program.
    #[error("the kernel did not take the program {name}: {source}")]
    Program {
        /// The program's name.
        name: &'static str,
        /// The kernel's answer.
        source: Box<ProgramError>,
    },
}

impl XdpPlane {
    /// Loads the programs and makes the maps; nothing is attached yet.
    ///
    /// # Errors
    /// If this build has no object, or the kernel does not take it.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let bytes = object::bytes().ok_or(OpenError::NoObject)?;
        let mut loaded = EbpfLoader::new().load(bytes).map_err(|error| OpenError::Object(chain(&error)))?;
        load_program(&mut loaded, PROGRAM_INGRESS)?;
        load_program(&mut loaded, PROGRAM_COPY)?;
        Self::assemble(loaded, options).map_err(|error| OpenError::Object(chain(&error)))
    }

    fn assemble(mut loaded: Ebpf, _options: &Options) -> Result<Self, KernelError> {
        let copy = xdp(&mut loaded, PROGRAM_COPY)?;
        let copy = copy.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(KernelError::call(PROGRAM_COPY))?;
        let maps = KernelMaps::take_from(&mut loaded, copy)?;
        let outer = loaded
            .take_map(TABLES)
            .ok_or_else(|| KernelError::call("looking for a map in the object")("TABLES is missing"))?;
        Ok(Self::new(loaded, maps, TablePool::start(outer)?))
    }
}

/// A program of the object.
pub(super) fn xdp<'a>(loaded: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, KernelError> {
    let program = loaded.program_mut(name).ok_or_else(|| {
        KernelError::call("looking for a program in the object")(format!("{name} is missing"))
    })?;
    program.try_into().map_err(KernelError::call(name))
}

fn load_program(loaded: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    let program = xdp(loaded, name).map_err(|error| OpenError::Object(chain(&error)))?;
    program.load().map_err(|source| OpenError::Program { name, source: Box::new(source) })
}

/// An error with everything below it.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let below = error.to_string();
        if !text.contains(&below) {
            text.push_str(": ");
            text.push_str(&below);
        }
        next = error.source();
    }
    text
}
