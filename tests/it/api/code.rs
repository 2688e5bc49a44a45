//! Native code for nodes: who is given which.

use wasmfleet::client::node_paths::{CodeQuery, code_path};
use wasmfleet::engine::compile::{self, CompilerPlace};
use wasmfleet::engine::seal::Signer;
use wasmfleet::engine::service::{self, CompileService};
use wasmfleet::engine::target::Target;
use wasmfleet::images::digest_of;

use super::*;

struct Fixture {
    cluster: Cluster,
    service: Arc<CompileService>,
    _dir: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::with_images(&dir.path().join("registry")).await;
        let limits = compile::Options::new(CompilerPlace::InProcess);
        let options = service::Options::new(limits, dir.path().join("code"));
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let signer = Signer::new(&key.serialize_der()).unwrap();
        let service = CompileService::open(options, signer).unwrap();
        tokio::spawn(service.clone().work());
        cluster.server.compile_with(service.clone());
        Fixture { cluster, service, _dir: dir }
    }

    /// A pod that is bound to a node.
    async fn bound(&self, name: &str, image: &str, node: &str) {
        let mut pod = pod(name);
        pod["spec"]["containers"][0]["image"] = json!(image);
        pod["spec"]["nodeName"] = json!(node);
        self.cluster.post(PODS, &pod).await.expect(201);
    }

    /// The code and the length of an answer's body.
    async fn ask(
        &self,
        user: &User,
        node: &str,
        method: &str,
        query: &CodeQuery,
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let path = query.path(node);
        let answer = self.cluster.open_as(user, method, &path, &[], body.to_vec()).await;
        use http_body_util::BodyExt;
        let code = answer.status().as_u16();
        (code, answer.into_body().collect().await.unwrap().to_bytes().to_vec())
    }
}

fn program(code: u32) -> Vec<u8> {
    let text = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (func (export "_start") (call $exit (i32.const {code}))))"#
    );
    wat::parse_str(text).unwrap()
}

fn query(digest: &str, pod: &str, image: &str) -> CodeQuery {
    let target = Target::here().unwrap();
    CodeQuery {
        digest: digest.into(),
        triple: target.triple().into(),
        cpu: target.cpu().into(),
        settings: target.settings_hash(),
        namespace: "default".into(),
        pod: pod.into(),
        image: image.into(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_given_the_code_of_what_its_pods_run() {
    let fixture = Fixture::new().await;
    let pushed = fixture.cluster.push("team/web:v1", program(1)).await;
    let secret = fixture.cluster.push("team/secret:v1", program(2)).await;
    fixture.bound("web", "team/web:v1", "n1").await;
    fixture.bound("secret", "team/secret:v1", "n2").await;
    let (n1, n2) = (User::node("n1"), User::node("n2"));
    let image = format!("team/web@{}", pushed.digest);
    let web = query(&pushed.wasm_digest, "web", &image);
    let (code, file) = fixture.ask(&n1, "n1", "GET", &web, b"").await;
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&file));
    assert!(file.starts_with(b"\x7fELF") && file.ends_with(b"\n"));
    let (code, again) = fixture.ask(&n1, "n1", "GET", &web, b"").await;
    assert_eq!((code, again == file), (200, true));
    assert_eq!(fixture.service.stats().compiled, 1);

    // A tag that means something else by now does not matter: the node names the manifest.
    fixture.cluster.push("team/web:v1", program(3)).await;
    assert_eq!(fixture.ask(&n1, "n1", "GET", &web, b"").await.0, 200);

    let refused = async |user: &User, node: &str, query: &CodeQuery| {
        fixture.ask(user, node, "GET", query, b"").await.0
    };
    assert_eq!(refused(&n2, "n1", &web).await, 403, "another node's path");
    assert_eq!(refused(&n2, "n2", &web).await, 403, "another node's pod");
    assert_eq!(refused(&User::system("admin"), "n1", &web).await, 403, "no node at all");
    let image = format!("team/secret@{}", secret.digest);
    let wrong = query(&secret.wasm_digest, "web", &image);
    assert_eq!(refused(&n1, "n1", &wrong).await, 403, "an image that the pod does not name");
    let wrong = query(&secret.wasm_digest, "secret", &image);
    assert_eq!(refused(&n1, "n1", &wrong).await, 403, "a pod of another node");
    let wrong = query(&secret.wasm_digest, "web", &web.image);
    assert_eq!(refused(&n1, "n1", &wrong).await, 404, "another program than the image's");
    assert_eq!(refused(&n1, "n1", &query("sha256:00", "web", &web.image)).await, 400);
    assert_eq!(refused(&n1, "n1", &query(&web.digest, "web", "No Image")).await, 400);
    for change in [
        |q: &mut CodeQuery| q.settings = "0".repeat(64),
        |q: &mut CodeQuery| q.triple = "vax".into(),
    ] {
        let mut other = web.clone();
        change(&mut other);
        assert_eq!(refused(&n1, "n1", &other).await, 501);
    }
    assert_eq!(fixture.ask(&n1, "n1", "PUT", &web, b"").await.0, 403);
    let path = web.path("n1");
    let answer = door::handle(
        fixture.cluster.server.clone(),
        None,
        Request::get(&path).body(Full::new(Bytes::new())).unwrap(),
    );
    assert_eq!(answer.await.status(), 401);
    assert!(path.starts_with(&code_path("n1")));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_program_is_given_its_code() {
    let fixture = Fixture::new().await;
    let node = User::node("n1");
    let wasm = program(4);
    let query = query(&digest_of(&wasm), "", "");
    let (code, file) = fixture.ask(&node, "n1", "POST", &query, &wasm).await;
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&file));
    assert!(file.starts_with(b"\x7fELF"));
    let (code, text) = fixture.ask(&node, "n1", "POST", &query, &program(5)).await;
    assert_eq!(code, 400, "{}", String::from_utf8_lossy(&text));
    // The verdict on what does not compile.
    let bad = b"\0asm\x01\0\0\0\xff";
    let query = CodeQuery { digest: digest_of(bad), ..query };
    let (code, text) = fixture.ask(&node, "n1", "POST", &query, bad).await;
    let status: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (422, &json!("InvalidModule")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pushed_is_compiled_for_the_machines_that_asked() {
    let fixture = Fixture::new().await;
    let wasm = program(6);
    let query = query(&digest_of(&wasm), "", "");
    fixture.ask(&User::node("n1"), "n1", "POST", &query, &wasm).await;
    fixture.cluster.push("later:v1", program(7)).await;
    let wait = async {
        while fixture.service.stats().compiled < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), wait).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn new_pods_tell_what_their_programs_need() {
    const NEEDS: &str = "wasmfleet.dev/features";
    let fixture = Fixture::new().await;
    fixture.cluster.push("tool:v1", program(8)).await;
    let needs = async |name: &str, image: &str, given: Option<&str>| {
        let mut pod = pod(name);
        pod["spec"]["containers"][0]["image"] = json!(image);
        if let Some(given) = given {
            pod["metadata"]["annotations"] = json!({NEEDS: given});
        }
        fixture.cluster.post(PODS, &pod).await.expect(201);
        let made = fixture.cluster.get(&format!("{PODS}/{name}")).await.expect(200);
        made["metadata"]["annotations"][NEEDS].clone()
    };
    assert_eq!(needs("known", "tool:v1", None).await, "wasm32-wasip1");
    assert_eq!(needs("told", "tool:v1", Some("wasi:http@0.3")).await, "wasi:http@0.3");
    assert_eq!(needs("unknown", "tool:v2", None).await, Value::Null);
    assert_eq!(needs("foreign", "registry.example.com/tool:v1", None).await, Value::Null);
}
