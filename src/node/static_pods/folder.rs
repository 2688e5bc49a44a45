//! From a folder's files to the pods that it wants: [`read`] looks at the disk, [`Folder`] decides
//! and is pure.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use sha2::{Digest, Sha256};

use super::Wanted;
use super::manifest::{self, Manifest};
use crate::api::ObjectKey;

/// Bytes of one file: the mirror has to be taken by the API server, too.
const MOST_BYTES: u64 = 1 << 20;
/// Files that are read; by the order of their names, others are left out and told of.
const MOST_FILES: usize = 1000;
/// The endings of files that hold a pod.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

/// A file's bytes, or why there are none.
pub type Content = Result<Vec<u8>, String>;
/// The files of a folder by path, or why it cannot be read. A folder that is not there is empty.
pub type Listing = Result<BTreeMap<PathBuf, Content>, String>;

/// Something that the user should know of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub file: PathBuf,
    pub message: String,
}

/// Reads all files (blocking). Links to files are followed, folders are not.
pub fn read(path: &Path) -> Listing {
    let text = |error: std::io::Error| error.to_string();
    match std::fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(text(error)),
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Ok(BTreeMap::from([(path.to_path_buf(), read_file(path))])),
    }
    let mut files = BTreeSet::new();
    for entry in std::fs::read_dir(path).map_err(text)? {
        let file = entry.map_err(text)?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden {
            files.insert(file);
        }
    }
    let mut contents: BTreeMap<PathBuf, Content> = BTreeMap::new();
    if files.len() > MOST_FILES {
        let message = format!("only the first {MOST_FILES} of its {} files are read", files.len());
        contents.insert(path.to_path_buf(), Err(message));
    }
    for file in files.into_iter().take(MOST_FILES) {
        let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let content = match ENDINGS.contains(&ending) {
            true => read_file(&file),
            false => Err("it is left out: files of pods end with .yaml, .yml or .json".into()),
        };
        contents.insert(file, content);
    }
    Ok(contents)
}

fn read_file(path: &Path) -> Content {
    let read = || -> std::io::Result<Option<Vec<u8>>> {
        // Looked at first: opening a pipe waits for who writes to it.
        if !std::fs::metadata(path)?.is_file() {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        std::fs::File::open(path)?.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    };
    match read() {
        Ok(Some(bytes)) if bytes.len() as u64 > MOST_BYTES => {
            Err(format!("it is larger than {} KiB", MOST_BYTES >> 10))
        }
        Ok(Some(bytes)) => Ok(bytes),
        Ok(None) => Err("it is no regular file".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// What is known of the folder. Pure.
pub struct Folder {
    path: PathBuf,
    node: String,
    files: BTreeMap<PathBuf, Known>,
    wanted: Wanted,
    /// What was told of the folder itself.
    told: Option<String>,
}

/// One file.
#[derive(Default)]
struct Known {
    digest: [u8; 32],
    /// As of the last time that it was a pod.
    pod: Option<Arc<Pod>>,
    /// What is to be said of the content of that digest.
    of_content: Vec<String>,
    told: Vec<String>,
}

impl Folder {
    pub fn new(path: &Path, node: &str) -> Folder {
        let (path, node) = (path.to_path_buf(), node.to_string());
        Folder { path, node, files: BTreeMap::new(), wanted: Wanted::default(), told: None }
    }

    pub fn wanted(&self) -> Wanted {
        self.wanted.clone()
    }

    /// Takes in what was read; answers what was not told before. Where nothing could be read, all
    /// stays as it was.
    pub fn take(&mut self, listing: Listing, now: Timestamp) -> Vec<Trouble> {
        let listing = match listing {
            Ok(listing) => listing,
            Err(error) => {
                let is_new = self.told.as_ref() != Some(&error);
                self.told = Some(error.clone());
                let trouble = Trouble { file: self.path.clone(), message: error };
                return Some(trouble).filter(|_| is_new).into_iter().collect();
            }
        };
        self.told = None;
        self.files.retain(|file, _| listing.contains_key(file));
        let mut messages: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
        for (file, content) in listing {
            let known = self.files.entry(file.clone()).or_default();
            let said = messages.entry(file.clone()).or_default();
            match content {
                Err(message) => {
                    known.digest = [0; 32];
                    said.push(message);
                }
                Ok(bytes) => {
                    let digest = Sha256::digest(&bytes).into();
                    if known.digest == digest {
                        said.clone_from(&known.of_content);
                        continue;
                    }
                    known.digest = digest;
                    match manifest::parse(&bytes, &file, &self.node, now) {
                        Ok(Manifest { pod, warnings }) => {
                            let same = known
                                .pod
                                .as_ref()
                                .filter(|old| old.metadata.uid == pod.metadata.uid);
                            known.pod = Some(same.cloned().unwrap_or_else(|| Arc::new(pod)));
                            said.extend(warnings);
                        }
                        Err(message) => said.push(message),
                    }
                    known.of_content.clone_from(said);
                }
            }
        }
        self.settle(messages)
    }

    /// The first file that has a name gets it.
    fn settle(&mut self, mut messages: BTreeMap<PathBuf, Vec<String>>) -> Vec<Trouble> {
        let mut wanted: BTreeMap<ObjectKey, (PathBuf, Arc<Pod>)> = BTreeMap::new();
        for (file, known) in &self.files {
            let Some(pod) = &known.pod else { continue };
            let key = ObjectKey::of(&pod.metadata);
            match wanted.get(&key) {
                Some((first, _)) => {
                    let message = format!("the pod {key} is already that of {}", first.display());
                    let said = messages.entry(file.clone()).or_default();
                    if !said.contains(&message) {
                        said.push(message);
                    }
                }
                None => drop(wanted.insert(key, (file.clone(), pod.clone()))),
            }
        }
        self.wanted = Arc::new(wanted.into_iter().map(|(key, (_, pod))| (key, pod)).collect());
        let mut troubles = Vec::new();
        for (file, said) in messages {
            let Some(known) = self.files.get_mut(&file) else { continue };
            let told = std::mem::replace(&mut known.told, said);
            let new = known.told.iter().filter(|message| !told.contains(message));
            troubles.extend(
                new.map(|message| Trouble { file: file.clone(), message: message.clone() }),
            );
        }
        troubles
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, image: &str) -> Content {
        Ok(format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\n\
             spec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
        .into_bytes())
    }

    fn listing(files: &[(&str, Content)]) -> Listing {
        Ok(files.iter().map(|(name, content)| (PathBuf::from(name), content.clone())).collect())
    }

    fn wants(folder: &Folder) -> Vec<String> {
        let image = |pod: &Pod| pod.spec.as_ref()?.containers[0].image.clone();
        let wanted = folder.wanted();
        let all =
            wanted.iter().map(|(key, pod)| format!("{key} {}", image(pod).unwrap_or_default()));
        all.collect()
    }

    #[test]
    fn a_bad_file_leaves_the_others_alone_and_its_own_pod_as_it_was() {
        let mut folder = Folder::new(Path::new("d"), "n1");
        let now = Timestamp::UNIX_EPOCH;
        let first = [("d/a.yaml", text("a", "x")), ("d/b.yaml", Ok(b"kind: [".to_vec()))];
        let told = folder.take(listing(&first), now);
        assert_eq!(wants(&folder), ["default/a-n1 x"]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].file, Path::new("d/b.yaml"));
        assert!(folder.take(listing(&first), now).is_empty(), "told once");
        let seen = folder.wanted();
        // The other one is mended, this one spoilt.
        let second = [("d/a.yaml", Err("gone wrong".into())), ("d/b.yaml", text("b", "y"))];
        let told = folder.take(listing(&second), now);
        assert_eq!(wants(&folder), ["default/a-n1 x", "default/b-n1 y"]);
        let trouble = Trouble { file: "d/a.yaml".into(), message: "gone wrong".into() };
        assert_eq!(told, [trouble]);
        // Back as it was: the same pod.
        assert!(folder.take(listing(&first[..1]), now).is_empty());
        assert_eq!(wants(&folder), ["default/a-n1 x"]);
        let key = ObjectKey::new("default", "a-n1");
        assert!(Arc::ptr_eq(&seen[&key], &folder.wanted()[&key]));
    }

    #[test]
    fn a_changed_file_is_another_pod_and_a_name_is_the_first_files() {
        let mut folder = Folder::new(Path::new("d"), "n1");
        let now = Timestamp::UNIX_EPOCH;
        folder.take(listing(&[("d/a.yaml", text("a", "x"))]), now);
        let key = ObjectKey::new("default", "a-n1");
        let uid = |folder: &Folder| folder.wanted()[&key].metadata.uid.clone();
        let before = uid(&folder);
        folder.take(listing(&[("d/a.yaml", text("a", "y"))]), now);
        assert_ne!(uid(&folder), before);
        let told = folder
            .take(listing(&[("d/a.yaml", text("a", "y")), ("d/b.yaml", text("a", "z"))]), now);
        assert_eq!(wants(&folder), ["default/a-n1 y"]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].message.contains("d/a.yaml"), "{told:?}");
        // The second one comes to it when the first is gone.
        assert!(folder.take(listing(&[("d/b.yaml", text("a", "z"))]), now).is_empty());
        assert_eq!(wants(&folder), ["default/a-n1 z"]);
    }

    #[test]
    fn a_folder_that_cannot_be_read_changes_nothing() {
        let mut folder = Folder::new(Path::new("d"), "n1");
        let now = Timestamp::UNIX_EPOCH;
        folder.take(listing(&[("d/a.yaml", text("a", "x"))]), now);
        assert_eq!(folder.take(Err("denied".into()), now).len(), 1);
        assert!(folder.take(Err("denied".into()), now).is_empty());
        assert_eq!(wants(&folder).len(), 1);
        folder.take(listing(&[]), now);
        assert_eq!(wants(&folder).len(), 0);
    }

    #[test]
    fn files_are_read_but_for_hidden_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, size: usize| {
            std::fs::write(dir.path().join(name), vec![b'x'; size]).expect("written");
        };
        write("a.yaml", 3);
        write(".b.yaml", 3);
        write("c.txt", 3);
        write("d.json", (MOST_BYTES + 1) as usize);
        std::fs::create_dir(dir.path().join("e.yaml")).expect("made");
        let read = read(dir.path()).expect("a listing");
        let names: Vec<(&str, bool)> = read
            .iter()
            .map(|(path, content)| {
                (path.file_name().and_then(|name| name.to_str()).expect("a name"), content.is_ok())
            })
            .collect();
        assert_eq!(
            names,
            [("a.yaml", true), ("c.txt", false), ("d.json", false), ("e.yaml", false)]
        );
        let missing = super::read(&dir.path().join("missing"));
        assert_eq!(missing, Ok(BTreeMap::new()));
    }
}
