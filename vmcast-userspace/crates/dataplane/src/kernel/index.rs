//! Indices into fixed-size kernel arrays.

use super::error::KernelError;

/// Hands out the indices 1 to limit - 1 of a table; 0 stands for none.
#[derive(Debug)]
pub(crate) struct Indices {
    table: &'static str,
    limit: u32,
    next: u32,
    free: Vec<u32>,
}

impl Indices {
    pub(crate) const fn new(table: &'static str, limit: u32) -> Self {
        Self { table, limit, next: 1, free: Vec::new() }
    }

    pub(crate) fn take(&mut self) -> Result<u32, KernelError> {
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        if self.next >= self.limit {
            return Err(KernelError::Full { table: self.table, limit: self.limit - 1 });
        }
        self.next += 1;
        Ok(self.next - 1)
    }

    /// How many were ever in use, 0 among them.
    pub(crate) const fn used(&self) -> usize {
        self.next as usize
    }

    pub(crate) fn give_back(&mut self, index: u32) {
        self.free.push(index);
    }
}
