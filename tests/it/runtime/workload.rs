//! What a guest may ask of its platform beside WASI: configuration, buckets, identity, readiness and
//! the end of its container. The guest is `examples/guests/rust/workload`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use wasmfleet::runtime::workload::{Bucket, Changes, Identity, Platform, Workload, WriteError};
use wasmfleet::runtime::{ExitReason, RuntimeEvent};

use super::harness::{Harness, Output, PATIENCE, Running, built};

/// Of one bucket.
type Entries = BTreeMap<String, Vec<u8>>;

/// Buckets in memory, each with the number of its writes as its version.
#[derive(Default)]
struct Memory(Mutex<BTreeMap<String, (u64, Entries)>>);

#[async_trait::async_trait]
impl Platform for Memory {
    async fn token(&self, audience: &str) -> Result<String, String> {
        Ok(format!("token for {audience}"))
    }

    async fn read(&self, bucket: &str) -> Result<Bucket, String> {
        let buckets = self.0.lock().expect("not poisoned");
        let Some((version, entries)) = buckets.get(bucket) else { return Ok(Bucket::default()) };
        Ok(Bucket { version: Some(version.to_string()), entries: entries.clone() })
    }

    async fn write(
        &self,
        bucket: &str,
        version: Option<&str>,
        changes: Changes,
    ) -> Result<(), WriteError> {
        let mut buckets = self.0.lock().expect("not poisoned");
        let now = buckets.get(bucket).map(|(version, _)| version.to_string()).unwrap_or_default();
        if version.is_some_and(|version| version != now) {
            return Err(WriteError::Conflict);
        }
        let (version, entries) = buckets.entry(bucket.to_owned()).or_default();
        *version += 1;
        for (key, value) in changes {
            match value {
                Some(value) => drop(entries.insert(key, value)),
                None => drop(entries.remove(&key)),
            }
        }
        Ok(())
    }
}

fn workload(platform: Arc<Memory>) -> Workload {
    Workload {
        identity: Identity {
            namespace: "prod".to_owned(),
            pod: "web-0".to_owned(),
            node: "n1".to_owned(),
            labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
            ..Identity::default()
        },
        config: BTreeMap::from([("color".to_owned(), "green".to_owned())]),
        buckets: vec!["shop".to_owned(), "other".to_owned()],
        audiences: vec!["vault".to_owned()],
        platform,
        ..Workload::default()
    }
}

async fn start(
    harness: &Harness,
    platform: &Arc<Memory>,
    arguments: &[&str],
) -> (Running, Arc<Output>) {
    start_of(built!("rust-workload.wasm"), harness, platform, arguments).await
}

async fn start_of(
    program: &[u8],
    harness: &Harness,
    platform: &Arc<Memory>,
    arguments: &[&str],
) -> (Running, Arc<Output>) {
    let (mut spec, output) = harness.spec(program).await;
    spec.args.extend(arguments.iter().map(|argument| (*argument).to_owned()));
    spec.workload = Arc::new(workload(platform.clone()));
    (harness.start(spec).await.expect("it starts"), output)
}

async fn run(harness: &Harness, platform: &Arc<Memory>, arguments: &[&str]) -> (i32, String) {
    let (mut running, output) = start(harness, platform, arguments).await;
    let exit = running.exit().await;
    (exit.code, output.stdout() + &output.stderr())
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_have_their_configuration_and_identity() {
    let (harness, platform) = (Harness::new(), Arc::new(Memory::default()));
    let (code, text) = run(&harness, &platform, &["config=color", "whoami", "token=vault"]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("green\n") && text.contains("\"web-0\""), "{text}");
    assert!(text.contains("(\"app\", \"web\")") && text.contains("token for vault\n"), "{text}");
    let (code, text) = run(&harness, &platform, &["config=size"]).await;
    assert_eq!((code, text.as_str()), (1, "config=size: there is no such key\n"));
    let (code, text) = run(&harness, &platform, &["token=api"]).await;
    assert!(code == 1 && text.contains("Denied"), "an audience that is not listed: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_are_shared_by_those_who_are_given_them() {
    let (harness, platform) = (Harness::new(), Arc::new(Memory::default()));
    let (code, text) = run(
        &harness,
        &platform,
        &["get=shop/a", "set=shop/a/1 2", "set=shop/user:1/x", "keys=shop", "count=shop/n/2"],
    )
    .await;
    assert_eq!((code, text.as_str()), (0, "nothing\na is set\nuser:1 is set\na user:1\n2\n"));
    // The first bucket has no name, too; the other one is another one.
    let arguments = ["get=/a", "keys=other", "count=/n/40", "delete=shop/a", "get=shop/a"];
    let (code, text) = run(&harness, &platform, &arguments).await;
    assert_eq!((code, text.as_str()), (0, "1 2\n\n42\ndeleted\nnothing\n"));
    let (code, text) = run(&harness, &platform, &["get=secret/a"]).await;
    assert!(code == 1 && text.contains("AccessDenied"), "{text}");
    let (code, text) = run(&harness, &platform, &["set=shop/a/x", "count=shop/a/1"]).await;
    assert!(code == 1 && text.contains("no number"), "{text}");
    let long = format!("set=shop/{}/x", "k".repeat(200));
    let (code, text) = run(&harness, &platform, &[&long]).await;
    assert!(code == 1 && text.contains("at most 128 bytes"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_together_loses_no_count() {
    let (harness, platform) = (Harness::new(), Arc::new(Memory::default()));
    let arguments = ["count=shop/n/1"; 8];
    let mut all = Vec::new();
    for _ in 0..8 {
        all.push(start(&harness, &platform, &arguments).await);
    }
    for (running, output) in &mut all {
        assert_eq!(running.exit().await.code, 0, "{}", output.stdout());
    }
    let bucket = platform.read("shop").await.expect("it is there");
    assert_eq!(bucket.entries["n"], b"64");
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_is_told_when_it_changes() {
    let (harness, platform) = (Harness::new(), Arc::new(Memory::default()));
    let arguments = ["ready", "ready", "unready", "ready"];
    let (mut running, _) = start(&harness, &platform, &arguments).await;
    let mut told = Vec::new();
    loop {
        match running.event().await {
            RuntimeEvent::Readiness { ready, .. } => told.push(ready),
            RuntimeEvent::Exited { exit, .. } => break assert_eq!(exit.code, 0),
            RuntimeEvent::Started { .. } => {}
        }
    }
    assert_eq!(told, [true, false, true]);
    let prepared = harness.prepare(built!("rust-workload.wasm")).await.expect("it compiles");
    assert!(prepared.tells_readiness() && prepared.hears_shutdown());
    let other = harness.prepare(built!("rust-cmd-p2.wasm")).await.expect("it compiles");
    assert!(!other.tells_readiness() && !other.hears_shutdown());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_hears_its_end_has_its_grace() {
    let (harness, platform) = (Harness::new(), Arc::new(Memory::default()));
    // It is told, does what is left, and its code counts.
    let (mut running, output) = start(&harness, &platform, &["ready", "wait", "exit=1"]).await;
    while !matches!(running.event().await, RuntimeEvent::Readiness { .. }) {}
    running.container.stop(Duration::from_secs(60));
    let exit = running.exit().await;
    assert_eq!((exit.code, exit.reason), (1, ExitReason::Error), "{}", output.stdout());
    assert!(output.stdout().contains("told to end, grace left: true"), "{}", output.stdout());
    // One that goes on is killed when its grace is over, or at once where there is none.
    for grace in [Duration::from_millis(1), Duration::ZERO] {
        let (mut running, _) = start(&harness, &platform, &["ready", "wait", "wait"]).await;
        while !matches!(running.event().await, RuntimeEvent::Readiness { .. }) {}
        let (mut other, _) = start(&harness, &platform, &["ready"]).await;
        other.exit().await;
        running.container.stop(grace);
        let code = running.exit().await.code;
        // It may end by itself within the millisecond.
        assert!(code == 137 || (code == 0 && !grace.is_zero()), "{code}");
    }
}

/// The same in WASI 0.3, by the guest `workload-p3`: it awaits its end beside its work.
#[tokio::test(flavor = "multi_thread")]
async fn a_command_of_wasi_0_3_awaits_its_end_while_it_works() {
    let (harness, platform) = (Harness::new(), Arc::new(Memory::default()));
    let program = built!("rust-workload-p3.wasm");
    let prepared = harness.prepare(program).await.expect("it compiles");
    assert!(prepared.tells_readiness() && prepared.hears_shutdown());
    let (mut running, output) =
        start_of(program, &harness, &platform, &["ready", "work=5", "exit=3"]).await;
    while !matches!(running.event().await, RuntimeEvent::Readiness { ready: true, .. }) {}
    let began = Instant::now();
    while !output.stdout().contains("piece 3") {
        assert!(began.elapsed() < PATIENCE, "{}", output.stdout());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!output.stdout().contains("told to end"), "{}", output.stdout());
    running.container.stop(2 * PATIENCE);
    let exit = running.exit().await;
    assert_eq!((exit.code, exit.reason), (3, ExitReason::Error), "{}", output.stdout());
    assert!(output.stdout().contains("told to end, grace left: true after"), "{}", output.stdout());
    // One that returns has ended well; one that goes on is killed when its grace is over.
    for (arguments, grace, code) in [
        (&["ready", "wait"][..], 2 * PATIENCE, 0),
        (&["ready", "wait", "sleep=9000000"][..], Duration::from_millis(1), 137),
    ] {
        let (mut running, output) = start_of(program, &harness, &platform, arguments).await;
        while !matches!(running.event().await, RuntimeEvent::Readiness { .. }) {}
        running.container.stop(grace);
        assert_eq!(running.exit().await.code, code, "{arguments:?}: {}", output.stdout());
    }
}
