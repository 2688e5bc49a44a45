//! Indexes of images (image-spec, image-index.md; Docker calls them manifest lists): several manifests
//! under one name, of which a reader takes the one for its platform.
//!
//! What the manifests are, it does not know.

use serde::Deserialize;

use super::digest_hex;

pub const OCI_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub const DOCKER_TYPE: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Architectures of the platform that programs are for, and its systems, those that can do more first.
const ARCHITECTURES: &[&str] = &["wasm", "wasm32"];
const SYSTEMS: &[&str] = &["wasip3", "wasip2", "wasip1", "wasi"];
/// Of what is no image but about one: buildx' attestations have it as their platform.
const UNKNOWN: &str = "unknown";
/// Platforms that a refusal names.
const SHOWN: usize = 8;

/// The manifests of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Index {
    /// May be empty: it is an OCI index then.
    pub media_type: String,
    pub manifests: Vec<Entry>,
}

/// One of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Entry {
    pub digest: String,
    pub platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
}

/// No manifest of an index is for who reads it, or none that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// Says how many there are, and for which platforms.
    NoneForUs(String),
    /// The digest of the one for us, which is none.
    Digest(String),
}

impl Index {
    /// Reads an index; `None` of what is none.
    pub fn parse(bytes: &[u8]) -> Option<Index> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Text {
            #[serde(default)]
            media_type: String,
            manifests: Vec<Entry>,
        }
        let Text { media_type, manifests } = serde_json::from_slice(bytes).ok()?;
        Some(Index { media_type, manifests })
    }

    /// The digest of the program's manifest: of those for the platform `wasm` the one of the newest
    /// system, or the only one there is, if it says nothing of a platform.
    ///
    /// # Errors
    /// When there is none.
    pub fn program(&self) -> Result<&str, NotFound> {
        let rank = |entry: &Entry| {
            let platform = entry.platform.as_ref()?;
            let is_wasm = ARCHITECTURES.contains(&&*platform.architecture);
            let place = SYSTEMS.iter().position(|system| *system == platform.os);
            is_wasm.then(|| place.unwrap_or(SYSTEMS.len()))
        };
        let mut images = self.images();
        match (self.least(rank), images.next(), images.next()) {
            (None, Some(only), None) if only.says_nothing() => self.digest(Some(only)),
            (chosen, ..) => self.digest(chosen),
        }
    }

    /// The digest of the manifest whose files are for this machine: the one for the platform `wasm`,
    /// else for its architecture, else for none.
    ///
    /// # Errors
    /// When there is none.
    pub fn files(&self) -> Result<&str, NotFound> {
        let machine = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let rank = |entry: &Entry| match &entry.platform {
            Some(on) if ARCHITECTURES.contains(&&*on.architecture) => Some(0),
            Some(on) if on.architecture == machine && on.os == "linux" => Some(1),
            _ if entry.says_nothing() => Some(2),
            _ => None,
        };
        self.digest(self.least(rank))
    }

    fn least(&self, rank: impl Fn(&Entry) -> Option<usize>) -> Option<&Entry> {
        let ranked = self.manifests.iter().filter_map(|entry| Some((rank(entry)?, entry)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
    }

    fn digest<'a>(&self, chosen: Option<&'a Entry>) -> Result<&'a str, NotFound> {
        let digest = &chosen.ok_or_else(|| NotFound::NoneForUs(self.told()))?.digest;
        digest_hex(digest).map(|_| &**digest).ok_or_else(|| NotFound::Digest(digest.clone()))
    }

    fn images(&self) -> impl Iterator<Item = &Entry> {
        let is_image = |platform: &Platform| platform.architecture != UNKNOWN;
        self.manifests.iter().filter(move |entry| entry.platform.as_ref().is_none_or(is_image))
    }

    /// `2 images (linux/amd64, linux/arm64)`.
    fn told(&self) -> String {
        let images: Vec<&Entry> = self.images().collect();
        let named = |entry: &&Entry| match &entry.platform {
            Some(platform) if !entry.says_nothing() => {
                format!("{}/{}", cut(&platform.os), cut(&platform.architecture))
            }
            _ => "no platform".to_string(),
        };
        let mut names: Vec<String> = images.iter().take(SHOWN).map(named).collect();
        if images.len() > SHOWN {
            names.push("…".into());
        }
        match names.len() {
            0 => "no images".into(),
            1 => format!("one image ({})", names[0]),
            _ => format!("{} images ({})", images.len(), names.join(", ")),
        }
    }
}

impl Entry {
    fn says_nothing(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| platform.architecture.is_empty())
    }
}

/// A name of strangers, as much of it as a message has room for.
fn cut(name: &str) -> String {
    name.chars().take(16).collect()
}

#[cfg(test)]
mod tests {
    use super::super::digest_of;
    use super::*;

    fn entry(number: u8, platform: Option<(&str, &str)>) -> Entry {
        let platform = platform.map(|(os, architecture)| Platform {
            architecture: architecture.into(),
            os: os.into(),
        });
        Entry { digest: digest_of(&[number]), platform }
    }

    fn index(entries: &[&Entry]) -> Index {
        let manifests = entries.iter().map(|entry| (*entry).clone()).collect();
        Index { media_type: String::new(), manifests }
    }

    #[test]
    fn the_platform_wasm_is_taken() {
        let linux = entry(0, Some(("linux", "amd64")));
        let (one, two) = (entry(1, Some(("wasip1", "wasm"))), entry(2, Some(("wasip2", "wasm"))));
        let (alone, empty) = (entry(3, None), entry(4, Some(("", ""))));
        let attestation = entry(5, Some((UNKNOWN, UNKNOWN)));
        let (old, odd) = (entry(6, Some(("wasi", "wasm32"))), entry(7, Some(("js", "wasm"))));
        let program = |entries: &[&Entry]| index(entries).program().map(str::to_string);
        let is = |entry: &Entry| Ok(entry.digest.clone());
        assert_eq!(program(&[&linux, &one, &two]), is(&two));
        assert_eq!(program(&[&linux, &old, &one]), is(&one));
        assert_eq!(program(&[&odd, &linux, &old]), is(&old));
        assert_eq!(program(&[&linux, &odd]), is(&odd));
        assert_eq!(program(&[&alone]), is(&alone));
        assert_eq!(program(&[&attestation, &empty]), is(&empty));
        let none = |text: &str| Err(NotFound::NoneForUs(text.into()));
        assert_eq!(program(&[&linux, &attestation]), none("one image (linux/amd64)"));
        assert_eq!(program(&[&linux, &alone]), none("2 images (linux/amd64, no platform)"));
        assert_eq!(program(&[&attestation]), none("no images"));
        let many = vec![&linux; SHOWN + 1];
        assert!(matches!(program(&many), Err(NotFound::NoneForUs(t)) if t.ends_with(", …)")));
        let bad = Entry { digest: "../etc".into(), ..two };
        assert_eq!(program(&[&bad]), Err(NotFound::Digest("../etc".into())));
    }

    #[test]
    fn files_may_be_for_this_machine() {
        let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
        let here = entry(0, Some(("linux", arch)));
        let wasm = entry(1, Some(("wasip1", "wasm")));
        let other = entry(2, Some(("linux", "s390x")));
        let any = entry(3, None);
        let attestation = entry(4, Some((UNKNOWN, UNKNOWN)));
        let files = |entries: &[&Entry]| index(entries).files().map(str::to_string);
        let is = |entry: &Entry| Ok(entry.digest.clone());
        assert_eq!(files(&[&any, &other, &here, &wasm]), is(&wasm));
        assert_eq!(files(&[&any, &other, &here]), is(&here));
        assert_eq!(files(&[&attestation, &other, &any]), is(&any));
        let none = NotFound::NoneForUs("one image (linux/s390x)".into());
        assert_eq!(files(&[&other, &attestation]), Err(none));
    }
}
