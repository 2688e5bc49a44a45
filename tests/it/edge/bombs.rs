//! Requests that are small and cost much, users who ask for everything at once, paths that want to
//! be others: over a real listener with the whole server behind it. Each is refused soon, and who
//! behaves notices nothing.
//!
//! `WASMFLEET_ABUSE_SCALE=20` asks for more of all, and then also looks at memory, so that the tests
//! have to run alone: `cargo test --release --test it edge::bombs -- --test-threads 1`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wasmfleet::apiserver::listener::{Limits, serve};
use wasmfleet::apiserver::{Options, User};
use wasmfleet::store::memory::MemoryStore;

use super::connections::{LIMIT, Served};
use crate::alone::resident_bytes;
use crate::api::{Cluster, DEPLOYMENTS, MAPS};

/// How long a bomb may be looked at. Most take a few milliseconds, a patch that copies megabytes takes
/// longer; programs that are not optimized get more.
const SOON: Duration = Duration::from_millis(if cfg!(debug_assertions) { 15_000 } else { 250 });
const WINDOW: u32 = 1 << 16;
/// What memory may grow by while bombs are refused, in bytes.
const GROWTH: usize = 64 << 20;
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// How much more than in a plain run.
pub fn scale() -> usize {
    let asked = std::env::var("WASMFLEET_ABUSE_SCALE").ok();
    asked.map_or(1, |text| text.parse().expect("WASMFLEET_ABUSE_SCALE is a number"))
}

async fn listen(options: Options) -> Served {
    let cluster = Cluster::with(MemoryStore::default(), options).await;
    let server = cluster.server;
    Served::start(|listener, tls, stop| serve(server, listener, tls, Limits::default(), stop)).await
}

async fn client(server: &Served, user: &User) -> SendRequest<Full<Bytes>> {
    let io = TokioIo::new(server.connect(Some(user), "h2").await);
    // Windows so small that an answer which nobody reads stays where it is.
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW);
    let (sender, connection) = builder.handshake(io).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: &str,
    path: &str,
    media: &str,
    body: impl Into<Bytes>,
) -> Response<Incoming> {
    let request = Request::builder()
        .method(method)
        .uri(format!("https://127.0.0.1{path}"))
        .header("content-type", media)
        .body(Full::new(body.into()))
        .unwrap();
    sender.ready().await.unwrap();
    let answer = tokio::time::timeout(LIMIT, sender.send_request(request)).await;
    answer.unwrap_or_else(|_| panic!("no answer to {method} {path} ({media})")).unwrap()
}

async fn code(response: Response<Incoming>) -> (u16, String) {
    let code = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&body).into_owned())
}

/// A rule that looks at each element once for each other, and that twice.
fn costly_definition() -> Value {
    let rule = "self.all(a, self.all(b, self.all(c, a + b + c != 'x')))";
    json!({"metadata": {"name": "bombs.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "bombs", "kind": "Bomb"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": {
                "list": {"type": "array", "items": {"type": "string"},
                    "x-kubernetes-validations": [{"rule": rule}]}}}}}}}]}})
}

/// Method, path, media type, body, and the code of the refusal; 0 is any.
fn bombs() -> Vec<(&'static str, String, &'static str, Bytes, u16)> {
    let aliases: String = (1..30)
        .map(|n| format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", ")))
        .collect();
    let map = format!("{MAPS}/x");
    let deploy = format!("{DEPLOYMENTS}/web");
    let copy = |n: usize| {
        let to = ["/data/b", "/data/a"][n % 2];
        json!({"op": "copy", "from": "/data", "path": to})
    };
    let operation = json!({"op": "test", "path": "/data", "value": 1});
    let many_terms = format!("{MAPS}?labelSelector={}", "a,".repeat(10_000));
    let terms: Vec<Value> =
        (0..10_000).map(|n| json!({"key": format!("k {n}"), "operator": "Odd"})).collect();
    let quoted = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let deep = format!("{{\"metadata\":{{\"name\":\"x\"}},\"data\":{}}}", quoted(100_000));
    let bytes = |text: String| Bytes::from(text);
    vec![
        ("POST", MAPS.into(), JSON, bytes("x".repeat((3 << 20) + 1)), 413),
        ("PUT", map.clone(), JSON, bytes(" ".repeat(3 << 20) + "{}"), 413),
        ("POST", MAPS.into(), JSON, bytes(deep.clone()), 400),
        ("POST", MAPS.into(), YAML, bytes(deep), 400),
        ("PATCH", map.clone(), MERGE_PATCH, bytes(format!("{{\"data\":{}}}", quoted(100))), 0),
        (
            "POST",
            format!("{MAPS}?fieldValidation=Strict"),
            JSON,
            bytes("{\"metadata\":{\"name\":\"y\"},\"data\":{\"a\":\"1\",\"a\":\"2\"}}".into()),
            400,
        ),
        (
            "POST",
            DEPLOYMENTS.into(),
            JSON,
            bytes(format!("{{\"spec\":{{\"replicas\":{}}}}}", "9".repeat(100_000))),
            400,
        ),
        ("POST", DEPLOYMENTS.into(), JSON, bytes("{\"spec\":{\"replicas\":1e999}}".into()), 400),
        ("POST", MAPS.into(), YAML, bytes(format!("a0: &a0 x\n{aliases}")), 400),
        (
            "PATCH",
            map.clone(),
            JSON_PATCH,
            bytes(json!((0..60).map(copy).collect::<Vec<_>>()).to_string()),
            413,
        ),
        ("PATCH", map.clone(), JSON_PATCH, bytes(json!(vec![operation; 10_001]).to_string()), 413),
        (
            "PATCH",
            deploy,
            STRATEGIC,
            bytes(json!({"spec": {"selector": {"matchExpressions": terms}}}).to_string()),
            422,
        ),
        ("GET", many_terms, JSON, Bytes::new(), 400),
        ("POST", DEFINITIONS.into(), JSON, bytes(costly_definition().to_string()), 422),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bombs_are_refused_soon() {
    let server = listen(Options::default()).await;
    let mut sender = client(&server, &User::system("test")).await;
    let map = json!({"metadata": {"name": "x"}, "data": {"a": "b"}}).to_string();
    assert_eq!(send(&mut sender, "POST", MAPS, JSON, map).await.status(), 201);
    let web = crate::api::deployment("web").to_string();
    assert_eq!(send(&mut sender, "POST", DEPLOYMENTS, JSON, web).await.status(), 201);
    let bombs = bombs();
    let mut before = 0;
    for round in 0..scale().max(2) {
        for (method, path, media, body, expected) in &bombs {
            let begin = Instant::now();
            let answer = send(&mut sender, method, path, media, body.clone()).await;
            let (code, text) = code(answer).await;
            let took = begin.elapsed();
            let what = format!("{method} {} of {} bytes", &path[..path.len().min(80)], body.len());
            let fits = if *expected == 0 { (400..500).contains(&code) } else { code == *expected };
            let shown: String = text.chars().take(300).collect();
            assert!(fits, "{what}: {code} {shown}");
            // What was sent may be told again, once.
            let most = body.len() + (64 << 10);
            assert!(text.len() < most, "{what}: an answer of {} bytes", text.len());
            assert!(took < SOON, "{what}: took {took:?}");
        }
        // The first round fills what is kept.
        if round == 0 {
            before = resident_bytes();
        }
    }
    if scale() > 1 {
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < GROWTH, "memory grew by {grown} bytes");
    }
    let (code, text) = code(send(&mut sender, "GET", &format!("{MAPS}/x"), JSON, "").await).await;
    assert!(code == 200 && text.contains("\"a\":\"b\""), "{text}");
}

/// One user with thousands of lists and watches is told to come again; others are served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_for_everything_is_told_to_wait() {
    let asked = 500 * scale();
    let options = Options { max_reads_in_flight: 8, max_streams: 16, ..Options::default() };
    let server = listen(options).await;
    let mut admin = client(&server, &User::system("test")).await;
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": "all"}]});
    let made = send(&mut admin, "POST", BINDINGS, JSON, binding.to_string()).await;
    assert_eq!(made.status(), 201);
    let long = json!({"metadata": {"name": "long"}, "data": {"a": "x".repeat(900_000)}});
    assert_eq!(send(&mut admin, "POST", MAPS, JSON, long.to_string()).await.status(), 201);
    let (abuser, other) = (User::new("abuser", &["all"]), User::new("other", &["all"]));
    let mut neighbour = client(&server, &other).await;
    for path in [format!("{MAPS}?watch=1"), MAPS.to_string()] {
        // Answers that nobody reads keep their places.
        let mut held = Vec::new();
        let mut refused = 0;
        // As many as a connection has room for, and then another connection.
        let mut sender = client(&server, &abuser).await;
        for n in 0..asked {
            if n % 200 == 199 {
                sender = client(&server, &abuser).await;
            }
            let answer = send(&mut sender, "GET", &path, JSON, "").await;
            match answer.status() {
                StatusCode::OK => held.push((sender.clone(), answer)),
                StatusCode::TOO_MANY_REQUESTS => {
                    assert_eq!(answer.headers()["retry-after"], "1");
                    refused += 1;
                }
                other => panic!("{path}: {other}"),
            }
            if n % 100 == 0 {
                let answer = send(&mut neighbour, "GET", &path, JSON, "").await;
                assert_eq!(answer.status(), 200, "{path}: the neighbour, after {n}");
                let answer = send(&mut admin, "GET", &path, JSON, "").await;
                assert_eq!(answer.status(), 200, "{path}: an administrator, after {n}");
            }
        }
        let share = if path.contains("watch") { 16 } else { 8 };
        assert!(!held.is_empty() && held.len() <= share, "{path}: {} were let in", held.len());
        assert_eq!(held.len() + refused, asked, "{path}");
    }
}

/// Paths as nobody's client sends them: none leads anywhere.
#[tokio::test]
async fn paths_that_want_to_be_others() {
    let server = listen(Options::default()).await;
    let user = User::system("test");
    let mut sender = client(&server, &user).await;
    let map = json!({"metadata": {"name": "x"}, "data": {"a": "b"}}).to_string();
    assert_eq!(send(&mut sender, "POST", MAPS, JSON, map).await.status(), 201);
    let base = "/api/v1/namespaces";
    let paths: Vec<Vec<u8>> = [
        &b"/default/configmaps/../secrets"[..],
        b"/default/configmaps/..%2fsecrets",
        b"/default/configmaps/%2e%2e/secrets",
        b"/default/configmaps/x%2f..%2fy",
        b"/default%2fconfigmaps/configmaps/x",
        b"/default%2Fconfigmaps%2Fx",
        b"/..%2f/configmaps/x",
        b"/../configmaps/x",
        b"/default/configmaps/x%00",
        b"/default/configmaps/%00",
        b"/default%00/configmaps/x",
        b"/default/configmaps/x%0d%0aa:b",
        b"/default/configmaps/%ff%fe",
        b"/default/configmaps/\xff\xfe",
        "/default/configmaps/x\u{200b}".as_bytes(),
        "/default/configmaps/ｘ".as_bytes(),
        "/default/config\u{ad}maps/x".as_bytes(),
        b"/default//configmaps/x",
        b"/default/configmaps//x",
        b"/default/./configmaps/x",
        b"/default/configmaps/.",
        b"/default/configmaps/..",
        b"/default/configmaps/x%",
        b"/default/configmaps/x%2",
        b"/default/configmaps/x%zz",
        b"/default/configmaps/x;/status",
        b"/default/configmaps/x/..;/y",
        b"/default/configmaps/x/status/../..",
        b"/default\\configmaps\\x",
    ]
    .into_iter()
    .map(|path| [base.as_bytes(), path].concat())
    .collect();
    for path in &paths {
        for method in ["GET", "DELETE", "PUT"] {
            let mut io = server.connect(Some(&user), "http/1.1").await;
            let mut request = format!("{method} ").into_bytes();
            request.extend(path);
            request.extend(
                b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
            );
            io.write_all(&request).await.unwrap();
            let mut answer = Vec::new();
            let reading = io.read_to_end(&mut answer);
            // How the peer ends does not matter.
            let _ = tokio::time::timeout(LIMIT, reading).await.expect("an end");
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let shown = String::from_utf8_lossy(path);
            let code = answer.split(' ').nth(1).unwrap_or("none");
            let refused = matches!(code, "400" | "404" | "405");
            let fits = refused || (method == "PUT" && matches!(code, "415" | "422"));
            assert!(fits, "{method} {shown}: {answer}");
        }
    }
    // Names that only look like others make no objects.
    for name in ["..", "a/b", "a%2fb", "x\u{0}", "ｘ", "X", "x\u{200b}", " x"] {
        let object = json!({"metadata": {"name": name}}).to_string();
        let (code, text) = code(send(&mut sender, "POST", MAPS, JSON, object).await).await;
        assert_eq!(code, 422, "{name:?}: {text}");
    }
    let (_, list) = code(send(&mut sender, "GET", MAPS, JSON, "").await).await;
    let list: Value = serde_json::from_str(&list).unwrap();
    let names: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|one| &one["metadata"]["name"]).collect();
    assert_eq!(names, ["x"]);
}
