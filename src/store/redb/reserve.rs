//! Room on the disk that is kept for the day on which it is full.
//!
//! A deletion is written to the log like every change, so a full disk would refuse the very thing
//! that is to make room. Therefore a file of nothing stands beside the store. When a write finds no
//! room, the file is given back piece by piece, and what it gave is for vital commits alone: those
//! that delete, and those that the store's user names ([`Vital`]). Ordinary ones are refused until
//! the file has its size again, which is tried before each batch that has some.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use super::backend::is_no_space;
use crate::base::private;
use crate::store::{Op, Vital};

/// How much is kept.
pub const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
/// How much is given back at a time: others write to the disk too, and would take what is not needed
/// at once.
const STEP_BYTES: u64 = 1024 * 1024;

/// Where room can be kept.
pub trait Room: Send {
    /// Takes all of it; where that fails, as much is kept as before.
    ///
    /// # Errors
    ///
    /// The disk's, among them that it is full.
    fn fill(&mut self) -> io::Result<()>;

    /// Gives a piece of it back to the disk; `false` if nothing is left.
    ///
    /// # Errors
    ///
    /// The disk's.
    fn release(&mut self) -> io::Result<bool>;
}

/// Room kept by a file.
#[derive(Debug)]
pub(super) struct FileRoom {
    file: File,
    bytes: u64,
}

impl FileRoom {
    pub(super) fn open(path: &Path) -> io::Result<FileRoom> {
        Ok(FileRoom { file: private::open(path)?, bytes: RESERVE_BYTES })
    }
}

impl Room for FileRoom {
    fn fill(&mut self) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        if before >= self.bytes {
            return Ok(());
        }
        let result = allocate(&self.file, before, self.bytes);
        if result.is_err() {
            self.file.set_len(before)?;
        }
        result
    }

    fn release(&mut self) -> io::Result<bool> {
        let length = self.file.metadata()?.len();
        self.file.set_len(length.saturating_sub(STEP_BYTES))?;
        Ok(length > 0)
    }
}

/// Blocks of the disk for the file's bytes from `from` up to `to`.
fn allocate(file: &File, from: u64, to: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    {
        let flags = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(file, flags, from, to - from) {
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
            result => return Ok(result?),
        }
    }
    use io::{Seek, Write};
    let mut file = file;
    file.seek(io::SeekFrom::Start(from))?;
    let zeros = vec![0; STEP_BYTES as usize];
    let mut left = to - from;
    while left > 0 {
        let part = left.min(STEP_BYTES);
        file.write_all(&zeros[..part as usize])?;
        left -= part;
    }
    file.sync_data()
}

/// The writer's hold on the room.
pub(super) struct Reserve {
    room: Option<Box<dyn Room>>,
    /// Why ordinary commits are refused.
    scarce: Option<String>,
    vital: Arc<OnceLock<Vital>>,
}

impl Reserve {
    pub(super) fn new(room: Option<Box<dyn Room>>, vital: Arc<OnceLock<Vital>>) -> Reserve {
        let mut reserve = Reserve { room, scarce: None, vital };
        reserve.fill();
        reserve
    }

    /// Whether a commit may use what is kept.
    pub(super) fn serves(&self, ops: &[Op]) -> bool {
        ops.iter().any(|op| match op {
            Op::Delete { .. } => true,
            Op::Put { key, value, .. } => {
                self.vital.get().is_some_and(|vital| vital(key, &value.bytes))
            }
            Op::Check { .. } => false,
        })
    }

    /// Why ordinary commits are refused, unless the room can be had again.
    pub(super) fn refuses(&mut self) -> Option<String> {
        if self.scarce.is_some() {
            self.fill();
        }
        self.scarce.clone()
    }

    /// A write found no room.
    pub(super) fn is_needed(&mut self, why: &str) {
        if self.room.is_some() && self.scarce.is_none() {
            tracing::warn!("the store's disk is full: from now on only deletions are taken");
            self.scarce = Some(why.to_owned());
        }
    }

    /// Gives some of it for a write that found no room; `false` if there is none.
    pub(super) fn spend(&mut self) -> bool {
        let Some(room) = &mut self.room else { return false };
        room.release().unwrap_or_else(|error| {
            tracing::warn!(%error, "the room that the store keeps cannot be used");
            false
        })
    }

    fn fill(&mut self) {
        let Some(room) = &mut self.room else { return };
        match room.fill() {
            Ok(()) => {
                if self.scarce.take().is_some() {
                    tracing::info!("the store's disk has room again: everything is taken");
                }
            }
            Err(error) if is_no_space(&error) => self.is_needed(&error.to_string()),
            Err(error) => {
                tracing::warn!(%error, "the store keeps no room for a full disk");
                (self.room, self.scarce) = (None, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_its_blocks_and_gives_them_back_in_steps() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reserve");
        let mut room = FileRoom::open(&path).unwrap();
        room.fill().unwrap();
        let blocks = || {
            let metadata = std::fs::metadata(&path).unwrap();
            std::os::unix::fs::MetadataExt::blocks(&metadata) * 512
        };
        assert!(blocks() >= RESERVE_BYTES, "{} bytes are had", blocks());
        assert!(room.release().unwrap());
        assert!(blocks() <= RESERVE_BYTES - STEP_BYTES);
        for _ in 1..RESERVE_BYTES / STEP_BYTES {
            assert!(room.release().unwrap());
        }
        assert!(!room.release().unwrap(), "nothing is left");
        room.fill().unwrap();
        assert!(blocks() >= RESERVE_BYTES);
    }
}
