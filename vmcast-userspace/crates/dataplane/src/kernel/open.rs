//! Loading the programs.

use std::path::PathBuf;

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use vmcast_common::maps::{
    DEVMAPS, PROGRAM_CHUNK, PROGRAM_CLONE, PROGRAM_COPY, PROGRAM_INGRESS, PROGRAM_LIST,
};

#[cfg(doc)]
use vmcast_common::maps::limit;

use super::{
    attach::Attachments, device::Rule, dropped::MemberDrops, error::KernelError, keep::Pins, object,
    plane::KernelPlane, pool::TablePool, refused, relay, writes::KernelMaps,
};
#[cfg(doc)]
use crate::{Dataplane, StreamStats};
use crate::{
    capacity::Capacities,
    oversize::{self, server::Server},
};

/// Whether packets are counted by stream; a constant of the object.
const STATISTICS: &str = "STATISTICS";

/// What becomes of the programs when the daemon ends, by whatever cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// They go with the process.
    #[default]
    Remove,
    /// They stay pinned and forward on.
    Keep,
}

/// Whether the kernel counts packets by stream. Drops are counted by their reason in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Statistics {
    /// Packets, bytes, drops and the last packet of each stream.
    #[default]
    On,
    /// [`StreamStats`] stay zero.
    Off,
}

impl Statistics {
    /// Lets a loader load the object so.
    fn set(self, loader: &mut EbpfLoader<'_>) {
        let constant = match self {
            Self::On => &1_u32,
            Self::Off => &0_u32,
        };
        loader.override_global(STATISTICS, constant, true);
    }
}

/// How the plane is set up.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What decides by which engine each device is served.
    pub rule: Rule,
    /// Members that one run of a program serves at most, at least 1; fewer than [`limit::CHUNK`] at XDP and
    /// [`limit::LIST_CHUNK`] at TC, which are in force if unset, for devices with short rings.
    pub chunk: Option<u32>,
    /// Why the kernel forwards and by this rule, for the operator.
    pub reason: String,
    /// What becomes of the programs at the end.
    pub on_exit: OnExit,
    /// Directory on a BPF file system where programs are kept, and looked for at the start. `None`
    /// neither keeps nor looks.
    pub pin_path: Option<PathBuf>,
    /// Whether the kernel counts packets by stream.
    pub statistics: Statistics,
    /// How much it holds.
    pub capacities: Capacities,
    /// How much is done for packets that are larger than a member's link takes.
    pub oversize: oversize::Limits,
}

impl Options {
    /// Whether what is attached stays when the process ends.
    pub(super) fn stays(&self) -> bool {
        self.on_exit == OnExit::Keep && self.pin_path.is_some()
    }
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

impl KernelPlane {
    /// Loads the programs and makes the maps; nothing is attached yet.
    ///
    /// What an earlier daemon kept is in [`KernelPlane::take_kept`]. Until [`Dataplane::release`] its
    /// programs forward on, and interfaces that they are on are not looked at by this plane.
    ///
    /// # Errors
    /// If this build has no object, the kernel does not take it, or nothing can be pinned.
    pub fn open(options: &Options) -> Result<Self, OpenError> {
        let mut loaded = load(options)?;
        match options.rule {
            Rule::Auto | Rule::Xdp => refused::start(&mut loaded),
            Rule::Tc => {}
        }
        Self::assemble(loaded, options).map_err(|error| OpenError::Object(chain(&error)))
    }

    fn assemble(mut loaded: Ebpf, options: &Options) -> Result<Self, KernelError> {
        let pins = options.pin_path.as_deref().map(Pins::new);
        let kept = pins.as_ref().map(Pins::kept_links).unwrap_or_default();
        if kept.is_empty() {
            relay::sweep(&[]);
        }
        let left = pins.as_ref().filter(|_| !kept.is_empty()).and_then(Pins::inheritance);
        if let (OnExit::Keep, Some(pins)) = (options.on_exit, &pins) {
            pins.prepare()?;
            pins.pin_maps(&loaded)?;
        }
        let copy = match options.rule {
            Rule::Auto | Rule::Xdp => {
                let copy = xdp(&mut loaded, PROGRAM_COPY)?;
                let copy = copy.fd().and_then(|fd| Ok(fd.try_clone()?));
                Some(copy.map_err(KernelError::call(PROGRAM_COPY))?)
            }
            Rule::Tc => None,
        };
        let Capacities { table_devices, losing_members, .. } = options.capacities;
        let maps = (
            KernelMaps::take_from(&mut loaded, copy, table_devices)?,
            MemberDrops::take_from(&mut loaded, losing_members)?,
        );
        let outer = loaded
            .take_map(DEVMAPS)
            .ok_or_else(|| KernelError::call("looking for a map in the object")("DEVMAPS is missing"))?;
        let attachments = Attachments::new(options.on_exit, pins, !kept.is_empty());
        let oversize = Server::take_from(&mut loaded, options.oversize)?;
        let waiting = wait_for(&oversize).map_err(KernelError::call("waiting for packets (epoll)"))?;
        let pool = TablePool::start(outer, options.rule != Rule::Tc, options.capacities.tables)?;
        Ok(Self::new(loaded, maps, pool, attachments, (oversize, waiting), left, options))
    }
}

/// What can be read while packets wait for this process; more is added to it.
fn wait_for(oversize: &Server) -> nix::Result<Epoll> {
    let waiting = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    waiting.add(oversize.fd(), EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
    Ok(waiting)
}

/// Finds out whether the kernel takes the programs and tables that a rule needs; they go at once.
///
/// # Errors
/// If this build has no object, or the kernel does not take it.
pub fn try_out(rule: Rule) -> Result<(), OpenError> {
    load(&Options { rule, ..Options::default() }).map(drop)
}

fn load(options: &Options) -> Result<Ebpf, OpenError> {
    let bytes = object::bytes().ok_or(OpenError::NoObject)?;
    let mut loader = EbpfLoader::new();
    options.statistics.set(&mut loader);
    options.capacities.set(&mut loader);
    let mut loaded = loader.load(bytes).map_err(|error| OpenError::Object(chain(&error)))?;
    match options.rule {
        Rule::Auto | Rule::Xdp => {
            for name in [PROGRAM_INGRESS, PROGRAM_COPY, PROGRAM_CHUNK] {
                load_xdp(&mut loaded, name)?;
            }
        }
        Rule::Tc => {
            for name in [PROGRAM_CLONE, PROGRAM_LIST] {
                load_classifier(&mut loaded, name)?;
            }
        }
    }
    Ok(loaded)
}

/// A program of the object.
pub(super) fn xdp<'a>(loaded: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, KernelError> {
    let program = loaded.program_mut(name).ok_or_else(|| {
        KernelError::call("looking for a program in the object")(format!("{name} is missing"))
    })?;
    program.try_into().map_err(KernelError::call(name))
}

/// A program of the object for TC, which is loaded when it is needed first: the kernel takes its time to verify
/// it.
pub(super) fn classifier<'a>(
    loaded: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, KernelError> {
    let program = loaded.program_mut(name).ok_or_else(|| {
        KernelError::call("looking for a program in the object")(format!("{name} is missing"))
    })?;
    let program: &mut SchedClassifier = program.try_into().map_err(KernelError::call(name))?;
    if program.fd().is_err() {
        whole_load(|| program.load()).map_err(KernelError::call(name))?;
    }
    Ok(program)
}

/// How often a program is loaded at most.
const LOAD_TRIES: usize = 5;

/// Loads a program, again if a signal made the kernel stop while it looked into it: it says EAGAIN then, and looking
/// takes it seconds.
///
/// # Errors
/// As `load`, the last time.
pub(crate) fn whole_load(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    let mut loaded = load();
    for _ in 1..LOAD_TRIES {
        let Err(ProgramError::LoadError { io_error, .. }) = &loaded else { break };
        if io_error.raw_os_error() != Some(libc::EAGAIN) {
            break;
        }
        loaded = load();
    }
    loaded
}

fn load_xdp(loaded: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    let program = xdp(loaded, name).map_err(|error| OpenError::Object(chain(&error)))?;
    whole_load(|| program.load()).map_err(|source| OpenError::Program { name, source: Box::new(source) })
}

fn load_classifier(loaded: &mut Ebpf, name: &'static str) -> Result<(), OpenError> {
    classifier(loaded, name).map(drop).map_err(|error| OpenError::Object(chain(&error)))
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

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// Loads a program that the kernel answers so, and says how often it was asked.
    fn tries(errors: &[i32]) -> (usize, Option<i32>) {
        let mut asked = 0;
        let loaded = whole_load(|| {
            asked += 1;
            match errors.get(asked - 1) {
                Some(error) => Err(ProgramError::LoadError {
                    io_error: io::Error::from_raw_os_error(*error),
                    verifier_log: aya_obj::VerifierLog::new(String::new()),
                }),
                None => Ok(()),
            }
        });
        let error = loaded.err().map(|error| match error {
            ProgramError::LoadError { io_error, .. } => io_error.raw_os_error().unwrap_or_default(),
            other => panic!("{other}"),
        });
        (asked, error)
    }

    #[test]
    fn a_program_whose_loading_a_signal_stopped_is_loaded_again_a_few_times() {
        assert_eq!(tries(&[]), (1, None));
        assert_eq!(tries(&[libc::EAGAIN, libc::EAGAIN]), (3, None));
        assert_eq!(tries(&[libc::EAGAIN; 9]), (LOAD_TRIES, Some(libc::EAGAIN)));
        assert_eq!(tries(&[libc::EAGAIN, libc::EACCES]), (2, Some(libc::EACCES)));
    }
}
