//! A file whose disk can be full or fail to flush, on demand.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redb::{BackendError, StorageBackend};
use wasmfleet::store::redb::{FileMedium, Medium, Room};

#[derive(Clone, Debug)]
pub struct Faulty {
    pub path: PathBuf,
    pub control: Arc<Control>,
}

#[derive(Debug)]
pub struct Control {
    /// The file cannot be written beyond this size.
    pub most_bytes: AtomicU64,
    pub flushes_fail: AtomicBool,
    /// How many pieces are kept for a full disk; each one lets the file grow by [`PIECE`].
    pub pieces: AtomicU64,
}

/// How many bytes a piece of the reserve has.
pub const PIECE: u64 = 1024 * 1024;
const PIECES: u64 = 16;

impl Faulty {
    pub fn new(path: PathBuf) -> Faulty {
        let control = Control {
            most_bytes: AtomicU64::new(u64::MAX),
            flushes_fail: AtomicBool::new(false),
            pieces: AtomicU64::new(0),
        };
        Faulty { path, control: Arc::new(control) }
    }

    pub fn size(&self) -> u64 {
        std::fs::metadata(&self.path).unwrap().len()
    }
}

impl Medium for Faulty {
    fn open(&self) -> io::Result<Box<dyn StorageBackend>> {
        let inner = FileMedium(self.path.clone()).open()?;
        Ok(Box::new(FaultyFile { inner, control: self.control.clone() }))
    }

    fn room(&self) -> io::Result<Box<dyn Room>> {
        Ok(Box::new(FaultyRoom(self.control.clone())))
    }
}

struct FaultyRoom(Arc<Control>);

impl Room for FaultyRoom {
    fn fill(&mut self) -> io::Result<()> {
        let is_full = self.0.most_bytes.load(Ordering::SeqCst) < u64::MAX;
        if is_full && self.0.pieces.load(Ordering::SeqCst) < PIECES {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.pieces.store(PIECES, Ordering::SeqCst);
        Ok(())
    }

    fn release(&mut self) -> io::Result<bool> {
        let kept = self.0.pieces.load(Ordering::SeqCst);
        if kept > 0 {
            self.0.pieces.store(kept - 1, Ordering::SeqCst);
            self.0.most_bytes.fetch_add(PIECE, Ordering::SeqCst);
        }
        Ok(kept > 0)
    }
}

#[derive(Debug)]
struct FaultyFile {
    inner: Box<dyn StorageBackend>,
    control: Arc<Control>,
}

impl FaultyFile {
    fn room(&self, end: u64) -> io::Result<()> {
        if end > self.control.most_bytes.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }
}

impl StorageBackend for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.room(len)?;
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        if self.control.flushes_fail.load(Ordering::SeqCst) {
            return Err(io::Error::other("injected: the flush failed"));
        }
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.room(offset + data.len() as u64)?;
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn unlock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }
}
