//! The file below redb, watched for how it fails.
//!
//! redb reports a failed write and a failed flush alike, yet they differ: a write that found no
//! room leaves everything acknowledged intact and may be tried again, while after a failed flush
//! nobody knows what the disk holds. So the first failure of each kind is noted here. The
//! [`Medium`] is what opens the file; tests put a failing one in its place.

use std::io;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

use ::redb::backends::FileBackend;
use ::redb::{BackendError, StorageBackend};
use parking_lot::Mutex;

use super::beside;
use super::reserve::{FileRoom, Room};
use crate::base::private;

/// Opens the bytes that a store is kept in; again after a write found no room.
pub trait Medium: Send + Sync + 'static {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>>;

    /// Room beside those bytes, kept for the day on which there is no other.
    fn room(&self) -> io::Result<Box<dyn Room>>;
}

/// A file, made if it is missing.
#[derive(Clone, Debug)]
pub struct FileMedium(pub PathBuf);

impl Medium for FileMedium {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let backend = FileBackend::new(private::open(&self.0)?).map_err(io::Error::other)?;
        Ok(Box::new(backend))
    }

    fn room(&self) -> io::Result<Box<dyn Room>> {
        Ok(Box::new(FileRoom::open(&beside(&self.0, "reserve"))?))
    }
}

/// What went wrong below redb since it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    NoSpace(String),
    Failed(String),
}

#[derive(Clone, Debug, Default)]
pub(super) struct TroubleNote(Arc<Mutex<Option<Trouble>>>);

impl TroubleNote {
    pub(super) fn read(&self) -> Option<Trouble> {
        self.0.lock().clone()
    }

    pub(super) fn clear(&self) {
        *self.0.lock() = None;
    }

    /// Notes a failure; one that cannot be got over replaces one that can.
    fn watch<T>(&self, flush: bool, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            let mut note = self.0.lock();
            let fatal = flush || !is_no_space(error);
            let known = matches!(*note, Some(Trouble::Failed(_)));
            if fatal && !known {
                *note = Some(Trouble::Failed(error.to_string()));
            } else if note.is_none() {
                *note = Some(Trouble::NoSpace(error.to_string()));
            }
        }
        result
    }
}

pub(super) fn is_no_space(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) inner: Box<dyn StorageBackend>,
    pub(super) note: TroubleNote,
}

type Range = Bound<u64>;

impl StorageBackend for Watched {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.note.watch(false, self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note.watch(false, self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.note.watch(true, self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.note.watch(false, self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
