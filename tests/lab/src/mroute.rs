//! The kernel as a multicast router, by the sockets of `linux/mroute.h` as smcroute and pimd use them.

use std::{
    io,
    mem::zeroed,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// Interfaces that the kernel forwards on at most (`MAXVIFS`).
pub const MAX_VIFS: usize = 32;

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

/// The kernel is a multicast router of IPv4 in one namespace until this is dropped.
#[derive(Debug)]
pub struct MulticastRouter(OwnedFd);

impl MulticastRouter {
    /// Makes it one in the calling thread's namespace, on these interfaces, numbered from 0; [`MAX_VIFS`] at most.
    ///
    /// # Errors
    /// If the kernel refuses, or somebody else is one there.
    pub fn open(interfaces: &[u32]) -> io::Result<Self> {
        // SAFETY: the call makes a descriptor that nobody else has.
        let fd =
            unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_IGMP) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as said.
        let router = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        router.set(MRT_INIT, &1_i32)?;
        for (vif, &ifindex) in (0..).zip(interfaces) {
            let flags = VIFF_USE_IFINDEX;
            router
                .set(MRT_ADD_VIF, &VifCtl { vif, flags, threshold: 1, rate_limit: 0, ifindex, remote: 0 })?;
        }
        Ok(router)
    }

    /// Forwards a stream from the first interface to the `outputs` that follow.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn add(&self, source: Ipv4Addr, group: Ipv4Addr, outputs: usize) -> io::Result<()> {
        let mut entry = entry(source, group);
        entry.thresholds.iter_mut().skip(1).take(outputs).for_each(|threshold| *threshold = 1);
        self.set(MRT_ADD_MFC, &entry)
    }

    /// Forwards it no longer.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn remove(&self, source: Ipv4Addr, group: Ipv4Addr) -> io::Result<()> {
        self.set(MRT_DEL_MFC, &entry(source, group))
    }

    fn set<T>(&self, option: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: `value` is a plain C structure of the length that is passed, and outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_IP,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

/// An entry for packets that come in by the first interface, without outputs.
fn entry(source: Ipv4Addr, group: Ipv4Addr) -> MfcCtl {
    // SAFETY: zeros are valid for this plain C structure.
    let empty: MfcCtl = unsafe { zeroed() };
    MfcCtl { origin: source.octets(), group: group.octets(), ..empty }
}
