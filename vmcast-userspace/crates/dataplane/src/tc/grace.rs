//! The wait until nobody walks any more where something was taken out.
//!
//! Storing a map in a map of maps waits for every program that runs, as the kernel documents; a thread of
//! its own does that, 8 to 16 ms at a time, and meanwhile the next lot gathers.

use std::{
    sync::mpsc::{self, Receiver, Sender},
    thread::JoinHandle,
};

use aya::maps::{ArrayOfMaps, Map, MapData, MapFd};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_DEVMAP;

use crate::xdp::error::KernelError;

/// What must not be used again for a while.
#[derive(Debug, Default)]
pub(super) struct Retired {
    /// Indices of members.
    pub(super) members: Vec<u32>,
    /// Indices of next hops.
    pub(super) hops: Vec<u32>,
}

impl Retired {
    const fn is_empty(&self) -> bool {
        self.members.is_empty() && self.hops.is_empty()
    }
}

/// Waits on a thread that ends with it.
pub(super) struct Grace {
    lots: Option<Sender<Retired>>,
    over: Receiver<Retired>,
    waiting: bool,
    thread: Option<JoinHandle<()>>,
}

impl Grace {
    /// Starts the thread on a map of maps that nobody looks into.
    pub(super) fn start(outer: Map) -> Result<Self, KernelError> {
        let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_DEVMAP as u32, 4, 8, 1, 0);
        let inner =
            MapData::create(definition, "vmcast_grace", None).map_err(KernelError::call("creating a map"))?;
        let mut outer = ArrayOfMaps::<_, MapFd>::try_from(outer).map_err(KernelError::call("TABLES"))?;
        let (lots, orders) = mpsc::channel();
        let (ended, over) = mpsc::channel();
        let thread = std::thread::Builder::new().name("tc-grace".into()).spawn(move || {
            for lot in orders {
                if let Err(error) = outer.set(0, inner.fd(), 0) {
                    tracing::warn!(%error, "the kernel does not wait for its programs; what left is not used again");
                } else if ended.send(lot).is_err() {
                    return;
                }
            }
        });
        let thread = thread.map_err(KernelError::call("starting a thread"))?;
        Ok(Self { lots: Some(lots), over, waiting: false, thread: Some(thread) })
    }

    /// Lets a lot wait if none does, and returns one whose wait is over.
    pub(super) fn exchange(&mut self, next: &mut Retired) -> Option<Retired> {
        let over = self.over.try_recv().ok();
        if over.is_some() {
            self.waiting = false;
        }
        if !self.waiting
            && !next.is_empty()
            && let Some(lots) = &self.lots
        {
            self.waiting = lots.send(std::mem::take(next)).is_ok();
        }
        over
    }
}

impl Drop for Grace {
    fn drop(&mut self) {
        drop(self.lots.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that waits for walks has panicked");
        }
    }
}
