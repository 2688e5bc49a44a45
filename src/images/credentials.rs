//! Credentials for registries: those of a node's settings, and which entry of a pull secret is for
//! an image (k8s.io/kubernetes/pkg/credentialprovider, "keyring").

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::Reference;

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Auth {
    Anonymous,
    /// User and password.
    Basic(String, String),
    /// A token that it takes as it is.
    Bearer(String),
}

/// Secrets stay out of logs.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Auth::Anonymous => "Anonymous",
            Auth::Basic(..) => "Basic",
            Auth::Bearer(_) => "Bearer",
        })
    }
}

/// One entry of a `.dockerconfigjson`, or `auth` of a registry's settings.
#[derive(Clone, Default, Deserialize)]
pub struct Credentials {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    /// `username:password` in base64.
    #[serde(default)]
    auth: String,
    /// A bearer token that the registry takes as it is.
    #[serde(default, alias = "registry_token")]
    registrytoken: String,
}

/// Passwords stay out of logs.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

impl Credentials {
    /// `None` for an entry without any.
    pub fn auth(&self) -> Option<Auth> {
        if !self.registrytoken.is_empty() {
            return Some(Auth::Bearer(self.registrytoken.clone()));
        }
        if !self.username.is_empty() {
            return Some(Auth::Basic(self.username.clone(), self.password.clone()));
        }
        let decoded = String::from_utf8(STANDARD.decode(&self.auth).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        Some(Auth::Basic(username.into(), password.into()))
    }
}

/// The credentials for an image in the contents of pull secrets: `.dockerconfigjson`, or the older
/// `.dockercfg`. Of those that fit, the one that says most about the path.
pub fn find(configs: &[bytes::Bytes], image: &Reference) -> Option<Auth> {
    let fitting = configs.iter().flat_map(|config| entries(config)).filter_map(|(key, entry)| {
        let length = fits(&key, image)?;
        Some((length, entry.auth()?))
    });
    // The first of equals: secrets come in the order in which the pod names them.
    let mut best: Option<(usize, Auth)> = None;
    for (length, auth) in fitting {
        if best.as_ref().is_none_or(|(most, _)| length > *most) {
            best = Some((length, auth));
        }
    }
    best.map(|(_, auth)| auth)
}

/// Stands for credentials at a registry where they must not be kept themselves; `None` for nobody's.
pub fn fingerprint(image: &Reference, auth: &Auth) -> Option<String> {
    let parts = match auth {
        Auth::Anonymous => return None,
        Auth::Basic(username, password) => [&**username, &**password],
        Auth::Bearer(token) => ["", &**token],
    };
    let mut hash = Sha256::new();
    for part in [image.registry.as_deref().unwrap_or_default(), parts[0], parts[1]] {
        // With its length, so that nothing can move from one part to the next.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    Some(hex::encode(hash.finalize()))
}

fn entries(config: &[u8]) -> BTreeMap<String, Credentials> {
    #[derive(Deserialize)]
    struct Config {
        auths: BTreeMap<String, Credentials>,
    }
    let new = serde_json::from_slice::<Config>(config).map(|config| config.auths);
    // A secret that is neither gives nothing: the pull then says what the registry answers.
    new.or_else(|_| serde_json::from_slice(config)).unwrap_or_default()
}

/// How much of an image's name a key like `https://*.example.com:5000/team` stands for; `None` if
/// it is another's.
fn fits(key: &str, image: &Reference) -> Option<usize> {
    let registry = image.registry.as_deref()?;
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    // What docker writes for its own registry, and the version of the protocol.
    let path = path.trim_matches('/');
    let path = if matches!(path, "v1" | "v2") { "" } else { path };
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    let same_host = host == registry || hub(host) && hub(registry) || glob(host, registry);
    let rest = image.repository.strip_prefix(path);
    let below = path.is_empty() || rest.is_some_and(|r| r.is_empty() || r.starts_with('/'));
    (same_host && below).then_some(path.len())
}

/// `*` stands for any part of one label of a host's name; ports must be equal.
fn glob(pattern: &str, host: &str) -> bool {
    let (patterns, labels): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), host.split('.').collect());
    let same = |(pattern, label): (&&str, &&str)| match pattern.split_once('*') {
        None => pattern == label,
        Some((start, end)) => {
            let rest = label.strip_prefix(start);
            rest.is_some_and(|rest| rest.ends_with(end)) && !end.contains('*')
        }
    };
    patterns.len() == labels.len() && patterns.iter().zip(&labels).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_by_host_and_path() {
        let config = bytes::Bytes::from_static(
            br#"{"auths":{"https://ghcr.io/v1/":{"auth":"dTpw"},
            "localhost:5000":{"username":"a","password":"b"},
            "localhost:5000/team":{"username":"t","password":"t"},
            "*.example.com":{"username":"e","password":"e"},
            "https://index.docker.io/v1/":{"username":"d","password":"d"},
            "token.io":{"registrytoken":"r"},
            "empty.io":{}}}"#,
        );
        let old = bytes::Bytes::from_static(br#"{"old.io":{"auth":"dTpw"}}"#);
        let configs = [bytes::Bytes::from_static(b"no json"), config, old];
        let basic = |u: &str, p: &str| Some(Auth::Basic(u.into(), p.into()));
        let found = |image: &str| find(&configs, &image.parse().expect("a name"));
        assert_eq!(found("ghcr.io/a"), basic("u", "p"));
        assert_eq!(found("localhost:5000/teams"), basic("a", "b"));
        assert_eq!(found("localhost:5000/team/x"), basic("t", "t"));
        assert_eq!(found("eu.example.com/x"), basic("e", "e"));
        assert_eq!(found("a.eu.example.com/x"), None);
        assert_eq!(found("example.com/x"), None);
        assert_eq!(found("eu.example.com:5000/x"), None);
        assert_eq!(found("docker.io/library/x"), basic("d", "d"));
        assert_eq!(found("old.io/x"), basic("u", "p"));
        assert_eq!(found("token.io/x"), Some(Auth::Bearer("r".into())));
        assert_eq!(found("empty.io/x"), None);
        assert_eq!(found("localhost:5001/x"), None);
        assert_eq!(found("hello"), None);
    }
}
