//! Tells when a folder changes, where the system does (inotify). What changed is not looked at: the
//! folder is read anew. Without it the node goes by its period alone.

use std::path::Path;

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::net::unix::pipe::Receiver;

/// Changes of one folder since it was opened.
pub struct Changes(Option<Receiver>);

impl Changes {
    /// A folder that is not there, or a system without room for one more watch, has no changes.
    pub fn of(path: &Path) -> Changes {
        let open = || -> std::io::Result<Receiver> {
            let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
            let written = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
            let gone = WatchFlags::DELETE | WatchFlags::MOVED_FROM;
            let itself = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
            add_watch(&fd, path, written | gone | itself)?;
            // As a pipe it is something that becomes readable, and no more is asked of it.
            Receiver::from_owned_fd_unchecked(fd)
        };
        Changes(open().ok())
    }

    /// Resolves at the first change.
    pub async fn next(&self) {
        match &self.0 {
            // What is there to be read stays: the next look has a watch of its own.
            Some(changes) if changes.readable().await.is_ok() => {}
            _ => std::future::pending().await,
        }
    }
}
