//! What a node takes from its control plane: whatever is not exactly the code of its program, for its
//! engine, signed by its cluster, is refused, asked for again, and never run.

use std::io::Write;
use std::sync::Mutex;

use wasmfleet::engine::compile::CompileError;
use wasmfleet::engine::seal::{CodeKey, Seal};
use wasmfleet::engine::service::Program;
use wasmfleet::engine::supply::{CodeSource, FetchError, Runner, Server, Wanted};
use wasmfleet::runtime::{Options as RuntimeOptions, PrepareError, Prepared, Runtime, WasmRuntime};

use super::*;

/// A control plane that gives these files, one after the other, and the last for ever.
struct Answers {
    files: Vec<Result<Vec<u8>, FetchError>>,
    asked: Mutex<Vec<Wanted>>,
}

#[async_trait::async_trait]
impl CodeSource for Answers {
    async fn fetch(&self, wanted: &Wanted, mut into: std::fs::File) -> Result<(), FetchError> {
        let mut asked = self.asked.lock().expect("not poisoned");
        let at = asked.len().min(self.files.len() - 1);
        asked.push(wanted.clone());
        into.write_all(&self.files[at].clone()?).expect("writes");
        Ok(())
    }
}

/// Sealed files of a cluster's control plane.
struct ControlPlane {
    bench: Bench,
    trust: wasmfleet::engine::seal::Trust,
}

impl ControlPlane {
    fn new() -> ControlPlane {
        let dir = tempfile::tempdir().expect("a directory");
        let limits = compile::Options::new(compiler(dir.path(), ""));
        let options = Options::new(limits, dir.path().join("code"));
        let signer = signer();
        let trust = signer.trust();
        let service = CompileService::open(options, signer).expect("opens");
        let bench = Bench { service, dir };
        bench.run();
        ControlPlane { bench, trust }
    }

    async fn file(&self, wasm: &[u8]) -> Vec<u8> {
        let path = self.bench.file("p.wasm", wasm);
        let (service, program) = (&self.bench.service, Program::Kept(path));
        let code = service.code(&digest(wasm), here(), program, PATIENCE).await.expect("code");
        std::fs::read(code.path()).expect("reads")
    }
}

struct Node {
    runtime: Arc<WasmRuntime>,
    answers: Arc<Answers>,
    dir: tempfile::TempDir,
}

impl Node {
    fn new(control: &ControlPlane, files: Vec<Result<Vec<u8>, FetchError>>) -> Node {
        let dir = tempfile::tempdir().expect("a directory");
        let answers = Arc::new(Answers { files, asked: Mutex::default() });
        let runtime = Node::runtime(control, dir.path(), &answers);
        Node { runtime, answers, dir }
    }

    fn runtime(control: &ControlPlane, dir: &Path, answers: &Arc<Answers>) -> Arc<WasmRuntime> {
        // Its own compiler would be found out: it fails.
        let place = CompilerPlace::ChildProcess("/bin/false".into());
        let clock = Arc::new(jiff::Timestamp::now);
        let mut options = RuntimeOptions::new(place, Some(dir.join("compiled")), clock);
        options.server = Some(Server { source: answers.clone(), trust: control.trust.clone() });
        WasmRuntime::new(options).expect("a runtime")
    }

    async fn fetched(&self, wasm: &[u8]) -> Result<Option<Arc<dyn Prepared>>, PrepareError> {
        let runner = Runner { pod: "web".into(), ..Runner::default() };
        self.runtime.fetched(&digest(wasm), &runner).await
    }

    fn asked(&self) -> usize {
        self.answers.asked.lock().expect("not poisoned").len()
    }

    fn kept(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("compiled")).expect("reads").count()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_cluster_s_code_of_the_program_is_taken() {
    let (control, forger) = (ControlPlane::new(), ControlPlane::new());
    let (ours, another) = (program(7), program(9));
    let good = control.file(&ours).await;
    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 4;
    let truncated = good[..good.len() - 100].to_vec();
    let swapped = control.file(&another).await;
    let forged = forger.file(&ours).await;
    // The same bytes, signed as code of another version of the engine.
    let old_signer = signer();
    let old = CodeKey { digest: digest(&ours), settings_hash: "ab".repeat(32) };
    let seal = Seal::Signed { trust: old_signer.trust(), signer: Some(old_signer) };
    let code = &good[..good.len() - wasmfleet::engine::seal::TRAILER_BYTES];
    let stale = [code, &seal.trailer(&old, code).expect("signs")].concat();

    for (what, bad) in [
        ("a flipped bit", flipped.clone()),
        ("its end cut off", truncated.clone()),
        ("another program's code", swapped.clone()),
        ("another cluster's signature", forged.clone()),
        ("another engine's code", stale),
        ("nothing", Vec::new()),
        ("no seal", code.to_vec()),
    ] {
        // Refused, and asked for again.
        let node = Node::new(&control, vec![Ok(bad.clone()), Ok(good.clone())]);
        assert!(node.fetched(&ours).await.expect("code").is_some(), "{what}");
        assert_eq!((node.asked(), node.kept()), (2, 1), "{what}");
        // Where nothing else comes, there is no code.
        let node = Node::new(&control, vec![Ok(bad)]);
        assert!(node.fetched(&ours).await.expect("no verdict").is_none(), "{what}");
        assert_eq!((node.asked(), node.kept()), (3, 0), "{what}");
        let made = node.runtime.prepare(&digest(&ours), ours.clone().into()).await;
        assert!(made.is_err(), "{what}: {:?}", made.map(|code| code.kind()));
    }

    // A file that changes on the node's disk is fetched again.
    let node = Node::new(&control, vec![Ok(good.clone())]);
    node.fetched(&ours).await.expect("code").expect("code");
    let restarted = Node::runtime(&control, node.dir.path(), &node.answers);
    assert!(restarted.prepared(&digest(&ours)).await.is_some(), "kept");
    let kept = std::fs::read_dir(node.dir.path().join("compiled")).expect("reads").next();
    std::fs::write(kept.expect("one").expect("one").path(), swapped).expect("writes");
    let restarted = Node::runtime(&control, node.dir.path(), &node.answers);
    assert!(restarted.prepared(&digest(&ours)).await.is_none(), "another's code");
    assert_eq!(node.kept(), 0, "it is gone");
    let again = restarted.fetched(&digest(&ours), &Runner::default()).await;
    assert!(again.expect("code").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_holds_and_other_failures_do_not() {
    let control = ControlPlane::new();
    let wasm = program(1);
    let limit = FetchError::Verdict(CompileError::Limit("too large".into()));
    let node = Node::new(&control, vec![Err(limit)]);
    for _ in 0..2 {
        let code = node.fetched(&wasm).await;
        assert!(
            matches!(code.err(), Some(PrepareError::CompileLimit(text)) if text == "too large")
        );
    }
    assert_eq!(node.asked(), 1, "it is remembered");

    // It does not know the program: the program is sent along.
    let good = control.file(&wasm).await;
    let unknown = FetchError::NeedsProgram("unknown".into());
    let node = Node::new(&control, vec![Err(unknown), Ok(good)]);
    assert!(node.fetched(&wasm).await.expect("no verdict").is_none());
    node.runtime.prepare(&digest(&wasm), wasm.clone().into()).await.expect("code");
    let asked = node.answers.asked.lock().expect("not poisoned");
    assert_eq!((asked[0].runner.pod.as_str(), asked[0].program.as_deref()), ("web", None));
    assert_eq!(asked[1].program.as_deref(), Some(&*wasm));
}
