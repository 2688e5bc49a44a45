//! Objects from files: YAML and JSON, several documents, Lists, folders, stdin.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::discovery::Resource;
use super::selection::check_name;
use super::session::Session;
use crate::api::Object;
use crate::client::Target;

/// The most that is read of one file.
const MAX_FILE_BYTES: u64 = 16 << 20;

/// An object of a file, and where it came from.
pub struct Manifest {
    pub object: Object,
    pub source: String,
}

/// Reads all files in order; of folders, only what is in them, or with `recursive` what is below.
pub fn read(names: &[String], recursive: bool) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = String::new();
            std::io::stdin().take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
            if text.len() as u64 > MAX_FILE_BYTES {
                bail!("stdin is larger than {} MiB", MAX_FILE_BYTES >> 20);
            }
            parse(&text, "stdin", &mut manifests)?;
            continue;
        }
        for path in files(Path::new(name), recursive)? {
            let source = path.display().to_string();
            let size = path.metadata().with_context(|| source.clone())?.len();
            if size > MAX_FILE_BYTES {
                bail!("{source} is larger than {} MiB", MAX_FILE_BYTES >> 20);
            }
            let text = std::fs::read_to_string(&path).with_context(|| source.clone())?;
            parse(&text, &source, &mut manifests)?;
        }
    }
    if manifests.is_empty() {
        bail!("no objects in {}", names.join(", "));
    }
    Ok(manifests)
}

/// A file, or the YAML and JSON files of a folder by name.
fn files(path: &Path, recursive: bool) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    let mut folders = vec![path.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
            let entry = entry?;
            let path = entry.path();
            let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            // Links to folders are not followed: they may lead in circles.
            if recursive && entry.file_type()?.is_dir() {
                folders.push(path);
            } else if known && path.is_file() {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

fn parse(text: &str, source: &str, manifests: &mut Vec<Manifest>) -> anyhow::Result<()> {
    for (n, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let place =
            if n == 0 { source.to_string() } else { format!("{source} (document {})", n + 1) };
        let not_yaml = || format!("{place} is not valid YAML");
        let mut value = serde_yaml::Value::deserialize(document).with_context(not_yaml)?;
        value.apply_merge().with_context(not_yaml)?;
        let mut value: Value = serde_json::to_value(value).with_context(not_yaml)?;
        if value.is_null() {
            continue;
        }
        if let Some(spec) = value.get_mut("spec") {
            read_octals(spec);
        }
        add(value, &place, manifests)?;
    }
    Ok(())
}

/// Modes of files are written as `0644`, which kubectl's YAML 1.1 reads as an octal number, and
/// YAML 1.2 as text.
fn read_octals(value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (field, value) in map {
                let octal = match value {
                    Value::String(text) if field == "mode" || field == "defaultMode" => {
                        text.strip_prefix('0').and_then(|rest| i64::from_str_radix(rest, 8).ok())
                    }
                    _ => None,
                };
                match octal {
                    Some(mode) => *value = Value::from(mode),
                    None => read_octals(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(read_octals),
        _ => {}
    }
}

fn add(value: Value, source: &str, manifests: &mut Vec<Manifest>) -> anyhow::Result<()> {
    let Value::Object(mut map) = value else {
        bail!("{source}: expected an object with apiVersion and kind");
    };
    let is_list =
        map.get("kind").and_then(Value::as_str).is_some_and(|kind| kind.ends_with("List"));
    if is_list && let Some(Value::Array(items)) = map.remove("items") {
        for item in items {
            add(item, source, manifests)?;
        }
        return Ok(());
    }
    let object = Object::from_value(Value::Object(map))?;
    for (field, value) in [("apiVersion", object.api_version()), ("kind", object.kind())] {
        if value.is_empty() {
            bail!("{source}: the object has no {field}");
        }
    }
    manifests.push(Manifest { object, source: source.to_string() });
    Ok(())
}

impl Manifest {
    /// The resource of the object's kind, and its target; the session's namespace fills in.
    pub async fn locate(&mut self, session: &Session) -> anyhow::Result<(Resource, Target)> {
        let discovery = session.discovery().await?;
        let resource = discovery.of_object(self.object.api_version(), self.object.kind())?.clone();
        let name = Some(self.object.name().to_string()).filter(|name| !name.is_empty());
        if let Some(name) = &name {
            check_name(name)?;
        }
        let namespace = if !resource.gvr.namespaced {
            None
        } else {
            if self.object.namespace().is_empty() {
                self.object.set_meta("namespace", session.namespace.clone());
            }
            let own = self.object.namespace();
            if session.namespace_is_explicit && own != session.namespace {
                bail!(
                    "the namespace from the provided object {own:?} does not match the namespace \
                     {:?}. You must pass '--namespace={own}' to perform this operation.",
                    session.namespace
                );
            }
            Some(self.object.namespace().to_string())
        };
        let target = Target { resource: resource.gvr.clone(), namespace, name, subresource: None };
        Ok((resource, target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_and_lists() {
        let mut found = Vec::new();
        let text = "kind: A\napiVersion: v1\n---\n---\n\
                    kind: List\napiVersion: v1\nitems:\n- kind: B\n  apiVersion: v1\n";
        parse(text, "f", &mut found).unwrap();
        let kinds: Vec<&str> = found.iter().map(|m| m.object.kind()).collect();
        assert_eq!(kinds, ["A", "B"]);
        let error = parse("kind: A\n", "f", &mut found).unwrap_err().to_string();
        assert_eq!(error, "f: the object has no apiVersion");
        assert!(
            parse("a: [", "f", &mut found).unwrap_err().to_string().contains("f is not valid YAML")
        );
    }

    #[test]
    fn octal_modes_and_merge_keys_are_read_as_kubectl_reads_them() {
        let mut found = Vec::new();
        let text = "kind: A\napiVersion: v1\nx: &x {a: 1}\ny: {<<: *x, b: 2}\n\
                    data: {mode: '0644'}\nspec: {v: [{defaultMode: 0440}], mode: 0o600}\n";
        parse(text, "f", &mut found).unwrap();
        let object = found.remove(0).object.into_value();
        assert_eq!(object["spec"], serde_json::json!({"v": [{"defaultMode": 288}], "mode": 384}));
        assert_eq!(object["data"]["mode"], "0644");
        assert_eq!(object["y"], serde_json::json!({"a": 1, "b": 2}));
    }

    #[test]
    fn folders_are_read_as_deep_as_asked() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        for name in ["b.yml", "a.json", "note.txt", "sub/c.yaml"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let names = |recursive| -> Vec<String> {
            let files = files(dir.path(), recursive).unwrap();
            let name = |p: PathBuf| p.strip_prefix(dir.path()).unwrap().display().to_string();
            files.into_iter().map(name).collect()
        };
        assert_eq!(names(false), ["a.json", "b.yml"]);
        assert_eq!(names(true), ["a.json", "b.yml", "sub/c.yaml"]);
    }
}
