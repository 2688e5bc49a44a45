//! Names of images: `[oci://][host[:port]/]path[:tag][@sha256:…]`.
//!
//! A first part with a dot or a port, or `localhost`, is the host of another registry (the rule of
//! every container tool); a name without it is in the cluster's own registry, never on a public one.

use std::fmt;
use std::str::FromStr;

use super::digest_hex;

/// The tag of a name that has neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// Longest host and path together, in characters (distribution/reference).
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A parsed name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Host and port of another registry; `None` for the cluster's own.
    pub registry: Option<String>,
    pub repository: String,
    /// Set unless there is a digest.
    pub tag: Option<String>,
    /// `sha256:…`; decides over the tag.
    pub digest: Option<String>,
}

/// Why a text is no image name; the message is for the user.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid image name {name:?}: {why}")]
pub struct BadReference {
    pub name: String,
    pub why: &'static str,
}

impl FromStr for Reference {
    type Err = BadReference;

    fn from_str(name: &str) -> Result<Reference, BadReference> {
        parse(name).map_err(|why| BadReference { name: name.chars().take(MAX_NAME).collect(), why })
    }
}

fn parse(name: &str) -> Result<Reference, &'static str> {
    let text = name.strip_prefix("oci://").unwrap_or(name);
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.contains("://") {
        return Err("only oci:// names, or names without a scheme, are images");
    }
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) if digest_hex(digest).is_some() => (text, Some(digest.to_string())),
        Some(_) => return Err("a digest is sha256: and 64 lower case hexadecimal digits"),
        None => (text, None),
    };
    let (registry, path) = match text.split_once('/') {
        Some((host, path)) if is_host(host) => (Some(host.to_string()), path),
        _ => (None, text),
    };
    let (path, tag) = match path.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (path, None),
    };
    if tag.is_some_and(|tag| !is_tag(tag)) {
        return Err(
            "a tag has letters, digits, '_', '.' and '-', at most 128, and begins with none of '.-'",
        );
    }
    if registry.as_ref().map_or(0, |r| r.len() + 1) + path.len() > MAX_NAME {
        return Err("it is longer than 255 characters");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("its path must be in lower case");
    }
    if !is_repository(path) {
        return Err(
            "the parts of its path have lower case letters and digits, separated by '.', '_', \
             '__' or '-'",
        );
    }
    let tag = match (tag, &digest) {
        (Some(tag), _) => Some(tag.to_string()),
        (None, Some(_)) => None,
        (None, None) => Some(DEFAULT_TAG.to_string()),
    };
    Ok(Reference { registry, repository: path.to_string(), tag, digest })
}

/// A registry's host, with a dot, a port, or `localhost`.
pub(super) fn is_host(part: &str) -> bool {
    if part != "localhost" && !part.contains(['.', ':']) {
        return false;
    }
    let (host, port) = match part.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (part, None),
    };
    let word = |b: u8| b.is_ascii_alphanumeric();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = bytes.first().zip(bytes.last());
        ends.is_some_and(|(first, last)| word(*first) && word(*last))
            && bytes.iter().all(|b| word(*b) || *b == b'-')
    };
    let ipv6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let is_name = match ipv6 {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(label),
    };
    is_name && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
pub fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

/// Parts of `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, separated by slashes: safe as a path on disk.
pub fn is_repository(path: &str) -> bool {
    path.len() <= MAX_NAME && path.split('/').all(is_part)
}

fn is_part(part: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    let mut rest = part;
    while let Some(start) = rest.find(|c: char| !c.is_ascii() || !word(c as u8)) {
        let tail = &rest[start..];
        let end = tail.find(|c: char| c.is_ascii() && word(c as u8)).unwrap_or(tail.len());
        let separator = &tail[..end];
        let dashes = separator.bytes().all(|b| b == b'-');
        if !dashes && !matches!(separator, "." | "_" | "__") {
            return false;
        }
        rest = &tail[end..];
    }
    ends
}

impl Reference {
    /// In another registry than the cluster's own.
    pub fn is_foreign(&self) -> bool {
        self.registry.is_some()
    }

    /// What stands after `/manifests/`: the digest, or else the tag.
    pub fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or(DEFAULT_TAG)
    }

    /// `[host/]path`.
    pub fn name(&self) -> String {
        match &self.registry {
            Some(registry) => format!("{registry}/{}", self.repository),
            None => self.repository.clone(),
        }
    }

    /// `[host/]path@sha256:…`: what a Pod's status records as `imageID`.
    pub fn image_id(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}
