//! Stacks that guests run on, used again: to map and unmap one for each request costs a fifth of
//! what the request costs, since each unmapping interrupts the other cores.
//!
//! A stack holds frames of compiled code and of the host; no guest can read what an earlier one
//! left there (wasmtime's own pool does not clear stacks either, unless it is told to).

use std::ops::Range;
use std::ptr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasmtime::{StackCreator, StackMemory};

/// Stacks that are kept for the next guests, at most.
const MAX_IDLE: usize = 64;
/// Of a stack that is kept no more than about so many bytes are in memory; one that went deeper is
/// given back to the system.
const KEPT_BYTES: usize = 64 << 10;

/// Makes stacks, and keeps some that are free.
#[derive(Default)]
pub struct Stacks {
    idle: Arc<Mutex<Vec<Mapping>>>,
}

/// A mapped stack: a page that nobody may touch, then the stack's bytes.
struct Mapping {
    base: *mut u8,
    /// Of the whole mapping, in bytes.
    len: usize,
    page: usize,
}

// SAFETY: whoever owns the mapping owns the memory; nothing in it belongs to a thread.
unsafe impl Send for Mapping {}
// SAFETY: a shared reference gives addresses only.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Room for `size` bytes, zeroed.
    fn new(size: usize) -> wasmtime::Result<Mapping> {
        let page = rustix::param::page_size();
        let len = size.div_ceil(page).saturating_mul(page).saturating_add(page);
        // SAFETY: a new mapping that replaces nothing; then a part of it becomes usable.
        unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            let base: *mut u8 =
                mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), flags)?.cast();
            let mapping = Mapping { base, len, page };
            let usable = MprotectFlags::READ | MprotectFlags::WRITE;
            mprotect(base.add(page).cast(), len - page, usable)?;
            Ok(mapping)
        }
    }

    fn size(&self) -> usize {
        self.len - self.page
    }

    /// Whether a guest went down to [`KEPT_BYTES`]: it left something in the page there. A page
    /// that nobody wrote to is zero, and reading it takes no memory.
    fn was_deep(&self) -> bool {
        if self.size() <= KEPT_BYTES {
            return false;
        }
        let words = self.page / size_of::<u64>();
        // SAFETY: a page within the usable part, page-aligned; nobody runs on the stack.
        let page = unsafe {
            let at = self.base.add(self.len - KEPT_BYTES);
            std::slice::from_raw_parts(at.cast_const().cast::<u64>(), words)
        };
        page.iter().any(|word| *word != 0)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `new`, and nobody else has it.
        let result = unsafe { munmap(self.base.cast(), self.len) };
        debug_assert!(result.is_ok(), "{result:?}");
    }
}

/// A stack in use.
struct Stack {
    /// `None` only while it is dropped.
    mapping: Option<Mapping>,
    idle: Arc<Mutex<Vec<Mapping>>>,
}

impl Stack {
    fn mapping(&self) -> &Mapping {
        self.mapping.as_ref().unwrap_or_else(|| unreachable!("it is in use"))
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take()
            && !mapping.was_deep()
        {
            let mut idle = self.idle.lock();
            if idle.len() < MAX_IDLE {
                idle.push(mapping);
            }
        }
    }
}

// SAFETY: the mapping is page-aligned, has a page without rights at its lower end, and stays for
// as long as the stack does.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        let mapping = self.mapping();
        // SAFETY: the end of the mapping.
        unsafe { mapping.base.add(mapping.len) }
    }

    fn range(&self) -> Range<usize> {
        let mapping = self.mapping();
        let base = mapping.base as usize;
        base + mapping.page..base + mapping.len
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let mapping = self.mapping();
        // SAFETY: the first page of the mapping.
        mapping.base..unsafe { mapping.base.add(mapping.page) }
    }
}

// SAFETY: each stack is a mapping of its own, which nobody else has while it is in use.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let kept = match zeroed {
            true => None,
            false => self.idle.lock().pop().filter(|mapping| mapping.size() >= size),
        };
        let mapping = kept.map_or_else(|| Mapping::new(size), Ok)?;
        Ok(Box::new(Stack { mapping: Some(mapping), idle: self.idle.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 256 << 10;

    fn stack(stacks: &Stacks) -> Box<dyn StackMemory> {
        stacks.new_stack(SIZE, false).expect("a stack")
    }

    fn write(stack: &dyn StackMemory, below_top: usize) {
        // SAFETY: within the stack's range.
        unsafe { stack.top().sub(below_top).write(1) };
    }

    #[test]
    fn stacks_are_whole_guarded_and_used_again() {
        let stacks = Stacks::default();
        let first = stack(&stacks);
        let (range, guard) = (first.range(), first.guard_range());
        assert_eq!((range.len(), range.end), (SIZE, first.top() as usize));
        assert_eq!((guard.end as usize, guard.start.align_offset(4096)), (range.start, 0));
        write(&*first, 8);
        write(&*first, SIZE / 8);
        let second = stack(&stacks);
        assert_ne!(second.range(), range, "one is in use");
        drop(first);
        assert_eq!(stack(&stacks).range(), range);
        let other = stacks.new_stack(SIZE * 2, false).expect("a larger one");
        assert_eq!(other.range().len(), SIZE * 2);
        let zeroed = stacks.new_stack(SIZE, true).expect("a zeroed one");
        // SAFETY: within its range.
        assert_eq!(unsafe { zeroed.top().sub(8).read() }, 0);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let stacks = Stacks::default();
        let deep = stack(&stacks);
        write(&*deep, KEPT_BYTES);
        drop(deep);
        assert_eq!(stacks.idle.lock().len(), 0, "most of it is in memory");
        let many: Vec<_> = (0..MAX_IDLE + 5).map(|_| stack(&stacks)).collect();
        drop(many);
        assert_eq!(stacks.idle.lock().len(), MAX_IDLE);
    }
}
