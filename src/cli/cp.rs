//! `wasmctl cp`: files to and from the volumes of a container, as an archive over the streams of
//! `tar`, which the node answers.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, bail};
use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};
use tar::{Archive, Builder, EntryType};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::args::{CpArgs, LogsArgs};
use super::selection::check_name;
use super::session::Session;
use super::streams::{self, CommandFailed, Target};
use super::{logs, printer};
use crate::base::frames;

/// Pieces of an archive on their way between the network and the disk, and how long they are.
const PIECES: usize = 16;
const PIECE_BYTES: usize = 32 << 10;

/// Names standard output, as whatever takes an archive has it.
const STDIO: &str = "-";

/// A path in a pod.
#[derive(Debug, PartialEq)]
struct InPod {
    namespace: Option<String>,
    pod: String,
    path: String,
}

impl InPod {
    /// `POD:PATH` or `NAMESPACE/POD:PATH`; none for a path of this machine.
    fn parse(text: &str) -> Option<InPod> {
        let (place, path) = text.split_once(':')?;
        if text.starts_with(['.', '/']) || place.is_empty() {
            return None;
        }
        let (namespace, pod) = match place.split_once('/') {
            Some((namespace, pod)) => (Some(namespace.to_string()), pod),
            None => (None, place),
        };
        Some(InPod { namespace, pod: pod.to_string(), path: path.to_string() })
    }
}

pub async fn run(session: &Session, args: &CpArgs) -> anyhow::Result<()> {
    match (InPod::parse(&args.from), InPod::parse(&args.to)) {
        (Some(from), None) => copy_from(session, args, &from, Path::new(&args.to)).await,
        (None, Some(to)) => copy_to(session, args, Path::new(&args.from), &to).await,
        _ => bail!("exactly one of both must be in a pod: POD:PATH"),
    }
}

/// The pod and its container.
async fn place(session: &Session, args: &CpArgs, of: &InPod) -> anyhow::Result<(String, String)> {
    check_name(&of.pod)?;
    if let Some(namespace) = &of.namespace
        && *namespace != session.namespace
    {
        bail!("the pod is in namespace {namespace}; say so with -n {namespace}");
    }
    if of.path.is_empty() {
        bail!("say which path of the pod is meant: {}:PATH", of.pod);
    }
    let args = LogsArgs { container: args.container.clone(), ..LogsArgs::of_pod(&of.pod) };
    logs::first(session, &args).await
}

async fn copy_to(session: &Session, args: &CpArgs, from: &Path, to: &InPod) -> anyhow::Result<()> {
    if from == Path::new(STDIO) {
        bail!("archives are not read from standard input; name a file or directory");
    }
    std::fs::metadata(from).with_context(|| from.display().to_string())?;
    let (pod, container) = place(session, args, to).await?;
    let path = to.path.trim_end_matches('/');
    let words = |words: &[&str]| words.iter().map(|word| word.to_string()).collect::<Vec<_>>();
    let target = Target { pod: &pod, container: &container, stdin: false, tty: false };
    let is_directory =
        match command(session, &target, &words(&["test", "-d", &to.path]), None, None).await {
            Ok(()) => true,
            Err(error) if error.is::<CommandFailed>() => false,
            Err(error) => return Err(error),
        };
    let (directory, name) = match is_directory {
        true => (to.path.as_str(), from.canonicalize()?.file_name().map(PathBuf::from)),
        false => {
            let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
            (if parent.is_empty() { "/" } else { parent }, Some(PathBuf::from(name)))
        }
    };
    let name = name.with_context(|| format!("{} has no name", from.display()))?;
    let (pieces, packed) = mpsc::channel(PIECES);
    let from = from.to_path_buf();
    let packing = tokio::task::spawn_blocking(move || pack(&from, &name, pieces));
    let target = Target { stdin: true, ..target };
    let unpack = words(&["tar", "-xmf", "-", "-C", directory]);
    let sent = command(session, &target, &unpack, Some(packed), None).await;
    // What cannot be read here is why there was too little for the other end.
    packing.await??;
    sent
}

async fn copy_from(
    session: &Session,
    args: &CpArgs,
    from: &InPod,
    to: &Path,
) -> anyhow::Result<()> {
    let (pod, container) = place(session, args, from).await?;
    let words = ["tar", "cf", "-", &from.path].map(str::to_string);
    let target = Target { pod: &pod, container: &container, stdin: false, tty: false };
    if to == Path::new(STDIO) {
        return archive(session, &target, &words).await;
    }
    let prefix = PathBuf::from(from.path.trim_matches('/'));
    let to = match (to.is_dir(), prefix.file_name()) {
        (true, Some(name)) => to.join(name),
        _ => to.to_path_buf(),
    };
    let (pieces, packed) = mpsc::channel(PIECES);
    let unpacking = tokio::task::spawn_blocking(move || unpack(packed, &prefix, &to));
    let sent = command(session, &target, &words, None, Some(pieces)).await;
    let count = unpacking.await??;
    sent?;
    if count == 0 {
        bail!("there is nothing at {}", from.path);
    }
    Ok(())
}

/// Writes the archive itself to standard output, as it comes.
async fn archive(session: &Session, target: &Target<'_>, words: &[String]) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        bail!("an archive is nothing for a terminal: redirect it, or name a file (`./-` too)");
    }
    let (pieces, mut packed) = mpsc::channel::<Bytes>(PIECES);
    let writing = tokio::task::spawn_blocking(move || {
        while let Some(piece) = packed.blocking_recv() {
            printer::raw(&piece)?;
        }
        anyhow::Ok(())
    });
    let sent = command(session, target, words, None, Some(pieces)).await;
    writing.await??;
    sent
}

/// Runs a command; its errors are shown as they come.
async fn command(
    session: &Session,
    target: &Target<'_>,
    words: &[String],
    mut input: Option<mpsc::Receiver<Bytes>>,
    output: Option<mpsc::Sender<Bytes>>,
) -> anyhow::Result<()> {
    let (socket, protocol) = streams::open(session, "exec", target, words).await?;
    let (mut writer, mut reader) = socket.split();
    let up = async {
        if let Some(input) = &mut input {
            while let Some(piece) = input.recv().await {
                writer.send(streams::message(frames::STDIN, &piece)).await?;
            }
            writer.send(streams::end_of_input(&protocol)).await?;
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    let down = async {
        while let Some(message) = reader.next().await {
            let mut bytes = match message.context("the connection was lost")? {
                Message::Binary(bytes) => bytes,
                Message::Close(_) => break,
                _ => continue,
            };
            if bytes.is_empty() {
                continue;
            }
            match bytes.split_to(1)[0] {
                frames::STDOUT => {
                    if let Some(output) = &output
                        && output.send(bytes).await.is_err()
                    {
                        return Ok(());
                    }
                }
                frames::STDERR => printer::note(String::from_utf8_lossy(&bytes).trim_end()),
                frames::ERROR => return streams::outcome(&bytes),
                _ => {}
            }
        }
        bail!("the connection ended before the copy did")
    };
    tokio::select! {
        result = up => result,
        result = down => result,
    }
}

/// Writes an archive in pieces.
struct Pieces {
    to: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        if piece.is_empty() {
            return Ok(());
        }
        self.to.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn pack(from: &Path, name: &Path, to: mpsc::Sender<Bytes>) -> anyhow::Result<()> {
    let mut builder = Builder::new(Pieces { to, buffer: Vec::new() });
    let packed = match from.is_dir() {
        true => builder.append_dir_all(name, from),
        false => builder.append_path_with_name(from, name),
    };
    let packed = packed.and_then(|()| builder.into_inner()).and_then(|mut pieces| pieces.flush());
    match packed {
        // The other end says why it took no more.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        packed => packed.with_context(|| format!("cannot read {}", from.display())),
    }
}

/// Reads an archive from its pieces.
struct Joined {
    from: mpsc::Receiver<Bytes>,
    piece: Bytes,
}

impl Read for Joined {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.from.blocking_recv().unwrap_or_default();
        }
        let read = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..read]);
        Ok(read)
    }
}

/// Makes the files of an archive whose names are below `prefix`; how many entries there were.
/// Whatever a pod may send: nothing outside of `to`, and no links.
fn unpack(from: mpsc::Receiver<Bytes>, prefix: &Path, to: &Path) -> anyhow::Result<usize> {
    let mut archive = Archive::new(Joined { from, piece: Bytes::new() });
    let mut count = 0;
    for entry in archive.entries()? {
        let mut entry = entry.context("the archive broke off")?;
        let name = entry.path()?.to_path_buf();
        let Some(place) = place_of(&name, prefix, to) else {
            printer::note(&format!("{} is left out: it is not what was asked for", name.display()));
            continue;
        };
        count += 1;
        let made = match entry.header().entry_type() {
            EntryType::Directory => std::fs::create_dir_all(&place),
            EntryType::Regular | EntryType::Continuous => {
                let parent = place.parent().filter(|parent| !parent.as_os_str().is_empty());
                parent.map_or(Ok(()), std::fs::create_dir_all).and_then(|()| {
                    let mut file = std::fs::File::create(&place)?;
                    io::copy(&mut entry, &mut file).map(drop)
                })
            }
            _ => {
                printer::note(&format!("{} is left out: it is no file", name.display()));
                Ok(())
            }
        };
        made.with_context(|| place.display().to_string())?;
    }
    Ok(count)
}

fn place_of(name: &Path, prefix: &Path, to: &Path) -> Option<PathBuf> {
    let rest = name.strip_prefix(prefix).ok()?;
    let plain = |part: Component| matches!(part, Component::Normal(_) | Component::CurDir);
    if !rest.components().all(plain) {
        return None;
    }
    Some(if rest.as_os_str().is_empty() { to.to_path_buf() } else { to.join(rest) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_in_pods() {
        let in_pod = |namespace: Option<&str>, pod: &str, path: &str| {
            let namespace = namespace.map(str::to_string);
            Some(InPod { namespace, pod: pod.into(), path: path.into() })
        };
        assert_eq!(InPod::parse("box:/data"), in_pod(None, "box", "/data"));
        assert_eq!(InPod::parse("n/box:a:b"), in_pod(Some("n"), "box", "a:b"));
        for here in ["file", "./a:b", "/a:b", ":x"] {
            assert_eq!(InPod::parse(here), None, "{here}");
        }
    }

    #[test]
    fn nothing_is_unpacked_elsewhere() {
        let place = |name: &str| place_of(Path::new(name), Path::new("data/x"), Path::new("out"));
        assert_eq!(place("data/x"), Some("out".into()));
        assert_eq!(place("data/x/a/b"), Some("out/a/b".into()));
        for bad in ["data/y", "data/x/../../etc", "/etc/passwd", "data/xx"] {
            assert_eq!(place(bad), None, "{bad}");
        }
    }
}
