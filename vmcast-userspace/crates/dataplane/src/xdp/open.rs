//! Loading the programs.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, Xdp},
};
use vmcast_common::maps::{PROGRAM_COPY, PROGRAM_INGRESS, TABLES};

use super::{
    attach::Attachments, error::KernelError, keep::Pins, kernel::KernelMaps, object, plane::XdpPlane,
    pool::TablePool, refused,
};
#[cfg(doc)]
use crate::Dataplane;
use crate::oversize::{self, server::Server};

/// What becomes of the programs when the daemon ends, by whatever cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// They go with the process.
    #[default]
    Remove,
    /// They stay pinned and forward on.
    Keep,
}

/// How the plane is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What becomes of the programs at the end.
    pub on_exit: OnExit,
    /// Directory on a BPF file system where programs are kept, and looked for at the start. `None`
    /// neither keeps nor looks.
    pub pin_path: Option<PathBuf>,
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
    /// What an earlier daemon kept is in [`XdpPlane::kept`]. Until [`Dataplane::release`] its
    /// programs forward on, and interfaces that they are on are not looked at by this plane.
    ///
    /// # Errors
    /// If this build has no object, the kernel does not take it, or nothing can be pinned.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let bytes = object::bytes().ok_or(OpenError::NoObject)?;
        let mut loaded = EbpfLoader::new().load(bytes).map_err(|error| OpenError::Object(chain(&error)))?;
        load_program(&mut loaded, PROGRAM_INGRESS)?;
        load_program(&mut loaded, PROGRAM_COPY)?;
        refused::start(&mut loaded);
        Self::assemble(loaded, options).map_err(|error| OpenError::Object(chain(&error)))
    }

    fn assemble(mut loaded: Ebpf, options: &Options) -> Result<Self, KernelError> {
        let pins = options.pin_path.as_deref().map(Pins::new);
        let kept = pins.as_ref().map(Pins::kept_links).unwrap_or_default();
        let fib = pins.as_ref().filter(|_| !kept.is_empty()).and_then(Pins::kept_fib);
        if let (OnExit::Keep, Some(pins)) = (options.on_exit, &pins) {
            pins.prepare()?;
            pins.pin_maps(&loaded)?;
        }
        let copy = xdp(&mut loaded, PROGRAM_COPY)?;
        let copy = copy.fd().and_then(|fd| Ok(fd.try_clone()?)).map_err(KernelError::call(PROGRAM_COPY))?;
        let maps = KernelMaps::take_from(&mut loaded, copy)?;
        let outer = loaded
            .take_map(TABLES)
            .ok_or_else(|| KernelError::call("looking for a map in the object")("TABLES is missing"))?;
        let attachments = Attachments::new(options.on_exit, pins, !kept.is_empty());
        let oversize = Server::take_from(&mut loaded, oversize::Limits::default())?;
        Ok(Self::new(loaded, maps, TablePool::start(outer)?, attachments, oversize, fib))
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
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
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
