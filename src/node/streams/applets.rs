//! What the node answers itself where a container has no such program: `tar` and `test -d`, by which
//! `kubectl cp` copies (k8s.io/kubectl/pkg/cmd/cp). They see the container's mounts and nothing
//! else, and write only where the container may.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::fs::FileType;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::output::Output;
use super::tar;
use crate::base::{SharedClock, beneath};
use crate::runtime::{
    Container, Exit, ExitReason, Input, LogSink, LogStream, Mount, RuntimeEvent, Usage,
};

/// Of them on one node at once; each holds a thread.
pub const MAX_APPLETS: usize = 8;
/// Bytes that go to the client at once.
const PIECE_BYTES: usize = 32 << 10;

/// What an applet is asked to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Applet {
    /// `test -d PATH`, and `-e`, `-f`.
    Test { kind: char, path: String },
    /// `tar cf - PATH…`.
    Pack { paths: Vec<String> },
    /// `tar xf - [-C DIRECTORY]`.
    Unpack { directory: String },
}

/// The applet of a command, if there is one.
pub fn find(command: &[String]) -> Option<Applet> {
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test", kind @ ("-d" | "-e" | "-f"), path] => {
            Some(Applet::Test { kind: kind.chars().nth(1)?, path: path.to_string() })
        }
        ["tar", rest @ ..] => tar_of(rest),
        _ => None,
    }
}

/// The forms in which kubectl calls it, and people do.
fn tar_of(words: &[&str]) -> Option<Applet> {
    let (mut flags, mut directory, mut paths) = (String::new(), "/".to_string(), Vec::new());
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "-C" => directory = words.next()?.to_string(),
            // Files get the node's user and plain rights in any case.
            "--no-same-permissions" | "--no-same-owner" => {}
            "-" => paths.push("-".to_string()),
            word if word.starts_with("--") => return None,
            word if flags.is_empty() => flags = word.trim_start_matches('-').to_string(),
            word if word.starts_with('-') => flags.push_str(&word[1..]),
            path => paths.push(path.to_string()),
        }
    }
    let has = |flag| flags.contains(flag);
    // The archive is always on the streams.
    let plain = flags.chars().all(|flag| "cxfmpv".contains(flag));
    if !plain || !has('f') || paths.first().is_none_or(|path| path != "-") {
        return None;
    }
    paths.remove(0);
    match (has('c'), has('x')) {
        (true, false) if !paths.is_empty() => Some(Applet::Pack { paths }),
        (false, true) if paths.is_empty() => Some(Applet::Unpack { directory }),
        _ => None,
    }
}

/// Runs an applet on a thread of its own. It ends when what is returned is dropped.
pub fn run(
    applet: Applet,
    mounts: Arc<[Mount]>,
    clock: SharedClock,
    streams: (Input, Arc<Output>),
    events: mpsc::Sender<RuntimeEvent>,
    place: OwnedSemaphorePermit,
) -> Box<dyn Container> {
    let (input, output) = streams;
    let handle = Handle::current();
    let started_at = clock.now();
    let session = Streams {
        handle,
        input: input.clone(),
        output: output.clone(),
        rest: Bytes::new(),
        is_cut: false,
    };
    tokio::task::spawn_blocking(move || {
        let _place = place;
        let handle = session.handle.clone();
        let code = act(applet, &Files { mounts }, session);
        let reason = if code == 0 { ExitReason::Completed } else { ExitReason::Error };
        let finished_at = clock.now();
        let exit = Exit { code, reason, message: String::new(), started_at, finished_at };
        let _ = handle.block_on(events.send(RuntimeEvent::Exited { id: String::new(), exit }));
    });
    Box::new(Running { input, output })
}

fn act(applet: Applet, files: &Files, mut streams: Streams) -> i32 {
    match applet {
        Applet::Test { kind, path } => i32::from(!files.test(kind, &path)),
        Applet::Pack { paths } => tar::pack(files, &paths, streams),
        Applet::Unpack { directory } => {
            let code = tar::unpack(files, &directory, &mut streams);
            // A client that still sends is not cut off.
            let _ = io::copy(&mut streams, &mut io::sink());
            code
        }
    }
}

struct Running {
    input: Input,
    output: Arc<Output>,
}

impl Container for Running {
    fn stop(&self, _: Duration) {
        self.input.close();
        self.output.close();
    }

    fn usage(&self) -> Usage {
        Usage::default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop(Duration::ZERO);
    }
}

/// The client's streams, for a thread that may wait.
pub struct Streams {
    handle: Handle,
    input: Input,
    output: Arc<Output>,
    rest: Bytes,
    is_cut: bool,
}

impl Streams {
    /// Nothing more is written.
    pub fn cut(&mut self) {
        self.is_cut = true;
    }

    /// A line about what went wrong.
    pub fn complain(&self, text: &str) {
        self.output.write(LogStream::Stderr, format!("{text}\n").as_bytes());
    }
}

impl Read for Streams {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.rest.is_empty() {
            self.rest = self.handle.block_on(self.input.next()).unwrap_or_default();
        }
        let taken = self.rest.remaining().min(buffer.len());
        self.rest.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

impl Write for Streams {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.handle.block_on(poll_fn(|cx| self.output.poll_ready(cx)));
        if self.is_cut || self.output.is_closed() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(PIECE_BYTES);
        self.output.write(LogStream::Stdout, &bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The container's mounts, by the paths that its guest has.
pub struct Files {
    pub mounts: Arc<[Mount]>,
}

impl Files {
    /// The mount that a path is in, and the way from there; `None` outside of all.
    pub fn mount(&self, path: &Path) -> Option<(&Mount, PathBuf)> {
        let mounts = self.mounts.iter();
        let found = mounts.filter(|mount| path.starts_with(&mount.guest_path));
        let mount = found.max_by_key(|mount| mount.guest_path.len())?;
        let rest = path.strip_prefix(&mount.guest_path).ok()?;
        Some((mount, rest.to_path_buf()))
    }

    /// The directory that is mounted.
    pub fn root(&self, mount: &Mount) -> io::Result<OwnedFd> {
        let root = beneath::root(&mount.host_path)?;
        beneath::find(root.as_fd(), &mount.sub_path)
    }

    /// What a path is of, wherever links below its mount lead.
    pub fn open(&self, path: &Path) -> io::Result<OwnedFd> {
        let (mount, rest) = self.mount(path).ok_or(io::ErrorKind::NotFound)?;
        beneath::find(self.root(mount)?.as_fd(), &rest)
    }

    fn test(&self, kind: char, path: &str) -> bool {
        let Some(path) = absolute(path) else { return false };
        // What only leads to mounts is a directory, too.
        let leads = self.mounts.iter().any(|mount| Path::new(&mount.guest_path).starts_with(&path));
        let found = match self.open(&path) {
            Ok(handle) => beneath::file_type(handle.as_fd()).ok(),
            Err(_) => leads.then_some(FileType::Directory),
        };
        match kind {
            'd' => found == Some(FileType::Directory),
            'f' => found == Some(FileType::RegularFile),
            _ => found.is_some(),
        }
    }
}

/// A path from the root, without `.`; `None` if it goes up.
pub fn absolute(path: &str) -> Option<PathBuf> {
    let mut out = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_string).collect()
    }

    #[test]
    fn commands_of_kubectl_are_known() {
        let unpack = |directory: &str| Some(Applet::Unpack { directory: directory.into() });
        assert_eq!(find(&words("tar -xmf - -C /data")), unpack("/data"));
        assert_eq!(find(&words("tar -xmf -")), unpack("/"));
        let plain = "tar --no-same-permissions --no-same-owner -xmf - -C /data";
        assert_eq!(find(&words(plain)), unpack("/data"));
        let pack = Some(Applet::Pack { paths: vec!["/data/x".into()] });
        assert_eq!(find(&words("tar cf - /data/x")), pack);
        let test = Some(Applet::Test { kind: 'd', path: "/data".into() });
        assert_eq!(find(&words("test -d /data")), test);
        for other in ["tar", "tar cf out.tar /data", "tar xzf -", "tar cf -", "test a = b", "sh"] {
            assert_eq!(find(&words(other)), None, "{other}");
        }
    }

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(absolute("a/./b"), Some("/a/b".into()));
        assert_eq!(absolute("/a/../b"), None);
    }
}
