//! The far end of the copies: a program that counts them by destination port and drops them.

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, PerCpuArray},
    programs::{Xdp, xdp::XdpMode},
};
use vmcast_common::maps::{PROGRAM_SINK, SINK_COUNTS};

#[cfg(vmcast_sink_object)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/vmcast-sink.o"));

/// The sink's program; detached when dropped.
pub(crate) struct Sink {
    object: Ebpf,
    counts: PerCpuArray<MapData, u64>,
}

impl Sink {
    pub(crate) fn load() -> Result<Self> {
        let bytes = object()?;
        let mut object = EbpfLoader::new().load(bytes).context("loading the sink")?;
        let map = object.take_map(SINK_COUNTS).ok_or_else(|| anyhow!("the sink has no {SINK_COUNTS}"))?;
        let counts = PerCpuArray::try_from(map).context(SINK_COUNTS)?;
        program(&mut object)?.load().context("loading the sink's program")?;
        Ok(Self { object, counts })
    }

    /// Attaches natively to an interface of the calling thread's namespace.
    pub(crate) fn attach(&mut self, ifindex: u32) -> Result<()> {
        program(&mut self.object)?
            .attach_to_if_index(ifindex, XdpMode::Driver)
            .context("attaching the sink")?;
        Ok(())
    }

    /// Datagrams seen so far, for each of the ports from `first` on.
    pub(crate) fn counts(&self, first: u16, ports: usize) -> Result<Vec<u64>> {
        let first = u32::from(first);
        (first..)
            .take(ports)
            .map(|port| Ok(self.counts.get(&port, 0).context(SINK_COUNTS)?.iter().sum()))
            .collect()
    }
}

fn program(object: &mut Ebpf) -> Result<&mut Xdp> {
    let program =
        object.program_mut(PROGRAM_SINK).ok_or_else(|| anyhow!("the sink has no {PROGRAM_SINK}"))?;
    Ok(program.try_into()?)
}

/// The object of both ends.
pub(crate) fn object() -> Result<&'static [u8]> {
    #[cfg(vmcast_sink_object)]
    return Ok(OBJECT);
    #[cfg(not(vmcast_sink_object))]
    return Err(anyhow!("this build has no eBPF sink; `cargo xtask build-ebpf` makes it"));
}
