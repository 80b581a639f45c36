//! Arrays of the kernel that are written as memory, which takes no call of the kernel.

#![expect(unsafe_code, reason = "memory that is shared with the kernel")]

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering, fence},
};

use aya::{
    Pod,
    maps::{Array, IterableMap as _, MapData},
};

use super::error::KernelError;

/// Bytes that are mapped at a time: all sizes of values and of pages divide it.
const PART: usize = 3 << 16;
const WORD: usize = size_of::<u64>();

/// An array whose parts are mapped when something is first written there: what is mapped counts as memory of the process.
pub(crate) struct Mapped<V: Pod> {
    array: Array<MapData, V>,
    name: &'static str,
    parts: Vec<Option<Part>>,
}

/// Memory of the array, until it is dropped.
struct Part {
    start: NonNull<AtomicU64>,
    len: usize,
    /// Whether something was written since it was last looked.
    written: bool,
}

// SAFETY: nothing about the memory is of one thread.
unsafe impl Send for Part {}

impl Part {
    fn map(array: &MapData, part: usize, len: usize) -> io::Result<Self> {
        let fd = array.fd().as_fd().as_raw_fd();
        let offset = libc::off_t::try_from(part * PART).map_err(io::Error::other)?;
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without a wanted address no memory that is in use is replaced.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, fd, offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { start, len, written: false })
    }

    /// The words of the value that begins at this byte.
    fn words<V>(&self, byte: usize) -> &[AtomicU64] {
        assert!(byte.is_multiple_of(WORD) && byte + size_of::<V>() <= self.len);
        // SAFETY: the words are within the memory, by what was just checked, which is mapped for as long as `self` is
        // there; who else writes them does so in the kernel.
        unsafe { std::slice::from_raw_parts(self.start.add(byte / WORD).as_ptr(), size_of::<V>() / WORD) }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // SAFETY: the memory was mapped by this value, and nobody refers to it any more.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl<V: Pod> Mapped<V> {
    const OF_PART: usize = {
        assert!(PART.is_multiple_of(size_of::<V>()));
        assert!(size_of::<V>().is_multiple_of(WORD) && align_of::<V>() >= WORD);
        PART / size_of::<V>()
    };

    /// Of an array that was made with `BPF_F_MMAPABLE`.
    pub(crate) fn new(array: Array<MapData, V>, name: &'static str) -> Self {
        Self { array, name, parts: Vec::new() }
    }

    /// Reads a value.
    pub(crate) fn get(&self, index: u32) -> Result<V, KernelError> {
        let (part, byte) = Self::place(index);
        let Some(part) = self.parts.get(part).and_then(Option::as_ref) else {
            return self.array.get(&index, 0).map_err(KernelError::call(self.name));
        };
        let mut value = MaybeUninit::<V>::uninit();
        for (at, word) in part.words::<V>(byte).iter().enumerate() {
            // SAFETY: there are as many words as the value has, and it is aligned as they are.
            unsafe { value.as_mut_ptr().cast::<u64>().add(at).write(word.load(Ordering::Relaxed)) };
        }
        // SAFETY: all its words are written, and any are a value of plain data.
        Ok(unsafe { value.assume_init() })
    }

    /// Writes a value word by word, after everything that was written before it.
    pub(crate) fn set(&mut self, index: u32, value: &V) -> Result<(), KernelError> {
        let ((part, byte), name) = (Self::place(index), self.name);
        if index >= self.array.len() {
            return Err(KernelError::call(name)(format!("there is no place {index}")));
        }
        let value: *const V = value;
        // SAFETY: plain data without padding is words, if it has their size and alignment.
        let words = unsafe { std::slice::from_raw_parts(value.cast::<u64>(), size_of::<V>() / WORD) };
        fence(Ordering::Release);
        let part = self.part(part).map_err(KernelError::call(name))?;
        part.written = true;
        let to = part.words::<V>(byte);
        to.iter().zip(words).for_each(|(to, word)| to.store(*word, Ordering::Relaxed));
        Ok(())
    }

    /// Gives up the parts to which nothing was written since the last time: they would only count as memory of the
    /// process.
    pub(crate) fn give_up_idle(&mut self) {
        for place in &mut self.parts {
            drop(place.take_if(|part| !std::mem::take(&mut part.written)));
        }
    }

    const fn place(index: u32) -> (usize, usize) {
        let index = index as usize;
        (index / Self::OF_PART, index % Self::OF_PART * size_of::<V>())
    }

    fn part(&mut self, number: usize) -> io::Result<&mut Part> {
        if self.parts.len() <= number {
            self.parts.resize_with(number + 1, || None);
        }
        let place = &mut self.parts[number];
        if place.is_none() {
            let all = self.array.len() as usize * size_of::<V>();
            // The kernel maps the rest of the last page, too.
            let len = PART.min(all - number * PART);
            *place = Some(Part::map(self.array.map(), number, len)?);
        }
        place.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
