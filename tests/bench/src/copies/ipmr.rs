//! The kernel's own multicast forwarding, set up over its multicast routing sockets
//! (linux/mroute.h) as smcroute does it.

use std::{mem::zeroed, net::Ipv4Addr, os::fd::AsRawFd as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use vmcast_lab::Lab;

use super::{
    case::Case,
    engine::{Engine, Receiver, Run},
    feed::Feeder,
    stand::{Stand, interface_receiver},
    stream::{self, Ranges},
};
use crate::kernel::sink::Sink;

/// Interfaces that the kernel forwards on at most (`MAXVIFS`).
const MAX_VIFS: usize = 32;
/// Copies of a packet at most: the interface it came in by gets none.
pub(crate) const MAX_OUTPUTS: usize = MAX_VIFS - 1;

const MRT_INIT: libc::c_int = 200;
const MRT_ADD_VIF: libc::c_int = 202;
const MRT_ADD_MFC: libc::c_int = 204;
const MRT_DEL_MFC: libc::c_int = 205;
const VIFF_USE_IFINDEX: u8 = 8;

/// `struct vifctl`.
#[repr(C)]
struct VifCtl {
    vif: u16,
    flags: u8,
    threshold: u8,
    rate_limit: u32,
    ifindex: u32,
    remote: u32,
}

/// `struct mfcctl`.
#[repr(C)]
struct MfcCtl {
    origin: [u8; 4],
    group: [u8; 4],
    parent: u16,
    thresholds: [u8; MAX_VIFS],
    counters: [u32; 3],
    expire: i32,
}

/// The kernel as a multicast router on a stand; it is one until this is dropped.
pub(crate) struct MulticastRouter {
    socket: Socket,
}

impl MulticastRouter {
    /// Makes it one on the first [`MAX_OUTPUTS`] egress interfaces.
    pub(crate) fn open(stand: &Stand) -> Result<Self> {
        let socket = stand.dut.enter(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(2))))??;
        let router = Self { socket };
        router.set(MRT_INIT, &1_i32)?;
        let cables = std::iter::once(&stand.ingress).chain(&stand.egress).take(MAX_VIFS);
        for (vif, cable) in (0..).zip(cables) {
            let ifindex = cable.ifindex;
            let flags = VIFF_USE_IFINDEX;
            router
                .set(MRT_ADD_VIF, &VifCtl { vif, flags, threshold: 1, rate_limit: 0, ifindex, remote: 0 })?;
        }
        Ok(router)
    }

    /// Forwards a group to the first `outputs` egress interfaces.
    pub(crate) fn add(&self, group: Ipv4Addr, outputs: usize) -> Result<()> {
        ensure!(outputs <= MAX_OUTPUTS, "the kernel forwards to {MAX_OUTPUTS} interfaces at most");
        let mut entry = entry(group);
        entry.thresholds[1..=outputs].fill(1);
        self.set(MRT_ADD_MFC, &entry)
    }

    fn remove(&self, group: Ipv4Addr) -> Result<()> {
        self.set(MRT_DEL_MFC, &entry(group))
    }

    fn set<T>(&self, option: libc::c_int, value: &T) -> Result<()> {
        // SAFETY: `value` is a plain C structure of the length that is passed, and outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.socket.as_raw_fd(),
                libc::IPPROTO_IP,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        let error = std::io::Error::last_os_error();
        if result == 0 {
            Ok(())
        } else {
            Err(error).with_context(|| format!("multicast routing option {option}"))
        }
    }
}

/// An entry for packets that come in by the ingress interface, without outputs.
fn entry(group: Ipv4Addr) -> MfcCtl {
    // SAFETY: zeros are valid for this plain C structure.
    let empty: MfcCtl = unsafe { zeroed() };
    MfcCtl { origin: stream::SOURCE.octets(), group: group.octets(), ..empty }
}

/// The router under measurement.
pub(super) struct IpmrEngine {
    stand: Stand,
    router: MulticastRouter,
    feeder: Feeder,
    ranges: Ranges,
}

impl IpmrEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "ipmr", MAX_OUTPUTS)?;
        let router = MulticastRouter::open(&stand)?;
        Ok(Self { stand, router, feeder: Feeder::load()?, ranges: Ranges::default() })
    }
}

impl Engine for IpmrEngine {
    fn label(&self) -> &'static str {
        "kernel ipmr"
    }

    fn peer(&self, _case: &Case) -> &'static str {
        "native"
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        let (range, new) = self.ranges.give(case)?;
        if new {
            (0..case.groups)
                .try_for_each(|number| self.router.add(stream::group(range, number), case.members))?;
        }
        Ok(self.stand.egress[..case.members].iter().map(interface_receiver).collect())
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        self.feeder.run(&self.stand, case, self.ranges.of(case)?, at_least)
    }

    fn clear(&mut self) -> Result<()> {
        for (case, range) in self.ranges.take() {
            (0..case.groups).try_for_each(|number| self.router.remove(stream::group(range, number)))?;
        }
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("the kernel says nothing of them".to_owned())
    }
}
