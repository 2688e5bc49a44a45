//! How a node reaches other registries: mirrors, rewritten names, credentials and TLS.
//!
//! The file is that of k3s and RKE2 (`registries.yaml`), so that one can be taken along. What is
//! ours: the endpoint `cluster`, which is the cluster's own registry, and `fallback: false`, which
//! keeps a node from asking the registry that an image names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;
use serde::Deserialize;

use super::Reference;
use super::credentials::Credentials;
use super::reference::{is_host, is_repository};

/// The endpoint that is the cluster's own registry.
const CLUSTER: &str = "cluster";
/// The mirror of all registries that have none of their own.
const ANY: &str = "*";
/// Largest file, in bytes (1 MiB).
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Mirrors of one registry.
const MAX_ENDPOINTS: usize = 16;

/// The settings of all registries.
#[derive(Debug, Default)]
pub struct Registries {
    mirrors: BTreeMap<String, Mirror>,
    settings: BTreeMap<String, Settings>,
}

#[derive(Debug)]
struct Mirror {
    endpoints: Vec<Endpoint>,
    rewrites: Vec<(Regex, String)>,
    /// Whether the registry itself is asked after its mirrors.
    fallback: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Endpoint {
    Cluster,
    Host { host: String, plain: bool },
}

/// How one registry is spoken to.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// A certificate authority to trust beside the machine's, as PEM.
    pub ca: Option<Vec<u8>>,
    /// Whatever certificate it shows is taken.
    pub insecure: bool,
    /// For pods that bring none.
    pub credentials: Option<Credentials>,
}

/// One place where an image may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The name there.
    pub image: Reference,
    /// Over HTTP without TLS.
    pub plain: bool,
}

/// Why a file of registries cannot be used; the message is for the user.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct BadRegistries {
    path: PathBuf,
    why: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mirrors: BTreeMap<String, Option<MirrorFile>>,
    #[serde(default)]
    configs: BTreeMap<String, Option<ConfigFile>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct MirrorFile {
    #[serde(default, alias = "endpoints")]
    endpoint: Vec<String>,
    #[serde(default)]
    rewrite: BTreeMap<String, String>,
    #[serde(default = "yes")]
    fallback: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    #[serde(default)]
    auth: Option<Credentials>,
    #[serde(default)]
    tls: Option<TlsFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TlsFile {
    #[serde(default)]
    ca_file: Option<PathBuf>,
    #[serde(default)]
    insecure_skip_verify: bool,
}

fn yes() -> bool {
    true
}

impl Registries {
    /// Reads a file, and those that it names (relative names are beside it).
    ///
    /// # Errors
    /// Says which part of the file is wrong.
    pub fn read(path: &Path) -> Result<Registries, BadRegistries> {
        let bad = |why: String| BadRegistries { path: path.to_path_buf(), why };
        let text = read_bounded(path).map_err(bad)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        Registries::parse(&text, dir).map_err(bad)
    }

    /// Reads settings; files are looked for in `dir`.
    ///
    /// # Errors
    /// Says which part is wrong.
    pub fn parse(text: &str, dir: &Path) -> Result<Registries, String> {
        let file: Option<File> = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
        let Some(File { mirrors, configs }) = file else { return Ok(Registries::default()) };
        let mut registries = Registries::default();
        for (name, mirror) in mirrors {
            let at = |why: String| format!("mirrors.{name}: {why}");
            if name != ANY && !is_host(&name) {
                return Err(at("it is neither a registry's host nor \"*\"".into()));
            }
            let mirror = Mirror::new(mirror.unwrap_or_default()).map_err(at)?;
            registries.mirrors.insert(name, mirror);
        }
        for (name, config) in configs {
            let at = |why: String| format!("configs.{name}: {why}");
            if !is_host(&name) {
                return Err(at("it is no registry's host".into()));
            }
            let ConfigFile { auth, tls } = config.unwrap_or_default();
            let mut settings = Settings { credentials: auth, ..Settings::default() };
            if let Some(TlsFile { ca_file, insecure_skip_verify }) = tls {
                settings.insecure = insecure_skip_verify;
                let read = ca_file.map(|file| read_bounded(&dir.join(file))).transpose();
                settings.ca = read.map_err(at)?.map(String::into_bytes);
            }
            registries.settings.insert(name, settings);
        }
        Ok(registries)
    }

    /// Where an image may be, in the order in which it is to be asked for.
    pub fn candidates(&self, image: &Reference) -> Vec<Candidate> {
        let itself = |registry: &str| {
            let has_tls = self.settings.get(registry).is_some_and(Settings::has_tls);
            Candidate { image: image.clone(), plain: is_local(registry) && !has_tls }
        };
        let Some(registry) = &image.registry else {
            return vec![Candidate { image: image.clone(), plain: false }];
        };
        let Some(mirror) = self.mirrors.get(registry).or_else(|| self.mirrors.get(ANY)) else {
            return vec![itself(registry)];
        };
        let repository = mirror.rewritten(&image.repository);
        // A rewrite that makes no name leaves its mirrors out.
        let valid = is_repository(&repository);
        let endpoints = mirror.endpoints.iter().filter(|_| valid);
        let named = |host: Option<&String>| Reference {
            registry: host.cloned(),
            repository: repository.clone(),
            ..image.clone()
        };
        let mut candidates: Vec<Candidate> = endpoints
            .map(|endpoint| match endpoint {
                Endpoint::Cluster => Candidate { image: named(None), plain: false },
                Endpoint::Host { host, plain } => {
                    Candidate { image: named(Some(host)), plain: *plain }
                }
            })
            .collect();
        if mirror.fallback || candidates.is_empty() {
            candidates.push(itself(registry));
        }
        candidates
    }

    /// How a registry is spoken to.
    pub fn settings(&self, registry: &str) -> Settings {
        self.settings.get(registry).cloned().unwrap_or_default()
    }
}

impl Settings {
    /// Whether something is said of its TLS.
    fn has_tls(&self) -> bool {
        self.ca.is_some() || self.insecure
    }
}

impl Mirror {
    fn new(file: MirrorFile) -> Result<Mirror, String> {
        if file.endpoint.len() > MAX_ENDPOINTS {
            return Err(format!("it has more than {MAX_ENDPOINTS} endpoints"));
        }
        if file.endpoint.is_empty() && !file.fallback {
            return Err("without endpoints and fallback there is nobody to ask".into());
        }
        let endpoints =
            file.endpoint.iter().map(|text| endpoint(text)).collect::<Result<_, _>>()?;
        let rewrites = file.rewrite.into_iter().map(|(pattern, by)| match Regex::new(&pattern) {
            Ok(regex) => Ok((regex, by)),
            Err(error) => Err(format!("rewrite {pattern:?}: {error}")),
        });
        let rewrites = rewrites.collect::<Result<_, _>>()?;
        Ok(Mirror { endpoints, rewrites, fallback: file.fallback })
    }

    /// By the first pattern that matches, in the order of the patterns' texts.
    fn rewritten(&self, repository: &str) -> String {
        let found = self.rewrites.iter().find(|(pattern, _)| pattern.is_match(repository));
        match found {
            Some((pattern, by)) => pattern.replace(repository, &**by).into_owned(),
            None => repository.to_string(),
        }
    }
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    if text == CLUSTER {
        return Ok(Endpoint::Cluster);
    }
    let bad = || {
        format!(
            "endpoint {text:?} is none: write https://HOST[:PORT], http://HOST[:PORT] or \
             {CLUSTER:?}; paths are made by \"rewrite\""
        )
    };
    let (scheme, rest) = text.split_once("://").ok_or_else(bad)?;
    let host = rest.trim_end_matches('/').trim_end_matches("/v2").to_string();
    let plain = match scheme {
        "http" => true,
        "https" => false,
        _ => return Err(bad()),
    };
    match is_host(&host) {
        true => Ok(Endpoint::Host { host, plain }),
        false => Err(bad()),
    }
}

/// Registries on this machine are spoken to without TLS, as every container tool does, unless their
/// settings say how.
fn is_local(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    matches!(host, "localhost" | "127.0.0.1" | "[::1]")
}

fn read_bounded(path: &Path) -> Result<String, String> {
    let failed = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    if std::fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(format!("{} is larger than {MAX_FILE_BYTES} bytes", path.display()));
    }
    std::fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  ghcr.io:
    endpoint: [cluster, "https://mirror.example.com:5000/v2"]
    rewrite:
      "^team/(.*)": "from-ghcr/${1}"
  "*":
    endpoint: ["http://10.0.0.1:5000"]
    fallback: false
configs:
  mirror.example.com:5000:
    auth: {username: a, password: b}
    tls: {insecure_skip_verify: true}
"#;

    fn asked(registries: &Registries, image: &str) -> Vec<String> {
        let image: Reference = image.parse().expect("a name");
        let candidates = registries.candidates(&image);
        let plain = |c: &Candidate| if c.plain { "http " } else { "" };
        candidates.iter().map(|c| format!("{}{}", plain(c), c.image)).collect()
    }

    #[test]
    fn mirrors_come_before_the_registry() {
        let registries = Registries::parse(FILE, Path::new(".")).expect("a file");
        assert_eq!(
            asked(&registries, "ghcr.io/team/app:v1"),
            ["from-ghcr/app:v1", "mirror.example.com:5000/from-ghcr/app:v1", "ghcr.io/team/app:v1"]
        );
        assert_eq!(asked(&registries, "quay.io/x/y"), ["http 10.0.0.1:5000/x/y:latest"]);
        assert_eq!(asked(&registries, "hello:v1"), ["hello:v1"], "the cluster's own has no mirror");
        assert!(registries.settings("mirror.example.com:5000").insecure);
        assert!(registries.settings("mirror.example.com:5000").credentials.is_some());
        let text = "configs: {'localhost:5000': {tls: {insecure_skip_verify: true}}}";
        let local = Registries::parse(text, Path::new(".")).expect("a file");
        assert_eq!(asked(&local, "localhost:5000/a:b"), ["localhost:5000/a:b"]);
        let none = Registries::default();
        assert_eq!(asked(&none, "localhost:5000/a:b"), ["http localhost:5000/a:b"]);
        assert_eq!(asked(&none, "ghcr.io/a:b"), ["ghcr.io/a:b"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("mirrors: {ghcr.io: {endpoint: [ghcr.io]}}", "mirrors.ghcr.io: endpoint \"ghcr.io\""),
            ("mirrors: {ghcr.io: {endpoint: ['https://a/b']}}", "paths are made by \"rewrite\""),
            ("mirrors: {ghcr: {endpoint: [cluster]}}", "neither a registry's host"),
            ("mirrors: {ghcr.io: {rewrite: {'(': x}}}", "rewrite \"(\""),
            ("mirrors: {ghcr.io: {fallback: false}}", "nobody to ask"),
            ("mirrors: {ghcr.io: {endpoit: []}}", "unknown field `endpoit`"),
            ("configs: {ghcr.io: {tls: {ca_file: none.pem}}}", "none.pem cannot be read"),
            ("configs: {ghcr.io: {tls: {cert_file: x}}}", "unknown field `cert_file`"),
        ];
        for (text, why) in cases {
            let error = Registries::parse(text, Path::new("/nowhere")).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        assert!(Registries::parse("", Path::new(".")).is_ok());
    }

    #[test]
    fn a_rewrite_that_makes_no_name_leaves_the_mirrors_out() {
        let text = "mirrors: {ghcr.io: {endpoint: [cluster], rewrite: {'.*': '../etc'}}}";
        let registries = Registries::parse(text, Path::new(".")).expect("a file");
        assert_eq!(asked(&registries, "ghcr.io/a:b"), ["ghcr.io/a:b"]);
    }
}
