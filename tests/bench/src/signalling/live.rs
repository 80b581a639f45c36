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

/// One instruction of a BPF program (RFC 9669 §3).
const fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: u32) -> u64 {
    opcode as u64
        | (((source << 4) | destination) as u64) << 8
        | (offset.cast_unsigned() as u64) << 16
        | (immediate as u64) << 32
}

/// Where a frame has two words of 16 bits, counted in bytes from its beginning, of which the second is to be the
/// complement of the first: so no checksum changes that covers both (RFC 1071 §2).
pub(super) type Words = [i16; 2];

/// What is to differ between frames.
#[derive(Clone, Copy, Debug)]
pub(super) struct Varying {
    /// In the sender's address, and what makes up for it.
    pub(super) sender: Words,
    /// In the message.
    pub(super) message: Words,
}

/// A program that gives each frame another sender, with another link-layer address, and another message, and lets it
/// through; one that is too short as it is.
const fn program(varying: Varying) -> [u64; 20] {
    const LOAD_WORD: u8 = 0x61;
    const STORE_HALF: u8 = 0x6b;
    const MOVE: u8 = 0xbf;
    const ADD_VALUE: u8 = 0x07;
    const XOR_VALUE: u8 = 0xa7;
    const SHIFT_RIGHT: u8 = 0x77;
    const JUMP_IF_GREATER: u8 = 0x2d;
    const CALL: u8 = 0x85;
    const MOVE_VALUE: u8 = 0xb7;
    const EXIT: u8 = 0x95;
    const GET_RANDOM: u32 = 7;
    const XDP_PASS: u32 = 2;
    const SENDER_MAC: i16 = 10;
    let Varying { sender: [sender, for_sender], message: [first, second] } = varying;
    let last = max(max(sender, for_sender), max(first, second));
    [
        instruction(MOVE, 6, 1, 0, 0),
        instruction(CALL, 0, 0, 0, GET_RANDOM),
        instruction(MOVE, 7, 0, 0, 0),
        instruction(LOAD_WORD, 2, 6, 0, 0),
        instruction(LOAD_WORD, 3, 6, 4, 0),
        instruction(MOVE, 4, 2, 0, 0),
        instruction(ADD_VALUE, 4, 0, 0, last.cast_unsigned() as u32 + 2),
        instruction(JUMP_IF_GREATER, 4, 3, 10, 0),
        instruction(STORE_HALF, 2, 7, sender, 0),
        instruction(STORE_HALF, 2, 7, SENDER_MAC, 0),
        instruction(MOVE, 8, 7, 0, 0),
        instruction(XOR_VALUE, 8, 0, 0, 0xffff),
        instruction(STORE_HALF, 2, 8, for_sender, 0),
        instruction(SHIFT_RIGHT, 7, 0, 0, 16),
        instruction(STORE_HALF, 2, 7, first, 0),
        instruction(MOVE, 8, 7, 0, 0),
        instruction(XOR_VALUE, 8, 0, 0, 0xffff),
        instruction(STORE_HALF, 2, 8, second, 0),
        instruction(MOVE_VALUE, 0, 0, 0, XDP_PASS),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

const fn max(one: i16, other: i16) -> i16 {
    if one > other { one } else { other }
}

/// An XDP program that lets frames through, each as if it were another's.
pub(super) struct Live(OwnedFd);

impl Live {
    /// For frames that differ so; see [`program`].
    pub(super) fn load(varying: Varying) -> Result<Self> {
        let program = program(varying);
        let attr = LoadAttr {
            prog_type: BPF_PROG_TYPE_XDP,
            insn_cnt: program.len() as u32,
            insns: program.as_ptr() as u64,
            license: LICENSE.as_ptr() as u64,
            ..LoadAttr::default()
        };
        // SAFETY: the attribute has the layout of its member, and what it points to outlives the call.
        let fd =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attr, size_of::<LoadAttr>()) };
        let error = std::io::Error::last_os_error();
        ensure!(fd >= 0, "loading an XDP program that lets frames through: {error}");
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
