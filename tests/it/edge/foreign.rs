//! Pulls from a registry that is not to be trusted: what it may cost, what is final, what is shown to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wasmfleet::images::layout::{Artifact, Interfaces};
use wasmfleet::images::{PullError, PullPolicy, Puller, Reference, Resolved, digest_of};

use super::images::puller;
use super::registry::{Fixture, program};

const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// What an endless answer has at most, and what of it may have been taken: a few buffers of sockets.
const ENDLESS_BYTES: u64 = 96 << 20;
const MOST_TAKEN: u64 = 24 << 20;

/// An answer to one path.
#[derive(Clone)]
struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    /// `None`: it does not end.
    body: Option<Bytes>,
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    Answer { status, headers: Vec::new(), body: Some(body.into()) }
}

fn endless(status: u16) -> Answer {
    Answer { status, headers: Vec::new(), body: None }
}

impl Answer {
    fn with(mut self, header: &'static str, value: impl Into<String>) -> Answer {
        self.headers.push((header, value.into()));
        self
    }
}

/// A registry without TLS on loopback that answers what it is told to.
struct Registry {
    host: String,
    answers: Mutex<HashMap<String, Answer>>,
    /// Heads of requests.
    asked: Mutex<Vec<String>>,
    /// Bytes of endless bodies.
    sent: AtomicU64,
}

impl Registry {
    async fn start() -> Arc<Registry> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let (answers, asked, sent) = Default::default();
        let registry = Arc::new(Registry { host, answers, asked, sent });
        let serving = Arc::downgrade(&registry);
        // It ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(registry) = serving.upgrade() else { return };
                tokio::spawn(async move { registry.serve(stream).await });
            }
        });
        registry
    }

    async fn serve(&self, mut stream: TcpStream) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.ok()?);
        }
        let head = String::from_utf8(head).ok()?;
        let path = head.split(' ').nth(1)?.to_string();
        self.asked.lock().push(head);
        let found = self.answers.lock().get(&path).cloned();
        let Answer { status, headers, body } = found.unwrap_or_else(|| answer(404, ""));
        let mut text = format!("HTTP/1.1 {status} x\r\nconnection: close\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        let Some(body) = body else {
            text += "transfer-encoding: chunked\r\n\r\n";
            stream.write_all(text.as_bytes()).await.ok()?;
            let chunk = [&b"10000\r\n"[..], &[b'x'; 1 << 16], b"\r\n"].concat();
            while self.sent.load(Ordering::Relaxed) < ENDLESS_BYTES {
                stream.write_all(&chunk).await.ok()?;
                self.sent.fetch_add(1 << 16, Ordering::Relaxed);
            }
            return Some(());
        };
        text += &format!("content-length: {}\r\n\r\n", body.len());
        stream.write_all(text.as_bytes()).await.ok()?;
        stream.write_all(&body).await.ok()
    }

    fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().insert(path.to_string(), answer);
    }

    fn put_blob(&self, bytes: impl Into<Bytes>) -> Value {
        let bytes = bytes.into();
        let (digest, size) = (digest_of(&bytes), bytes.len());
        self.set(&format!("/v2/a/b/blobs/{digest}"), answer(200, bytes));
        json!({"digest": digest, "size": size})
    }

    /// An image of layers of a type.
    fn put_image(&self, types: (&str, &str), config: &Value, layers: &[Vec<u8>]) -> String {
        let mut config = self.put_blob(config.to_string());
        config["mediaType"] = json!("application/vnd.docker.container.image.v1+json");
        let layers = layers.iter().map(|layer| {
            let mut layer = self.put_blob(layer.clone());
            layer["mediaType"] = json!(types.1);
            layer
        });
        let manifest = json!({"schemaVersion": 2, "mediaType": types.0, "config": config,
            "layers": layers.collect::<Vec<_>>()});
        self.put_manifest(manifest.to_string())
    }

    /// Under its tag and its digest, which is the answer.
    fn put_manifest(&self, text: impl Into<Bytes>) -> String {
        let text = text.into();
        let digest = digest_of(&text);
        for version in ["v1", &digest] {
            self.set(&format!("/v2/a/b/manifests/{version}"), answer(200, text.clone()));
        }
        digest
    }

    /// A program as it is pushed from here.
    fn put_program(&self, wasm: Bytes) -> Artifact {
        let artifact = Artifact::new(wasm, Interfaces::default());
        self.put_blob(artifact.wasm.clone());
        self.put_manifest(artifact.manifest.clone());
        artifact
    }

    fn image(&self) -> Reference {
        format!("{}/a/b:v1", self.host).parse().unwrap()
    }

    fn times_asked(&self, what: &str) -> usize {
        self.asked.lock().iter().filter(|head| head.contains(what)).count()
    }
}

async fn resolve(puller: &Puller, image: &Reference) -> Result<Resolved, PullError> {
    let resolved = puller.resolve(image, PullPolicy::Always, &[]);
    tokio::time::timeout(Duration::from_secs(50), resolved).await.expect("an answer in time")
}

/// One archive of files.
fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

#[tokio::test]
async fn no_answer_is_read_without_end() {
    let (_, puller) = puller(Fixture::new(), None);
    let manifest = "/v2/a/b/manifests/v1";
    let token = "/token?scope=repository%3Aa%2Fb%3Apull";
    for (path, status) in [(manifest, 200), (manifest, 500), (token, 200), (token, 403)] {
        let registry = Registry::start().await;
        let challenge = format!("Bearer realm=\"http://{}/token\"", registry.host);
        if path == token {
            registry.set("/v2/", answer(401, "").with("www-authenticate", challenge));
        }
        registry.set(path, endless(status));
        let resolved = resolve(&puller, &registry.image()).await;
        assert!(resolved.is_err(), "{path} {status}");
        let sent = registry.sent.load(Ordering::Relaxed);
        assert!(sent > 0 && sent < MOST_TAKEN, "{path} {status}: {sent} bytes");
        assert!(resolved.unwrap_err().to_string().len() < 2000, "{path} {status}");
    }
    let long = "x".repeat(2 << 20);
    let registry = Registry::start().await;
    registry.set(manifest, answer(200, long));
    let refused = resolve(&puller, &registry.image()).await.unwrap_err().to_string();
    assert!(refused.contains("more than 1048576 bytes"), "{refused}");
}

#[tokio::test]
async fn credentials_buy_a_token() {
    let (_, puller) = puller(Fixture::new(), None);
    let registry = Registry::start().await;
    let artifact = registry.put_program(program(0));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"reg\"", registry.host);
    registry.set("/v2/", answer(401, "").with("www-authenticate", realm));
    let token = "/token?scope=repository%3Aa%2Fb%3Apull&service=reg";
    registry.set(token, answer(200, r#"{"access_token":"t0ken"}"#));
    let config = json!({"auths": {registry.host.clone(): {"username": "u", "password": "p"}}});
    let configs = [Bytes::from(config.to_string())];
    let image = registry.image();
    let found = puller.resolve(&image, PullPolicy::Always, &configs).await.unwrap();
    assert_eq!((&found.digest, &found.wasm_digest), (&artifact.digest, &artifact.wasm_digest));
    let (digest, size) = (&found.wasm_digest, found.size);
    let load = puller.load(&image, PullPolicy::Always, &configs, digest, size);
    assert_eq!(load.await.unwrap().wasm, artifact.wasm);
    let basic = format!("authorization: Basic {}", STANDARD.encode("u:p")).to_lowercase();
    for head in registry.asked.lock().iter().map(|head| head.to_lowercase()) {
        let wanted = match head.split(' ').nth(1).unwrap() {
            "/v2/" => None,
            path if path.starts_with("/token") => Some(&*basic),
            _ => Some("authorization: bearer t0ken\r\n"),
        };
        assert_eq!(wanted.is_some(), head.contains("authorization"), "{head}");
        assert!(wanted.is_none_or(|wanted| head.contains(wanted)), "{head}");
    }

    // A password is shown only to who asks for one.
    registry.set("/v2/", answer(200, ""));
    registry.asked.lock().clear();
    puller.resolve(&image, PullPolicy::Always, &configs).await.unwrap();
    assert_eq!(registry.times_asked("uthorization"), 0);
    registry.set("/v2/", answer(401, "").with("www-authenticate", "Basic realm=\"x\""));
    puller.resolve(&image, PullPolicy::Always, &configs).await.unwrap();
    assert_eq!(registry.times_asked("uthorization: Basic"), 1);
    let denied = r#"{"errors":[{"code":"DENIED","message":"not for you"}]}"#;
    registry.set("/v2/a/b/manifests/v1", answer(403, denied));
    let refused = puller.resolve(&image, PullPolicy::Always, &configs).await.unwrap_err();
    let text = refused.to_string();
    assert!(matches!(refused, PullError::Unauthorized { .. }), "{refused:?}");
    assert!(text.ends_with("its registry refused: 403 Forbidden: not for you"), "{text}");
}

#[tokio::test]
async fn what_a_registry_says_wrongly_is_asked_again() {
    let (_, puller) = puller(Fixture::new(), None);
    let registry = Registry::start().await;
    let artifact = registry.put_program(program(0));
    let image = registry.image();
    let manifest = "/v2/a/b/manifests/v1";
    let text = artifact.manifest.clone();
    let other = digest_of(b"other");
    let wrong = [
        answer(200, "<html>not now</html>"),
        answer(200, "{}"),
        answer(200, r#"{"errors":[{"code":"UNKNOWN"}]}"#),
        answer(200, text.clone()).with("docker-content-digest", other.clone()),
        answer(503, "overloaded"),
        answer(429, r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#),
    ];
    for answer in wrong {
        let said = format!("{} {:?}", answer.status, answer.body);
        registry.set(manifest, answer);
        let failed = resolve(&puller, &image).await;
        assert!(matches!(failed, Err(PullError::Network { .. })), "{said}: {failed:?}");
    }
    let size = format!("\"size\":{}", artifact.wasm.len());
    let shorter = String::from_utf8(text.to_vec()).unwrap().replace(&size, "\"size\":1");
    registry.set(manifest, answer(200, shorter));
    let failed = puller.pull(&image, PullPolicy::Always).await;
    assert!(matches!(failed, Err(PullError::Network { .. })), "{failed:?}");
    registry.put_manifest(text);
    let blob = format!("/v2/a/b/blobs/{}", artifact.wasm_digest);
    registry.set(&blob, answer(200, program(1)));
    let failed = puller.pull(&image, PullPolicy::Always).await;
    assert!(matches!(failed, Err(PullError::Network { .. })), "{failed:?}");
    registry.put_program(program(0));
    let pulled = puller.pull(&image, PullPolicy::Always).await.unwrap();
    assert_eq!(pulled.wasm, artifact.wasm);

    // A whole manifest of something else is final, and so are bytes of the digest that was wanted.
    let layers = [archive(&[("x", b"x")]), archive(&[("y", b"y")])];
    for (manifest, layer) in [(DOCKER, TAR), (OCI, "application/vnd.oci.image.layer.v1.tar")] {
        registry.put_image((manifest, layer), &json!({}), &layers);
        let refused = resolve(&puller, &image).await.unwrap_err();
        assert!(matches!(refused, PullError::Invalid { .. }), "{refused:?}");
        let told = refused.to_string();
        assert!(told.contains("this one has 2 layers (`wasmctl push FILE NAME:TAG`"), "{told}");
    }
    let digest = registry.put_manifest("<html>");
    let pinned = Reference { digest: Some(digest), ..image };
    let refused = resolve(&puller, &pinned).await;
    assert!(matches!(refused, Err(PullError::Invalid { .. })), "{refused:?}");
}

#[tokio::test]
async fn why_nobody_answers_is_told() {
    let (_, puller) = puller(Fixture::new(), None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    drop(listener);
    let image: Reference = format!("{host}/a/b:v1").parse().unwrap();
    let told = resolve(&puller, &image).await.unwrap_err().to_string();
    assert!(told.contains("Connection refused"), "{told}");
}

/// What `FROM scratch`, `COPY app.wasm /` and `ENTRYPOINT ["/app.wasm"]` make.
#[tokio::test]
async fn the_program_in_a_layer_of_files_is_found() {
    let (api, puller) = puller(Fixture::new(), None);
    let registry = Registry::start().await;
    let image = registry.image();
    let config = json!({"architecture": "wasm", "os": "wasi",
        "config": {"Entrypoint": ["/app.wasm"]}});
    let layer = archive(&[("etc/motd", b"hello"), ("app.wasm", &program(0))]);
    let layer_digest = digest_of(&layer);
    let digest = registry.put_image((DOCKER, TAR), &config, std::slice::from_ref(&layer));
    let pulled = puller.pull(&image, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!((&pulled.digest, &pulled.wasm), (&digest, &program(0)));
    assert_eq!(pulled.wasm_digest, digest_of(&program(0)));
    assert_eq!(puller.pull(&image, PullPolicy::Never).await.as_ref(), Ok(&pulled));
    // Known by its manifest, it is not fetched again.
    assert_eq!(puller.pull(&image, PullPolicy::Always).await.as_ref(), Ok(&pulled));
    assert_eq!(registry.times_asked(&layer_digest), 1);
    // But it is where the disk had no room for it.
    let blobs = api.fixture.dir.path().join("cache/blobs");
    for blob in std::fs::read_dir(&blobs).unwrap() {
        std::fs::remove_file(blob.unwrap().path()).unwrap();
    }
    assert!(puller.pull(&image, PullPolicy::Never).await.is_err());
    assert_eq!(puller.pull(&image, PullPolicy::IfNotPresent).await.as_ref(), Ok(&pulled));
    assert_eq!(registry.times_asked(&layer_digest), 2);

    // Of an index, too, that has nothing for the platform wasm but this machine's.
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let oci = (OCI, "application/vnd.oci.image.layer.v1.tar");
    let below = registry.put_image(oci, &config, std::slice::from_ref(&layer));
    let index = json!({"schemaVersion": 2, "manifests": [
        {"digest": below, "platform": {"architecture": arch, "os": "linux"}},
        {"digest": digest_of(b"x"), "platform": {"architecture": "unknown", "os": "unknown"}}]});
    let digest = registry.put_manifest(index.to_string());
    let of_index = puller.pull(&image, PullPolicy::Always).await.unwrap();
    assert_eq!((&of_index.digest, &of_index.wasm), (&digest, &program(0)));

    // One file of no type is a program by its first bytes.
    registry.put_image((OCI, "application/octet-stream"), &json!({}), &[program(2).to_vec()]);
    let pulled = puller.pull(&image, PullPolicy::Always).await.unwrap();
    assert_eq!(pulled.wasm, program(2));

    // What is no program is final.
    for (layer_type, layer) in
        [("application/octet-stream", b"hello".to_vec()), (TAR, archive(&[("bin/sh", b"x")]))]
    {
        registry.put_image((OCI, layer_type), &json!({}), &[layer]);
        let refused = resolve(&puller, &image).await;
        assert!(matches!(refused, Err(PullError::Invalid { .. })), "{refused:?}");
    }
}
