//! Termination messages: where a container may leave its last words, and what is read of them once
//! it ended. Nothing is read outside of what the container was given, whatever it put there.
//!
//! A guest's files are in preopened directories. So where no volume is at the path of the message,
//! the directory that it is in is one of the node's, made anew for each attempt and the last of the
//! container's mounts; and where there is a volume, the file lies in that.
//!
//! Source: k8s.io/kubernetes pkg/kubelet/kuberuntime/kuberuntime_container.go (getTerminationMessage,
//! readLastStringFromContainerLogs), pkg/kubelet/status/status_manager.go (normalizeStatus).

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Container, ContainerStateTerminated, PodStatus};
use rustix::fs::FileType;

use super::logs::{self, AttemptLog, ReadOptions};
use crate::base::beneath;
use crate::runtime::Mount;
use crate::volumes::{VolumeError, writer};

/// Of a file the last so many bytes are its message (MaxContainerTerminationMessageLength).
const MAX_FILE_BYTES: usize = 4 << 10;
/// Of a log (MaxContainerTerminationMessageLogLength and -LogLines).
const MAX_LOG_BYTES: usize = 2 << 10;
const MAX_LOG_LINES: u64 = 80;
/// Of all of a pod's containers together; each has the same share
/// (MaxPodTerminationMessageLogLength).
const MAX_POD_BYTES: usize = 12 << 10;
/// The path of containers that name none.
const DEFAULT_PATH: &str = "/dev/termination-log";

/// Where the last words of one attempt of a container are.
#[derive(Clone, Debug, Default)]
pub struct LastWords {
    file: Option<Place>,
    /// The end of its log stands in for an empty file, when it failed.
    falls_back: bool,
}

#[derive(Clone, Debug)]
struct Place {
    /// A directory whose path no guest can change, and the way from there.
    root: PathBuf,
    path: PathBuf,
    /// As the container sees it.
    guest_path: String,
    /// What lay there before the container started: that is not its message.
    before: Option<Seen>,
}

/// Inode, length and time of change of a file.
type Seen = (u64, u64, (i64, i64));

/// Finds or makes the place (blocking), and adds the mount that it needs. HTTP handlers get the
/// default one not: they are many, and have no end of their own.
///
/// # Errors
/// When the path is none of a file, or the node's directory cannot be made.
pub fn prepare(
    source: &Container,
    is_handler: bool,
    mounts: &mut Vec<Mount>,
    pod_dir: &Path,
) -> Result<LastWords, VolumeError> {
    let falls_back = source.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
    let path = source.termination_message_path.as_deref().unwrap_or_default();
    if path.is_empty() || (is_handler && path == DEFAULT_PATH) {
        return Ok(LastWords { file: None, falls_back });
    }
    let (parent, name) = split(path)?;
    let of = |mount: &&Mount| parent.starts_with(&mount.guest_path);
    let depth = |mount: &&Mount| Path::new(&mount.guest_path).components().count();
    if let Some(mount) = mounts.iter().filter(of).max_by_key(depth) {
        let below = parent.strip_prefix(&mount.guest_path).unwrap_or(&parent).join(name);
        let mut place = Place {
            root: mount.host_path.clone(),
            path: mount.sub_path.join(below),
            guest_path: path.to_string(),
            before: None,
        };
        place.before = place.open().ok().and_then(|file| seen(&file).ok());
        // Nobody can write where it is read only.
        return Ok(LastWords { file: (!mount.read_only).then_some(place), falls_back });
    }
    let root = dir(pod_dir, &source.name);
    make_empty(&root)?;
    writer::write_file(&root.join(name), &[], 0o644)?;
    mounts.push(Mount {
        host_path: root.clone(),
        sub_path: PathBuf::new(),
        guest_path: parent.to_string_lossy().into_owned(),
        read_only: false,
    });
    let (path, guest_path) = (PathBuf::from(name), path.to_string());
    Ok(LastWords { file: Some(Place { root, path, guest_path, before: None }), falls_back })
}

/// The node's directory for the messages of a container. What is in it counts as written by it.
pub fn dir(pod_dir: &Path, container: &str) -> PathBuf {
    pod_dir.join(format!("termination~{container}"))
}

fn make_empty(dir: &Path) -> Result<(), VolumeError> {
    match DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => return Ok(()),
        // An earlier attempt's.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => writer::remove(dir)?,
        // The pod has no volumes, so no directory yet.
        Err(_) => {}
    }
    writer::make_dir(dir, 0o700)
}

/// The directory and the name of a path like `/dev/termination-log`.
fn split(path: &str) -> Result<(PathBuf, &str), VolumeError> {
    let wrong = || {
        let text = format!("terminationMessagePath {path:?} is no absolute path of a file");
        VolumeError::Invalid(text)
    };
    let mut parent = PathBuf::from("/");
    let mut parts = Path::new(path).components();
    if parts.next() != Some(Component::RootDir) || path.ends_with('/') {
        return Err(wrong());
    }
    let names = parts.map(|part| match part {
        Component::Normal(name) => name.to_str().ok_or_else(wrong),
        _ => Err(wrong()),
    });
    let mut names = names.collect::<Result<Vec<&str>, VolumeError>>()?;
    let name = names.pop().filter(|name| !name.contains('\0')).ok_or_else(wrong)?;
    parent.extend(names);
    Ok((parent, name))
}

fn seen(file: &File) -> io::Result<Seen> {
    let meta = file.metadata()?;
    Ok((meta.ino(), meta.len(), (meta.ctime(), meta.ctime_nsec())))
}

impl Place {
    /// The file, if it is one: a guest may have made anything there.
    fn open(&self) -> io::Result<File> {
        let root = beneath::root(&self.root)?;
        let found = beneath::find(root.as_fd(), &self.path)?;
        if beneath::file_type(found.as_fd())? != FileType::RegularFile {
            return Err(io::Error::other("it is no regular file"));
        }
        File::open(beneath::path_of(found.as_fd()))
    }

    /// Its last bytes (blocking); empty where there is nothing new.
    fn read(&self) -> io::Result<String> {
        let mut file = match self.open() {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(String::new()),
            opened => opened?,
        };
        if self.before.is_some() && self.before == seen(&file).ok() {
            return Ok(String::new());
        }
        let skipped = file.metadata()?.len().saturating_sub(MAX_FILE_BYTES as u64);
        file.seek(SeekFrom::Start(skipped))?;
        let mut bytes = Vec::new();
        file.take(MAX_FILE_BYTES as u64).read_to_end(&mut bytes)?;
        Ok(text(&bytes, skipped > 0))
    }
}

/// As text; one that was cut begins with a whole character.
fn text(bytes: &[u8], is_cut: bool) -> String {
    let inside = |byte: &&u8| is_cut && **byte & 0xc0 == 0x80;
    let skipped = bytes.iter().take(3).take_while(inside).count();
    String::from_utf8_lossy(&bytes[skipped..]).into_owned()
}

impl LastWords {
    /// Whether there can be any.
    pub fn is_expected(&self, exit: &ContainerStateTerminated) -> bool {
        self.file.is_some() || (self.falls_back && exit.exit_code != 0)
    }

    /// Puts them into how the container ended. Its log is closed by now.
    pub async fn add_to(self, exit: &mut ContainerStateTerminated, log: Arc<AttemptLog>) {
        let LastWords { file, falls_back } = self;
        let mut words = String::new();
        if let Some(place) = file {
            let path = place.guest_path.clone();
            let read = tokio::task::spawn_blocking(move || place.read()).await;
            let read = read.map_err(io::Error::other).flatten();
            words = read.unwrap_or_else(|error| {
                format!("Error on reading termination log {path}: {error}")
            });
        }
        if words.is_empty() && falls_back && exit.exit_code != 0 {
            words = log_end(log).await;
            // What the runtime says of a trap is in the log, too.
            if exit.message.as_ref().is_some_and(|message| words.contains(message)) {
                exit.message = None;
            }
        }
        if words.is_empty() {
            return;
        }
        exit.message = Some(match exit.message.take() {
            Some(message) if !message.is_empty() => format!("{message}: {words}"),
            _ => words,
        });
    }
}

/// The end of a log, without the end of its last line.
async fn log_end(log: Arc<AttemptLog>) -> String {
    let options = ReadOptions { tail_lines: Some(MAX_LOG_LINES), ..ReadOptions::default() };
    let mut pieces = logs::read(log.dir.clone(), log.attempt, options, Some(log));
    let (mut end, mut is_cut) = (Vec::new(), false);
    while let Some(piece) = pieces.next().await {
        match piece {
            Ok(piece) => end.extend_from_slice(&piece),
            Err(error) => return format!("Error on reading container logs: {error}"),
        }
        if end.len() > MAX_LOG_BYTES + 1 {
            end.drain(..end.len() - MAX_LOG_BYTES - 1);
            is_cut = true;
        }
    }
    end.pop_if(|last| *last == b'\n');
    let skipped = end.len().saturating_sub(MAX_LOG_BYTES);
    text(&end[skipped..], is_cut || skipped > 0)
}

/// Holds the messages of a pod's status to what they may take together.
pub fn bound(status: &mut PodStatus) {
    let mut lists = [
        status.container_statuses.as_mut(),
        status.init_container_statuses.as_mut(),
        status.ephemeral_container_statuses.as_mut(),
    ];
    let containers: usize = lists.iter().flatten().map(|list| list.len()).sum();
    let share = MAX_POD_BYTES / containers.max(1);
    for container in lists.iter_mut().flatten().flat_map(|list| list.iter_mut()) {
        let states = [container.state.as_mut(), container.last_state.as_mut()];
        let ended = states.into_iter().flatten().filter_map(|state| state.terminated.as_mut());
        for message in ended.filter_map(|ended| ended.message.as_mut()) {
            message.truncate(message.floor_char_boundary(share));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use serde_json::json;

    use super::*;

    fn container(path: &str) -> Container {
        let source = json!({"name": "main", "terminationMessagePath": path});
        serde_json::from_value(source).unwrap()
    }

    fn mount(host_path: &Path, guest_path: &str, read_only: bool) -> Mount {
        let (host_path, guest_path) = (host_path.to_path_buf(), guest_path.to_string());
        Mount { host_path, sub_path: PathBuf::new(), guest_path, read_only }
    }

    fn read(words: &LastWords) -> io::Result<String> {
        words.file.as_ref().map_or(Ok("no place".into()), Place::read)
    }

    #[test]
    fn a_path_without_a_volume_gets_a_directory_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let pod_dir = dir.path().join("pod");
        let mut mounts = Vec::new();
        let words = prepare(&container(DEFAULT_PATH), false, &mut mounts, &pod_dir).unwrap();
        assert_eq!((mounts.len(), &*mounts[0].guest_path), (1, "/dev"));
        let file = mounts[0].host_path.join("termination-log");
        assert_eq!(fs::read_to_string(&file).unwrap(), "", "it is there");
        assert_eq!(read(&words).unwrap(), "");
        fs::write(&file, "why").unwrap();
        assert_eq!(read(&words).unwrap(), "why");
        fs::write(&file, format!("ä{}", "x".repeat(MAX_FILE_BYTES - 1))).unwrap();
        assert_eq!(read(&words).unwrap(), "x".repeat(MAX_FILE_BYTES - 1), "whole characters");
        fs::remove_file(&file).unwrap();
        assert_eq!(read(&words).unwrap(), "");
        fs::create_dir(&file).unwrap();
        assert!(read(&words).unwrap_err().to_string().contains("regular"));
        fs::write(dir.path().join("secret"), "s").unwrap();
        fs::remove_dir(&file).unwrap();
        for target in [&*dir.path().join("secret"), Path::new("../../secret")] {
            symlink(target, &file).unwrap();
            assert!(beneath::is_escape(&read(&words).unwrap_err()), "it leads out: {target:?}");
            fs::remove_file(&file).unwrap();
        }
        // The next attempt's is empty again.
        prepare(&container(DEFAULT_PATH), false, &mut Vec::new(), &pod_dir).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "");
        let handler = prepare(&container(DEFAULT_PATH), true, &mut mounts, &pod_dir).unwrap();
        assert!(handler.file.is_none() && mounts.len() == 1);
        for wrong in ["/", "", "dev/log", "/dev/", "/a/../b", "/a/.."] {
            let made = prepare(&container(wrong), false, &mut mounts, &pod_dir);
            assert_eq!(made.is_ok(), wrong.is_empty(), "{wrong:?}");
        }
    }

    #[test]
    fn in_a_volume_only_what_the_container_wrote_is_its_message() {
        let dir = tempfile::tempdir().unwrap();
        let (data, inner) = (dir.path().join("data"), dir.path().join("inner"));
        fs::create_dir_all(data.join("deep")).unwrap();
        fs::create_dir(&inner).unwrap();
        fs::write(data.join("deep/log"), "of before").unwrap();
        let mut mounts = vec![mount(&data, "/data", false), mount(&inner, "/data/in", true)];
        let mut at =
            |path: &str| prepare(&container(path), false, &mut mounts, dir.path()).unwrap();
        let words = at("/data/deep/log");
        assert_eq!(read(&words).unwrap(), "");
        fs::write(data.join("deep/log"), "of now").unwrap();
        assert_eq!(read(&words).unwrap(), "of now");
        assert!(at("/data/in/log").file.is_none(), "nobody can write there");
        assert!(at("/data/inside").file.is_some());
        assert_eq!(mounts.len(), 2);
    }

    #[test]
    fn messages_of_many_containers_share_what_a_pod_may_have() {
        let long = |name: &str, text: &str| {
            let message = text.repeat(MAX_POD_BYTES);
            json!({"name": name, "image": "", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"terminated": {"exitCode": 1, "message": message}},
                "lastState": {"terminated": {"exitCode": 1, "message": "short"}}})
        };
        let status = json!({"containerStatuses": [long("a", "x"), long("b", "ä")],
            "initContainerStatuses": [long("i", "x")],
            "ephemeralContainerStatuses": [long("e", "x"), long("f", "x")]});
        let mut status: PodStatus = serde_json::from_value(status).unwrap();
        bound(&mut status);
        let list = status.container_statuses.unwrap();
        let message = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
            state.as_ref().unwrap().terminated.as_ref().unwrap().message.clone().unwrap()
        };
        assert_eq!(message(&list[0].state).len(), 2457);
        assert_eq!(message(&list[1].state).len(), 2456, "a whole character");
        assert_eq!(message(&list[1].last_state), "short");
    }
}
