//! Objects from files: YAML and JSON, several documents, Lists, folders, stdin.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Deserialize;
use serde_json::Value;

use super::discovery::Resource;
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

/// Reads all files in order.
pub fn read(names: &[String]) -> anyhow::Result<Vec<Manifest>> {
    let mut manifests = Vec::new();
    for name in names {
        if name == "-" {
            let mut text = String::new();
            std::io::stdin().take(MAX_FILE_BYTES).read_to_string(&mut text)?;
            parse(&text, "stdin", &mut manifests)?;
            continue;
        }
        for path in files(Path::new(name))? {
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
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).with_context(|| path.display().to_string())? {
        let path = entry?.path();
        let known = path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
        if known && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(text: &str, source: &str, manifests: &mut Vec<Manifest>) -> anyhow::Result<()> {
    for (n, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let place =
            if n == 0 { source.to_string() } else { format!("{source} (document {})", n + 1) };
        let value =
            Value::deserialize(document).with_context(|| format!("{place} is not valid YAML"))?;
        if value.is_null() {
            continue;
        }
        add(value, &place, manifests)?;
    }
    Ok(())
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
        let resource = discovery
            .of_object(self.object.api_version(), self.object.kind())
            .with_context(|| self.source.clone())?
            .clone();
        let namespace = if !resource.gvr.namespaced {
            None
        } else {
            if self.object.namespace().is_empty() {
                self.object.set_meta("namespace", session.namespace.clone());
            }
            Some(self.object.namespace().to_string())
        };
        let name = Some(self.object.name().to_string()).filter(|name| !name.is_empty());
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
}
