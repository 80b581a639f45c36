//! Frames that an interface is to have received, without a wire.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Result, ensure};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`, since Linux 5.18.
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames at a time, which the kernel takes at most.
const BATCH: u32 = 256;
/// `r0 = XDP_PASS; exit`.
const PASS: [u64; 2] = [(2 << 32) | 0xb7, 0x95];
const LICENSE: &std::ffi::CStr = c"Dual MIT/GPL";

/// The `BPF_PROG_LOAD` member of `union bpf_attr`, as far as it is needed.
#[repr(C)]
#[derive(Default)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    rest: [u64; 13],
}

/// The `test` member.
#[repr(C)]
#[derive(Default)]
struct TestAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// An XDP program that passes everything on.
pub(super) struct Live(OwnedFd);

impl Live {
    pub(super) fn load() -> Result<Self> {
        let attr = LoadAttr {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: PASS.len() as u32,
            insns: PASS.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            ..LoadAttr::default()
        };
        // SAFETY: the attribute has the layout of its member, and what it points to outlives the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<LoadAttr>()) };
        let error = std::io::Error::last_os_error();
        ensure!(fd >= 0, "loading an XDP program that passes on: {error}");
        // SAFETY: it is a new descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) }))
    }

    /// Lets an interface of the calling thread's namespace have received a frame so often.
    pub(super) fn receive(&self, ifindex: u32, frame: &[u8], times: u32) -> Result<()> {
        let length = u32::try_from(frame.len())?;
        // A `struct xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: [u32; 6] = [0, length, 0, ifindex, 0, 0];
        let mut attr = TestAttr {
            prog_fd: self.0.as_raw_fd().cast_unsigned(),
            data_size_in: length,
            data_in: frame.as_ptr() as u64,
            repeat: times,
            ctx_size_in: size_of_val(&context) as u32,
            ctx_in: context.as_ptr() as u64,
            flags: LIVE_FRAMES,
            batch_size: BATCH,
            ..TestAttr::default()
        };
        // SAFETY: as above; the kernel writes to the attribute alone.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestAttr>()) };
        let error = std::io::Error::last_os_error();
        ensure!(result == 0, "live frames need Linux 5.18: {error}");
        Ok(())
    }
}
