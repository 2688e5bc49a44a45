//! Names of images, the node's cache, and pulls from the cluster's registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{Method, StatusCode};
use wasmfleet::api::{ApiError, Object, Raw};
use wasmfleet::client::{
    Api, DeleteOptions, ListOptions, Patch, RawList, Target, WatchOptions, WatchStream,
    WriteOptions,
};
use wasmfleet::images::cache::{Cache, DiskUse, Watermarks};
use wasmfleet::images::{PullError, PullPolicy, Puller, Reference, Registries, digest_of};
use wasmfleet::node::images::Machine;
use wasmfleet::runtime::Runtime;
use wasmfleet::runtime::fake::FakeRuntime;

use super::registry::{Fixture, program};

#[test]
fn names_are_read() {
    let digest = format!("sha256:{}", "0a".repeat(32));
    let cases = [
        ("hello", "hello:latest", None),
        ("team/hello:v1", "team/hello:v1", None),
        ("oci://ghcr.io/a/b", "ghcr.io/a/b:latest", Some("ghcr.io")),
        ("localhost:5000/a__b-c.d:1", "localhost:5000/a__b-c.d:1", Some("localhost:5000")),
        ("localhost/a", "localhost/a:latest", Some("localhost")),
    ];
    for (text, canonical, registry) in cases {
        let image: Reference = text.parse().unwrap();
        assert_eq!(image.to_string(), canonical);
        assert_eq!(image.registry.as_deref(), registry);
        assert_eq!(canonical.parse::<Reference>().unwrap(), image);
    }
    let pinned: Reference = format!("hello:v1@{digest}").parse().unwrap();
    assert_eq!((pinned.version(), pinned.tag.as_deref()), (&*digest, Some("v1")));
    assert_eq!(pinned.image_id(&digest), format!("hello@{digest}"));
    let bad = [
        "",
        ":v1",
        "Hello",
        "a//b",
        "../etc",
        "a/../b",
        "a/.b",
        "a_",
        "a___b",
        "a..b",
        "hello:",
        "hello:-x",
        "hello@sha256:00",
        "hello@md5:00",
        "https://example.org/x.wasm",
        "hello world",
        "a/b:c/d",
        "é",
    ];
    for text in bad {
        let error = text.parse::<Reference>().expect_err(text);
        assert!(error.to_string().contains("invalid image name"), "{error}");
    }
    assert!("a/".repeat(200).parse::<Reference>().is_err());
}

#[tokio::test]
async fn the_cache_is_bounded_and_checks_what_it_gives() {
    let dir = tempfile::tempdir().unwrap();
    let empty_disk = |_: &std::path::Path| Ok(DiskUse { total: 1 << 40, free: 1 << 40 });
    let watermarks = Watermarks::default();
    let cache = Cache::open_on(dir.path(), 2500, watermarks, empty_disk).unwrap();
    let blobs: Vec<Bytes> = (0..3u8).map(|n| Bytes::from(vec![n; 1000])).collect();
    for blob in &blobs {
        cache.put(&digest_of(blob), blob.clone()).await.unwrap();
    }
    let mut here = 0;
    for blob in &blobs {
        here += usize::from(cache.get(&digest_of(blob)).await.is_some());
    }
    assert_eq!(here, 2);
    let last = digest_of(&blobs[2]);
    assert_eq!(cache.get(&last).await.as_ref(), Some(&blobs[2]), "the newest stays");
    let file = dir.path().join("blobs").join(last.strip_prefix("sha256:").unwrap());
    std::fs::write(&file, "torn").unwrap();
    assert_eq!(cache.get(&last).await, None);
    assert!(!file.exists());
    assert_eq!(cache.get("sha256:../../etc/passwd").await, None);
}

/// A disk of 100,000 bytes on which nothing but the cache's contents is, and 70,000 others.
fn small_disk(dir: &std::path::Path) -> std::io::Result<DiskUse> {
    let mut used = 70_000;
    for entry in std::fs::read_dir(dir.join("blobs"))? {
        used += entry?.metadata()?.len();
    }
    Ok(DiskUse { total: 100_000, free: 100_000u64.saturating_sub(used) })
}

#[tokio::test]
async fn a_disk_that_fills_up_costs_the_oldest_images() {
    let dir = tempfile::tempdir().unwrap();
    let watermarks = Watermarks { high: 85, low: 75 };
    let cache = Cache::open_on(dir.path(), 1 << 30, watermarks, small_disk).unwrap();
    let blobs: Vec<Bytes> = (0..4u8).map(|n| Bytes::from(vec![n; 5000])).collect();
    let here = async |cache: &Arc<Cache>| {
        let mut here = 0;
        for blob in &blobs {
            here += usize::from(cache.touch(&digest_of(blob)).await);
        }
        here
    };
    for blob in &blobs[..3] {
        cache.put(&digest_of(blob), blob.clone()).await.unwrap();
    }
    assert_eq!(here(&cache).await, 3, "85 % is not more than 85 %");
    cache.put(&digest_of(&blobs[3]), blobs[3].clone()).await.unwrap();
    assert_eq!(here(&cache).await, 1, "90 % is, and must become 75 %");
    assert!(cache.touch(&digest_of(&blobs[3])).await, "the newest stays");
    let lower = Watermarks { high: 74, low: 70 };
    let cache = Cache::open_on(dir.path(), 1 << 30, lower, small_disk).unwrap();
    cache.collect_garbage().await.unwrap();
    assert_eq!(here(&cache).await, 0);
}

/// The part of the API that pulls use.
pub struct OnlyBytes {
    pub fixture: Fixture,
    blobs_read: AtomicU64,
    /// Manifests that were asked for.
    questions: AtomicU64,
    /// Answers with this instead of blobs.
    lie: Option<Bytes>,
}

fn unused<T>() -> Result<T, ApiError> {
    Err(ApiError::internal("pulls do not call this"))
}

#[async_trait::async_trait]
impl Api for OnlyBytes {
    async fn get(&self, _: &Target) -> Result<Raw, ApiError> {
        unused()
    }
    async fn list(&self, _: &Target, _: &ListOptions) -> Result<RawList, ApiError> {
        unused()
    }
    async fn watch(&self, _: &Target, _: &WatchOptions) -> Result<WatchStream, ApiError> {
        unused()
    }
    async fn create(&self, _: &Target, _: Object, _: &WriteOptions) -> Result<Raw, ApiError> {
        unused()
    }
    async fn update(&self, _: &Target, _: Object, _: &WriteOptions) -> Result<Raw, ApiError> {
        unused()
    }
    async fn patch(&self, _: &Target, _: Patch, _: &WriteOptions) -> Result<Raw, ApiError> {
        unused()
    }
    async fn delete(&self, _: &Target, _: &DeleteOptions) -> Result<Raw, ApiError> {
        unused()
    }
    async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        if path.contains("/blobs/") {
            self.blobs_read.fetch_add(1, Ordering::Relaxed);
            tokio::task::yield_now().await;
            if let Some(lie) = &self.lie {
                return Ok(lie.clone());
            }
        }
        if path.contains("/manifests/") {
            self.questions.fetch_add(1, Ordering::Relaxed);
        }
        let reply = self.fixture.send(Method::GET, path, "").await;
        match reply.code {
            StatusCode::OK => Ok(reply.body),
            code => Err(ApiError::from_response(code.as_u16(), &reply.body)),
        }
    }
}

pub fn puller(fixture: Fixture, lie: Option<Bytes>) -> (Arc<OnlyBytes>, Puller) {
    puller_of(FakeRuntime::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH)), fixture, lie)
}

/// A puller of the node that has this runtime.
fn puller_of(
    runtime: Arc<FakeRuntime>,
    fixture: Fixture,
    lie: Option<Bytes>,
) -> (Arc<OnlyBytes>, Puller) {
    // However full the disk of these tests is.
    let empty_disk = |_: &std::path::Path| Ok(DiskUse { total: 1 << 40, free: 1 << 40 });
    let (dir, watermarks) = (fixture.dir.path().join("cache"), Watermarks::default());
    let cache = Cache::open_on(&dir, 1 << 20, watermarks, empty_disk).unwrap();
    let (blobs_read, questions) = Default::default();
    let api = Arc::new(OnlyBytes { fixture, blobs_read, questions, lie });
    let host = Arc::new(Machine(runtime));
    (api.clone(), Puller::new(api, cache, Registries::default(), host))
}

#[tokio::test]
async fn pulls_follow_their_policy_and_fetch_once() {
    let fixture = Fixture::new();
    let wasm = program(0);
    let pushed = fixture.push("hello:v1", wasm.clone()).await.unwrap();
    let (api, puller) = puller(fixture, None);
    let image: Reference = "hello:v1".parse().unwrap();
    let never = puller.pull(&image, PullPolicy::Never).await;
    assert_eq!(never, Err(PullError::NotPresent("hello:v1".into())));
    let all = (0..8).map(|_| puller.pull(&image, PullPolicy::Always));
    for pulled in futures::future::join_all(all).await {
        let pulled = pulled.unwrap();
        assert_eq!((&pulled.digest, &pulled.wasm), (&pushed.digest, &wasm));
        assert_eq!(pulled.wasm_digest, pushed.wasm_digest);
    }
    assert_eq!(api.blobs_read.load(Ordering::Relaxed), 1);

    // The tag moves on: only Always sees it.
    let newer = api.fixture.push("hello:v1", program(1)).await.unwrap();
    let same = puller.pull(&image, PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!(same.digest, pushed.digest);
    assert_eq!(puller.pull(&image, PullPolicy::Never).await.unwrap().digest, pushed.digest);
    assert_eq!(puller.pull(&image, PullPolicy::Always).await.unwrap().digest, newer.digest);
    let pinned: Reference = format!("hello@{}", pushed.digest).parse().unwrap();
    assert_eq!(puller.pull(&pinned, PullPolicy::Always).await.unwrap().digest, pushed.digest);
    let missing: Reference = "nobody".parse().unwrap();
    let missing = puller.pull(&missing, PullPolicy::IfNotPresent).await;
    assert_eq!(missing, Err(PullError::NotFound("nobody:latest".into())));
}

/// A node that got the code from elsewhere never has the program's bytes.
#[tokio::test]
async fn an_image_is_here_by_its_code_alone() {
    let fixture = Fixture::new();
    let pushed = fixture.push("hello:v1", program(0)).await.unwrap();
    let runtime = FakeRuntime::new(Arc::new(|| jiff::Timestamp::UNIX_EPOCH));
    let (api, puller) = puller_of(runtime.clone(), fixture, None);
    let image: Reference = "hello:v1".parse().unwrap();
    let resolve = |policy| puller.resolve(&image, policy, &[]);
    let first = resolve(PullPolicy::IfNotPresent).await.unwrap();
    assert_eq!((&first.digest, first.present), (&pushed.digest, false));
    let never = resolve(PullPolicy::Never).await;
    assert_eq!(never, Err(PullError::NotPresent("hello:v1".into())), "neither is here");
    assert!(!resolve(PullPolicy::IfNotPresent).await.unwrap().present);
    runtime.prepare(&first.wasm_digest, Bytes::new()).await.unwrap();

    // Its tag moves on, and it is the same program; nobody is asked.
    let newer = api.fixture.push("hello:v1", program(1)).await.unwrap();
    let asked = api.questions.load(Ordering::Relaxed);
    for policy in [PullPolicy::IfNotPresent, PullPolicy::Never] {
        let again = resolve(policy).await.unwrap();
        assert_eq!((&again.digest, again.present), (&pushed.digest, true), "{policy:?}");
        assert_eq!(again.wasm_digest, pushed.wasm_digest);
    }
    assert_eq!(api.questions.load(Ordering::Relaxed), asked);
    assert_eq!(api.blobs_read.load(Ordering::Relaxed), 0);

    // What the name means then has no code.
    let moved = resolve(PullPolicy::Always).await.unwrap();
    assert_eq!((&moved.digest, moved.present), (&newer.digest, false));
    assert!(resolve(PullPolicy::Never).await.is_err());
    puller.load(&image, PullPolicy::Always, &[], &moved.wasm_digest, moved.size).await.unwrap();
    assert!(resolve(PullPolicy::Never).await.unwrap().present, "its bytes are enough");
}

/// Names that a registry does not answer for must not keep others from theirs.
#[tokio::test]
async fn a_silent_registry_holds_up_nobody_else() {
    let fixture = Fixture::new();
    let pushed = fixture.push("hello:v1", program(0)).await.unwrap();
    let (_, puller) = puller(fixture, None);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let name = format!("{}/team/slow:v1", silent.local_addr().unwrap());
    let slow: Reference = name.parse().unwrap();
    let waiting = (0..40).map(|_| puller.pull(&slow, PullPolicy::Always));
    let own: Reference = "hello:v1".parse().unwrap();
    tokio::select! {
        biased;
        _ = futures::future::join_all(waiting) => panic!("nobody answers there"),
        pulled = puller.pull(&own, PullPolicy::Always) => {
            assert_eq!(pulled.unwrap().digest, pushed.digest);
        }
    }
}

#[tokio::test]
async fn what_is_not_what_its_digest_says_is_refused() {
    let fixture = Fixture::new();
    fixture.push("hello", program(0)).await.unwrap();
    let (_, puller) = puller(fixture, Some(program(1)));
    let image: Reference = "hello".parse().unwrap();
    // It may be right at the next try.
    let refused = puller.pull(&image, PullPolicy::Always).await;
    assert!(matches!(refused, Err(PullError::Network { .. })), "{refused:?}");
    // And it was not kept either.
    assert!(puller.pull(&image, PullPolicy::Never).await.is_err());
}

#[tokio::test]
async fn files_for_volumes_come_from_the_own_registry() {
    let fixture = Fixture::new();
    let first = fixture.push_files("data:v1", &["one", "two"]).await;
    let (api, puller) = puller(fixture, None);
    let image: Reference = "data:v1".parse().unwrap();
    let never = puller.content(&image, PullPolicy::Never, &[]).await;
    assert_eq!(never, Err(PullError::NotPresent("data:v1".into())));
    let content = puller.content(&image, PullPolicy::IfNotPresent, &[]).await.unwrap();
    assert_eq!((&content.digest, content.layers.len(), content.present), (&first, 2, false));
    for (layer, text) in content.layers.iter().zip(["one", "two"]) {
        let (digest, size) = (&layer.digest, layer.size);
        let loaded = puller.load(&image, PullPolicy::IfNotPresent, &[], digest, size).await;
        assert_eq!(loaded.unwrap().wasm, text);
    }
    // The tag moves on: only Always sees it.
    let second = api.fixture.push_files("data:v1", &["three"]).await;
    let content = puller.content(&image, PullPolicy::IfNotPresent, &[]).await.unwrap();
    assert_eq!((content.digest, content.present), (first, true));
    let content = puller.content(&image, PullPolicy::Always, &[]).await.unwrap();
    assert_eq!((content.digest, content.present), (second, false));
    // Files are no program, and a program's manifest lists one file.
    let refused = puller.pull(&image, PullPolicy::IfNotPresent).await;
    assert!(matches!(refused, Err(PullError::Invalid { .. })), "{refused:?}");
    api.fixture.push("hello", program(0)).await.unwrap();
    let hello: Reference = "hello".parse().unwrap();
    let pulled = puller.pull(&hello, PullPolicy::Always).await.unwrap();
    let content = puller.content(&hello, PullPolicy::IfNotPresent, &[]).await.unwrap();
    assert_eq!((&content.digest, content.layers.len()), (&pulled.digest, 1));
    assert_eq!(puller.pull(&hello, PullPolicy::Never).await.unwrap(), pulled);
}
