//! What the kernel can do for the engines, found out by asking it, never by its version.

#![expect(unsafe_code, reason = "a raw system call")]

use std::io;

use aya::programs::loaded_programs;

/// `BPF_PROG_QUERY` (linux/bpf.h).
const BPF_PROG_QUERY: libc::c_long = 16;
/// `BPF_MAP_UPDATE_BATCH` (linux/bpf.h).
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
/// `BPF_TCX_INGRESS` (linux/bpf.h).
const BPF_TCX_INGRESS: u32 = 46;
/// The loopback device, which every namespace has.
const LOOPBACK: u32 = 1;

/// The beginning of `union bpf_attr` as the two commands read it; both members fit.
type Attr = [u32; 16];

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<()> {
    // SAFETY: the kernel reads and writes within `attr`, whose size is given; it holds no pointer but null.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of::<Attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether many entries of a map can be stored at once; without it tables are made one by one.
#[must_use]
pub fn batches() -> bool {
    let mut attr = Attr::default();
    // `map_fd`: none, which the kernel sees only if it knows the command.
    attr[9] = u32::MAX;
    bpf(BPF_MAP_UPDATE_BATCH, &mut attr).is_err_and(|error| error.raw_os_error() == Some(libc::EBADF))
}

/// Whether TC programs are links in an order (tcx), as the TC engine has them where it can.
///
/// # Errors
/// If the caller may not ask.
pub fn tcx() -> io::Result<bool> {
    let mut attr = Attr::default();
    attr[..2].copy_from_slice(&[LOOPBACK, BPF_TCX_INGRESS]);
    match bpf(BPF_PROG_QUERY, &mut attr) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The name of a BPF program, `None` if it is gone or the caller may not ask.
#[must_use]
pub fn program_name(id: u32) -> Option<String> {
    let program = loaded_programs().flatten().find(|program| program.id() == id)?;
    program.name_as_str().map(str::to_owned)
}

/// The beginning of the names of our own programs.
pub const OWN_PROGRAMS: &str = "vmcast_";
