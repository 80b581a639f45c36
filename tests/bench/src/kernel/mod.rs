//! The benchmark's own kernel programs, which `cargo xtask build-ebpf` compiles.

pub(crate) mod clock;
pub(crate) mod clones;
pub(crate) mod floor;
pub(crate) mod holds;
#[expect(dead_code, reason = "some of it is for the kernel programs alone")]
pub(crate) mod layout;
pub(crate) mod sink;
pub(crate) mod source;

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Map, MapData},
    programs::{Program, ProgramError, Xdp, xdp::XdpMode},
};

use layout::{CLONES, COUNTS, Count, Feed, Hold, Lists};

#[cfg(vmcast_sink_object)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vmcast-sink.o"));

// SAFETY: integers alone, without padding.
unsafe impl Pod for Count {}
// SAFETY: as above.
unsafe impl Pod for Feed {}
// SAFETY: as above.
unsafe impl Pod for Hold {}
// SAFETY: as above.
unsafe impl Pod for Lists {}

/// Maps that take the kernel long to make.
const LARGE: [&str; 2] = [COUNTS, CLONES];

/// Loads the object with a map of another size. Large ones are left small where another map is meant.
fn load(map: &str, entries: u32) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for large in LARGE.into_iter().filter(|large| *large != map) {
        loader.map_max_entries(large, 1);
    }
    loader.map_max_entries(map, entries).load(object()?).context("loading the benchmark's kernel programs")
}

fn object() -> Result<&'static [u8]> {
    #[cfg(vmcast_sink_object)]
    return Ok(OBJECT);
    #[cfg(not(vmcast_sink_object))]
    return Err(anyhow!("this build has no kernel programs; `cargo xtask build-ebpf` makes them"));
}

/// A map of the object, for good.
fn take<M: TryFrom<Map, Error = aya::maps::MapError>>(object: &mut Ebpf, name: &str) -> Result<M> {
    let map = object.take_map(name).ok_or_else(|| anyhow!("the kernel programs have no {name}"))?;
    M::try_from(map).with_context(|| name.to_owned())
}

/// A program of the object.
fn program<'a, P>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = object.program_mut(name).ok_or_else(|| anyhow!("the kernel programs have no {name}"))?;
    program.try_into().with_context(|| name.to_owned())
}

/// Loads an XDP program and attaches it natively to interfaces of the calling thread's namespace.
fn attach(object: &mut Ebpf, name: &str, interfaces: impl IntoIterator<Item = u32>) -> Result<()> {
    let program: &mut Xdp = program(object, name)?;
    if program.fd().is_err() {
        program.load().with_context(|| format!("loading {name}"))?;
    }
    for ifindex in interfaces {
        program
            .attach_to_if_index(ifindex, XdpMode::Driver)
            .with_context(|| format!("attaching {name} to interface {ifindex}"))?;
    }
    Ok(())
}

type PerCpu<T> = aya::maps::PerCpuArray<MapData, T>;
type One<T> = aya::maps::Array<MapData, T>;
