//! The registry of artifacts: what comes in, what is refused, what remains.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use wasmfleet::apiserver::User;
use wasmfleet::apiserver::artifacts::{Artifacts, ImageCheck};
use wasmfleet::apiserver::rbac::Rules;
use wasmfleet::artifact::ArtifactKind;
use wasmfleet::images::layout::{Artifact, Interfaces};
use wasmfleet::images::push::{self, PushError, Transport};
use wasmfleet::images::{Reference, digest_of};

/// A program that can run, and differs by `code`.
pub fn program(code: u32) -> Bytes {
    let text = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (func (export "_start") (call $exit (i32.const {code}))))"#
    );
    wat::parse_str(text).unwrap().into()
}

pub struct Fixture {
    pub artifacts: Arc<Artifacts>,
    pub user: User,
    pub dir: tempfile::TempDir,
}

pub struct Reply {
    pub code: StatusCode,
    pub headers: http::HeaderMap,
    pub body: Bytes,
}

impl Fixture {
    pub fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(&dir.path().join("registry")).unwrap();
        Fixture { artifacts, user: User::system("admin"), dir }
    }

    pub async fn send(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder().method(method).uri(path).body(Full::new(body.into()));
        let response =
            self.artifacts.respond(&Rules::default(), &self.user, request.unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Reply { code: head.status, headers: head.headers, body }
    }

    pub async fn push_blob(&self, repository: &str, bytes: &str) -> String {
        let digest = digest_of(bytes.as_bytes());
        let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
        let pushed = self.send(Method::POST, &path, bytes.to_string()).await;
        assert_eq!(pushed.code, StatusCode::CREATED);
        digest
    }

    /// Pushes texts as layers of an image that is no program, and answers its digest.
    pub async fn push_files(&self, image: &str, layers: &[&str]) -> String {
        let (repository, tag) = image.split_once(':').unwrap();
        let config = self.push_blob(repository, "{}").await;
        let mut list = Vec::new();
        for layer in layers {
            list.push(serde_json::json!({"mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": self.push_blob(repository, layer).await, "size": layer.len()}));
        }
        let manifest = serde_json::json!({"schemaVersion": 2, "layers": list,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "config":
            {"mediaType": "application/vnd.oci.empty.v1+json", "digest": config, "size": 2}});
        let path = format!("/v2/{repository}/manifests/{tag}");
        let pushed = self.send(Method::PUT, &path, manifest.to_string()).await;
        assert_eq!(pushed.code, StatusCode::CREATED, "{:?}", pushed.body);
        digest_of(manifest.to_string().as_bytes())
    }

    pub async fn push(&self, image: &str, wasm: Bytes) -> Result<push::Pushed, PushError> {
        let image: Reference = image.parse().unwrap();
        push::push(self, &image, wasm, Interfaces::default()).await
    }
}

impl Reply {
    pub fn error(&self) -> (u16, String, String) {
        let json: Value = serde_json::from_slice(&self.body).unwrap();
        let error = &json["errors"][0];
        let text = |field: &str| error[field].as_str().unwrap().to_string();
        (self.code.as_u16(), text("code"), text("message"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

#[async_trait::async_trait]
impl Transport for Fixture {
    async fn send(&self, request: push::Request) -> Result<push::Answer, String> {
        let reply = Fixture::send(self, request.method, &request.path, request.body).await;
        Ok(push::Answer { code: reply.code.as_u16(), body: reply.body })
    }
}

#[tokio::test]
async fn what_is_pushed_is_found_again() {
    let fixture = Fixture::new();
    let wasm = program(0);
    let pushed = fixture.push("team/hello:v1", wasm.clone()).await.unwrap();
    assert!(pushed.sent_bytes > wasm.len() as u64);
    let manifest = fixture.send(Method::GET, "/v2/team/hello/manifests/v1", "").await;
    assert_eq!(manifest.code, StatusCode::OK);
    assert_eq!(manifest.headers["docker-content-digest"], pushed.digest.as_str());
    assert_eq!(digest_of(&manifest.body), pushed.digest);
    let blob = format!("/v2/team/hello/blobs/{}", pushed.wasm_digest);
    assert_eq!(fixture.send(Method::GET, &blob, "").await.body, wasm);
    let head = fixture.send(Method::HEAD, &blob, "").await;
    assert_eq!(head.headers["content-length"], wasm.len().to_string().as_str());
    assert!(head.body.is_empty());

    // Once more under another tag: only the manifest travels.
    assert_eq!(fixture.push("team/hello:v2", wasm).await.unwrap().sent_bytes, 0);
    fixture.push("other", program(1)).await.unwrap();
    let tags = fixture.send(Method::GET, "/v2/team/hello/tags/list?n=1", "").await;
    assert_eq!(tags.json(), serde_json::json!({"name": "team/hello", "tags": ["v1"]}));
    assert_eq!(tags.headers["link"], "</v2/team/hello/tags/list?n=1&last=v1>; rel=\"next\"");
    let catalog = fixture.send(Method::GET, "/v2/_catalog", "").await;
    assert_eq!(catalog.json()["repositories"], serde_json::json!(["other", "team/hello"]));

    let reopened = Artifacts::open(&fixture.dir.path().join("registry")).unwrap();
    let check = |image: &str| reopened.check_image(image).unwrap();
    let by_digest = format!("oci://team/hello@{}", pushed.digest);
    for name in ["team/hello:v1", by_digest.as_str()] {
        let ImageCheck::Known(record) = check(name) else { panic!("{name} is not known") };
        assert_eq!(record.digest, pushed.digest);
        assert_eq!(record.kind, Some(ArtifactKind::Preview1Command));
        assert_eq!(record.imports, ["wasi_snapshot_preview1::proc_exit"]);
    }
    assert_eq!(check("team/hello:v3"), ImageCheck::Unknown);
    assert_eq!(check("ghcr.io/a/b:1"), ImageCheck::Foreign);
    assert!(reopened.check_image("../x").is_err());
}

#[tokio::test]
async fn what_cannot_run_is_refused_by_name() {
    let fixture = Fixture::new();
    let import = r#"(module (import "env" "magic" (func)) (func (export "_start")))"#;
    let refused = fixture.push("bad", wat::parse_str(import).unwrap().into()).await.unwrap_err();
    assert!(matches!(&refused, PushError::Refused(m) if m.contains("env::magic")), "{refused}");
    let refused = fixture.push("bad", Bytes::from_static(b"#!/bin/sh")).await.unwrap_err();
    assert!(refused.to_string().contains("not a WebAssembly"), "{refused}");
    assert_eq!(fixture.artifacts.check_image("bad").unwrap(), ImageCheck::Unknown);

    let container = serde_json::json!({"schemaVersion": 2, "layers": [], "config":
        {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:0", "size": 2}});
    let reply = fixture.send(Method::PUT, "/v2/bad/manifests/v1", container.to_string()).await;
    let (code, name, message) = reply.error();
    assert_eq!((code, &*name), (400, "MANIFEST_INVALID"));
    assert!(message.contains("one layer of type application/wasm"), "{message}");

    let absent = Artifact::new(program(7), Interfaces::default());
    let reply = fixture.send(Method::PUT, "/v2/bad/manifests/v1", absent.manifest).await;
    assert_eq!(reply.error().1, "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn files_for_volumes_are_kept_and_are_no_program() {
    let fixture = Fixture::new();
    let digest = fixture.push_files("data:v1", &["one", "two"]).await;
    let reply = fixture.send(Method::GET, "/v2/data/manifests/v1", "").await;
    assert_eq!(digest_of(&reply.body), digest);
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    assert_eq!(reply.headers["content-type"], docker);
    assert_eq!(fixture.artifacts.check_image("data:v1").unwrap(), ImageCheck::Files);
    fixture.artifacts.collect_older_than(Duration::ZERO).await.unwrap();
    let layer = format!("/v2/data/blobs/{}", digest_of(b"two"));
    assert_eq!(fixture.send(Method::GET, &layer, "").await.body, "two");

    let manifest = |media_type: &str, layer: &str| {
        let layer = serde_json::json!({"mediaType": media_type, "size": 3,
            "digest": digest_of(layer.as_bytes())});
        serde_json::json!({"schemaVersion": 2, "layers": [layer], "config":
            {"mediaType": "x", "digest": digest_of(b"{}"), "size": 2}})
        .to_string()
    };
    for (media_type, layer, code, text) in [
        ("application/vnd.oci.image.layer.v1.tar+lz4", "one", "MANIFEST_INVALID", "tar+lz4"),
        ("application/wasm", "one", "MANIFEST_INVALID", "not a WebAssembly"),
        ("application/vnd.oci.image.layer.v1.tar", "absent", "MANIFEST_BLOB_UNKNOWN", "sha256:"),
    ] {
        let body = manifest(media_type, layer);
        let reply = fixture.send(Method::PUT, "/v2/data/manifests/bad", body).await;
        let (status, name, message) = reply.error();
        assert_eq!((status, &*name), (400, code), "{media_type}");
        assert!(message.contains(text), "{message}");
    }
}

#[tokio::test]
async fn uploads_come_in_pieces() {
    let fixture = Fixture::new();
    let wasm = program(0);
    let digest = digest_of(&wasm);
    let begun = fixture.send(Method::POST, "/v2/a/blobs/uploads/", "").await;
    assert_eq!(begun.code, StatusCode::ACCEPTED);
    let place = begun.headers["location"].to_str().unwrap().to_string();
    let (first, rest) = (wasm.slice(..10), wasm.slice(10..));
    let more = fixture.send(Method::PATCH, &place, first).await;
    assert_eq!(
        (more.code, &more.headers["range"]),
        (StatusCode::ACCEPTED, &"0-9".parse().unwrap())
    );
    let done = format!("{place}?digest={}", digest.replace(':', "%3A"));
    let done = fixture.send(Method::PUT, &done, rest).await;
    assert_eq!(done.code, StatusCode::CREATED);
    assert_eq!(fixture.send(Method::GET, &format!("/v2/a/blobs/{digest}"), "").await.body, wasm);
    let gone = fixture.send(Method::PATCH, &place, "x").await;
    assert_eq!(gone.error().1, "BLOB_UPLOAD_UNKNOWN");

    let wrong = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(fixture.send(Method::POST, &wrong, "other").await.error().1, "DIGEST_INVALID");
    // Bounded in number; those that failed count no more.
    for _ in 0..64 {
        let begun = fixture.send(Method::POST, "/v2/a/blobs/uploads/", "").await;
        assert_eq!(begun.code, StatusCode::ACCEPTED);
    }
    let full = fixture.send(Method::POST, "/v2/a/blobs/uploads/", "").await;
    assert_eq!(full.code, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn nodes_read_and_do_not_write() {
    let mut fixture = Fixture::new();
    fixture.push("hello", program(0)).await.unwrap();
    fixture.user = User::node("n1");
    let read = fixture.send(Method::GET, "/v2/hello/manifests/latest", "").await;
    assert_eq!(read.code, StatusCode::OK);
    for (method, path) in [
        (Method::POST, "/v2/hello/blobs/uploads/"),
        (Method::PUT, "/v2/hello/manifests/latest"),
        (Method::DELETE, "/v2/hello/manifests/latest"),
    ] {
        assert_eq!(fixture.send(method, path, "").await.error().1, "DENIED");
    }
    fixture.user = User::new("u", &["system:authenticated"]);
    assert_eq!(fixture.send(Method::GET, "/v2/", "").await.code, StatusCode::OK);
    let read = fixture.send(Method::GET, "/v2/hello/manifests/latest", "").await;
    assert_eq!(read.code, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn garbage_goes_and_what_is_named_stays() {
    let fixture = Fixture::new();
    let one = fixture.push("hello:v1", program(1)).await.unwrap();
    let two = fixture.push("hello:v2", program(2)).await.unwrap();
    let manifest = format!("/v2/hello/manifests/{}", one.digest);
    let deleted = fixture.send(Method::DELETE, &manifest, "").await;
    assert_eq!(deleted.code, StatusCode::ACCEPTED);
    let gone = fixture.send(Method::GET, "/v2/hello/manifests/v1", "").await;
    assert_eq!(gone.error().1, "MANIFEST_UNKNOWN");
    // Too young: its manifest may be on its way.
    assert_eq!(fixture.artifacts.collect_garbage().await.unwrap().blobs, 0);
    let collected = fixture.artifacts.collect_older_than(Duration::ZERO).await.unwrap();
    assert_eq!(collected.blobs, 3, "manifest, config and program of the first");
    let blob = |digest: &str| format!("/v2/hello/blobs/{digest}");
    let lost = fixture.send(Method::GET, &blob(&one.wasm_digest), "").await;
    assert_eq!(lost.error().1, "BLOB_UNKNOWN");
    let kept = fixture.send(Method::GET, &blob(&two.wasm_digest), "").await;
    assert_eq!(kept.code, StatusCode::OK);
}

#[tokio::test]
async fn a_blob_that_a_push_found_here_is_no_garbage() {
    let fixture = Fixture::new();
    let blobs = fixture.dir.path().join("registry/blobs/sha256");
    let day_ago = std::time::SystemTime::now() - Duration::from_secs(24 * 60 * 60);
    let mut paths = Vec::new();
    for code in [1, 2, 3] {
        let wasm = program(code);
        let digest = digest_of(&wasm);
        let path = format!("/v2/hello/blobs/uploads/?digest={digest}");
        assert_eq!(fixture.send(Method::POST, &path, wasm).await.code, StatusCode::CREATED);
        let file = blobs.join(digest.strip_prefix("sha256:").unwrap());
        std::fs::File::open(&file).unwrap().set_modified(day_ago).unwrap();
        paths.push((digest, file));
    }
    let head = fixture.send(Method::HEAD, &format!("/v2/hello/blobs/{}", paths[0].0), "").await;
    assert_eq!(head.code, StatusCode::OK);
    let mount = format!("/v2/other/blobs/uploads/?mount={}&from=hello", paths[1].0);
    assert_eq!(fixture.send(Method::POST, &mount, "").await.code, StatusCode::CREATED);
    assert_eq!(fixture.artifacts.collect_garbage().await.unwrap().blobs, 1);
    let left: Vec<bool> = paths.iter().map(|(_, file)| file.exists()).collect();
    assert_eq!(left, [true, true, false]);
}
