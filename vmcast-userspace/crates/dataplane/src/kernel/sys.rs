//! The bpf(2) commands that aya does not have, or not for the map in question.

#![expect(unsafe_code, reason = "a raw system call")]

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd},
};

use aya::{
    Pod,
    maps::{HashMap, IterableMap as _, MapData},
};

/// `BPF_MAP_DELETE_ELEM` (linux/bpf.h).
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
/// `BPF_MAP_LOOKUP_BATCH` (linux/bpf.h).
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
/// `BPF_MAP_UPDATE_BATCH` (linux/bpf.h).
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Stores the map descriptors `values` at `keys` of an array of maps, with one wait for readers at
/// the end instead of one per entry.
///
/// # Errors
/// What the kernel says; `EINVAL` where it does not know batches of this map type. Entries before
/// the refused one may stand.
pub(super) fn update_map_of_maps(outer: &impl AsRawFd, keys: &[u32], values: &[i32]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len());
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map_fd: outer.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: `attr` has the layout and size of the batch member, keys and values point to `count`
    // elements of 4 bytes, the key and value size of an array of maps; all outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes entries of a map in this order.
///
/// # Errors
/// What the kernel says; `EINVAL` where it does not know batches. Those before the refused one may stand.
pub(crate) fn update_batch<K: Pod, V: Pod>(
    map: &HashMap<MapData, K, V>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    assert_eq!(keys.len(), values.len());
    let map = map.map().fd().as_fd();
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: u32::try_from(keys.len()).map_err(io::Error::other)?,
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: `attr` has the layout and size of the batch member; keys and values point to `count` elements, plain data
    // of the sizes that the map has; all outlive the call, which only reads them.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads so many entries of an array from `first` on that has values for each of so many CPUs, all of these one after
/// the other.
///
/// # Errors
/// What the kernel says; `EINVAL` or `ENOTSUPP` where it does not know batches of this map type, and `ENOENT` if there are
/// not as many entries.
pub(super) fn lookup_from<V: Pod + Default>(
    map: BorrowedFd<'_>,
    first: u32,
    entries: usize,
    cpus: usize,
    values: &mut Vec<V>,
) -> io::Result<()> {
    // The kernel pads values to words.
    const { assert!(size_of::<V>().is_multiple_of(8)) };
    values.resize(entries * cpus, V::default());
    let mut keys = vec![0_u32; entries];
    let mut last = 0_u32;
    // The kernel goes on behind this one.
    let before = first.checked_sub(1);
    let mut attr = BatchAttr {
        in_batch: before.as_ref().map_or(0, |before| std::ptr::from_ref(before) as u64),
        out_batch: (&raw mut last) as u64,
        keys: keys.as_mut_ptr() as u64,
        values: values.as_mut_ptr() as u64,
        count: u32::try_from(entries).map_err(io::Error::other)?,
        map_fd: map.as_raw_fd().cast_unsigned(),
        ..BatchAttr::default()
    };
    // SAFETY: `attr` has the layout and size of the batch member; the kernel reads a key, and writes at most `count` keys of 4 bytes, as
    // many values for each CPU that it may ever have, which are plain data, and one key more; all outlive the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size_of::<BatchAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The part of `union bpf_attr` that element commands use.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Deletes a key of 4 bytes, such as a slot of a devmap.
///
/// # Errors
/// What the kernel says.
pub(super) fn delete(map: &impl AsRawFd, key: u32) -> io::Result<()> {
    let mut attr = ElementAttr {
        map_fd: map.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: (&raw const key) as u64,
        value: 0,
        flags: 0,
    };
    // SAFETY: `attr` has the layout of the element member, and the key of 4 bytes outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_DELETE_ELEM, &raw mut attr, size_of::<ElementAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
