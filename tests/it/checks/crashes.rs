//! Histories of a real `wasmfleet server` that is killed again and again while clients write and
//! watch over HTTPS. `WASMFLEET_CHECK_SEEDS` runs more of them, `WASMFLEET_CHECK_SEED` one again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ServiceAccount;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::sync::watch;
use wasmfleet::api::{ApiError, Object, Raw};
use wasmfleet::client::remote::Remote;
use wasmfleet::client::{DeleteOptions, SharedApi, Target, WatchEvent, WatchOptions, WriteOptions};

use super::history::{self, Kind, Moment, Operation, Outcome, Request, Seen, Version, Watcher};
use super::{registers, watches};
use crate::cluster::{Cluster, PATIENCE};

const SEEDS: &str = "WASMFLEET_CHECK_SEEDS";
const ONE_SEED: &str = "WASMFLEET_CHECK_SEED";
const CLIENTS: u64 = 6;
const KEYS: u64 = 3;
const KILLS: usize = 3;
/// Answers between one kill and the next.
const LIFE: std::ops::Range<u64> = 20..400;
const NAMESPACE: &str = "checks";
/// Where an object's content is, and the label by which watchers select.
const CONTENT: &str = "content";
const PARITY: &str = "parity";
/// The last object that is written: who has seen it has seen all.
const END: &str = "end";

/// What all clients of a run share.
struct Run {
    /// The API of the server that runs now; `None` while none does.
    api: watch::Receiver<Option<SharedApi>>,
    begin: Instant,
    contents: AtomicU64,
    answers: AtomicU64,
    /// Clients begin nothing new.
    ending: AtomicBool,
    operations: Mutex<Vec<Operation>>,
}

impl Run {
    fn now(&self) -> Moment {
        self.begin.elapsed().as_nanos() as Moment
    }

    /// The API of the present server, or of the next one.
    async fn api(&self) -> SharedApi {
        let mut api = self.api.clone();
        let found = api.wait_for(Option::is_some).await.expect("the run goes on").clone();
        found.expect("just seen")
    }

    /// Performs one request and notes what came of it.
    async fn perform(&self, api: &SharedApi, key: &str, request: Request) -> Outcome {
        let called = self.now();
        let outcome = outcome(call(api, key, &request).await);
        let operation =
            Operation { key: key.into(), request, called, returned: self.now(), outcome };
        let outcome = operation.outcome.clone();
        self.operations.lock().push(operation);
        self.answers.fetch_add(1, Ordering::Relaxed);
        outcome
    }
}

fn target(key: &str) -> Target {
    Target::one::<ServiceAccount>(NAMESPACE, key)
}

fn account(key: &str, content: u64, expected: Version) -> Object {
    let mut meta = json!({"name": key, "namespace": NAMESPACE,
        "annotations": {CONTENT: content.to_string()},
        "labels": {PARITY: if content.is_multiple_of(2) { "even" } else { "odd" }}});
    if expected > 0 {
        meta["resourceVersion"] = json!(expected.to_string());
    }
    let value = json!({"kind": "ServiceAccount", "apiVersion": "v1", "metadata": meta});
    Object::from_value(value).expect("an object")
}

async fn call(api: &SharedApi, key: &str, request: &Request) -> Result<Raw, ApiError> {
    let options = WriteOptions::default();
    match *request {
        Request::Get => api.get(&target(key)).await,
        Request::Create { content } => {
            api.create(&target(key).collection(), account(key, content, 0), &options).await
        }
        Request::Update { content, expected } => {
            api.update(&target(key), account(key, content, expected), &options).await
        }
        Request::Delete { expected } => {
            let resource_version = Some(expected.to_string());
            let options = DeleteOptions { resource_version, ..DeleteOptions::default() };
            api.delete(&target(key), &options).await
        }
    }
}

fn outcome(result: Result<Raw, ApiError>) -> Outcome {
    match result {
        Ok(raw) => {
            let (_, version, content) = read(&raw);
            Outcome::Done { version, content }
        }
        Err(error) if error.code == 404 => Outcome::Absent,
        Err(error) if error.code == 409 => Outcome::Refused,
        // Of a server that is killed; anything else would be a fault of its own.
        Err(error) if matches!(error.code, 502..=504) => Outcome::Unknown,
        Err(error) => panic!("{error:?}"),
    }
}

/// Name, version and content of an object.
fn read(raw: &Raw) -> (String, Version, u64) {
    let value: Value = serde_json::from_slice(&raw.0).expect("JSON");
    let meta = &value["metadata"];
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    (
        meta["name"].as_str().expect("a name").to_string(),
        number(&meta["resourceVersion"]).expect("a version"),
        number(&meta["annotations"][CONTENT]).unwrap_or_default(),
    )
}

/// Does one thing after another with what it knows of the objects, which may be out of date.
async fn client(run: Arc<Run>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut known: BTreeMap<u64, Version> = BTreeMap::new();
    while !run.ending.load(Ordering::Relaxed) {
        let api = run.api().await;
        let number = random.random_range(0..KEYS);
        let key = format!("k{number}");
        let content = run.contents.fetch_add(1, Ordering::Relaxed);
        let version = known.get(&number).copied();
        let request = match (random.random_range(0..10), version) {
            (0..4, _) => Request::Get,
            (4..8, Some(expected)) => Request::Update { content, expected },
            (8, Some(expected)) => Request::Delete { expected },
            _ => Request::Create { content },
        };
        let deletes = matches!(request, Request::Delete { .. });
        match run.perform(&api, &key, request).await {
            Outcome::Done { version, .. } if !deletes => drop(known.insert(number, version)),
            Outcome::Done { .. } | Outcome::Absent => drop(known.remove(&number)),
            Outcome::Refused => {
                if let Outcome::Done { version, .. } = run.perform(&api, &key, Request::Get).await {
                    known.insert(number, version);
                }
            }
            // Its server is dead, or will be told so soon.
            Outcome::Unknown => tokio::task::yield_now().await,
        }
    }
}

/// Watches until it has seen the last object, going on from what it saw whenever its watch ends.
async fn watcher(run: Arc<Run>, from: Version, even_only: bool) -> Watcher {
    let mut watcher = Watcher { from, even_only, seen: Vec::new() };
    let mut last = from;
    loop {
        let api = run.api().await;
        let options = WatchOptions {
            resource_version: last.to_string(),
            label_selector: if even_only { format!("{PARITY}=even") } else { String::new() },
            bookmarks: true,
            ..WatchOptions::default()
        };
        let mut stream =
            match api.watch(&Target::all::<ServiceAccount>(Some(NAMESPACE)), &options).await {
                Ok(stream) => stream,
                Err(error) if error.code == 503 => {
                    tokio::task::yield_now().await;
                    continue;
                }
                Err(error) => panic!("a watch from {last} was refused: {error:?}"),
            };
        while let Some(event) = stream.next().await {
            let event = match event {
                Ok(event) => event,
                Err(error) if error.is_expired() => panic!("{last} is too old: {error:?}"),
                Err(_) => break,
            };
            let kind = match event {
                WatchEvent::Added(_) => Kind::Added,
                WatchEvent::Modified(_) => Kind::Modified,
                WatchEvent::Deleted(_) => Kind::Deleted,
                WatchEvent::Bookmark(version) => {
                    last = version.parse().expect("a version");
                    watcher.seen.push(Seen::Bookmark(last));
                    continue;
                }
            };
            let (key, version, content) = read(event.raw().expect("an object"));
            last = version;
            if key == "default" {
                // A controller's, who is no client of ours.
                continue;
            }
            let is_end = key == END;
            watcher.seen.push(Seen::Event { kind, key, version, content });
            if is_end {
                return watcher;
            }
        }
        watcher.seen.push(Seen::Resumed);
    }
}

async fn connect(cluster: &Cluster) -> SharedApi {
    let file = kube::config::Kubeconfig::read_from(cluster.kubeconfig()).expect("a kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await;
    Arc::new(Remote::new(config.expect("a configuration")).expect("a client"))
}

async fn crash(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = tokio::task::block_in_place(Cluster::control_plane);
    let first = connect(&cluster).await;
    let namespace =
        json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": NAMESPACE}});
    let all = Target::all::<k8s_openapi::api::core::v1::Namespace>(None);
    let namespace = Object::from_value(namespace).expect("an object");
    let made = first.create(&all, namespace, &WriteOptions::default()).await.expect("a namespace");
    let (_, begin, _) = read(&made);
    let (sender, api) = watch::channel(Some(first));
    let run = Arc::new(Run {
        api,
        begin: Instant::now(),
        contents: AtomicU64::new(1),
        answers: AtomicU64::new(0),
        ending: AtomicBool::new(false),
        operations: Mutex::default(),
    });
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(run.clone(), seed * 1000 + number));
    }
    let mut watchers = vec![
        tokio::spawn(watcher(run.clone(), begin, false)),
        tokio::spawn(watcher(run.clone(), begin, true)),
    ];
    for _ in 0..KILLS {
        let life = run.answers.load(Ordering::Relaxed) + random.random_range(LIFE);
        let reached = async {
            while run.answers.load(Ordering::Relaxed) < life {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect("clients get answers");
        sender.send_replace(None);
        tokio::task::block_in_place(|| {
            cluster.program().kill();
            cluster.start_again();
        });
        sender.send_replace(Some(connect(&cluster).await));
        // One that comes late begins at what somebody has just written.
        let late = run.operations.lock().iter().rev().find_map(|one| match one.outcome {
            Outcome::Done { version, .. } => Some(version),
            _ => None,
        });
        watchers.push(tokio::spawn(watcher(run.clone(), late.unwrap_or(begin), false)));
    }
    run.ending.store(true, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.expect("a client that ends well");
    }
    let content = 2 * run.contents.fetch_add(1, Ordering::Relaxed) + 2;
    let api = run.api().await;
    run.perform(&api, END, Request::Create { content }).await;
    let mut seen = Vec::new();
    for watcher in watchers {
        let watcher = tokio::time::timeout(PATIENCE, watcher).await.expect("the end is seen");
        seen.push(watcher.expect("a watcher that ends well"));
    }
    let states = history::states(&seen[0]);
    let operations = run.operations.lock().clone();
    let mut wrong = registers::check(&operations, &states);
    for (number, watcher) in seen.iter().enumerate() {
        let found = watches::check(watcher, &states);
        wrong.extend(found.into_iter().map(|why| format!("watcher {number}: {why}")));
    }
    let unknown = operations.iter().filter(|one| one.outcome == Outcome::Unknown).count();
    println!("seed {seed}: {} operations, {unknown} without an answer", operations.len());
    assert!(wrong.is_empty(), "seed {seed}:\n{}", wrong.join("\n"));
    tokio::task::block_in_place(|| drop(cluster));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn histories_hold_over_kill_9() {
    wasmfleet::client::remote::install_crypto();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    if let Some(seed) = number(ONE_SEED) {
        return crash(seed).await;
    }
    for seed in 0..number(SEEDS).unwrap_or(1) {
        println!("seed {seed}");
        crash(seed).await;
    }
}
