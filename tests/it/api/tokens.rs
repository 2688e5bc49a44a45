//! Tokens of service accounts: asked for, shown, and worth nothing once what they are bound to is
//! gone.

use std::time::Duration;

use super::*;
use wasmfleet::client::{Target, WriteOptions};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const DEFAULT_TOKEN: &str = "/api/v1/namespaces/default/serviceaccounts/default/token";
const REVIEWS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ROBOT: &str = "system:serviceaccount:default:default";
const NO_SPEC: Value = Value::Null;

fn request(spec: Value) -> Value {
    let spec = if spec.is_null() { json!({}) } else { spec };
    json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec})
}

fn bound_to(object: &Value) -> Value {
    let meta = &object["metadata"];
    let kind = object["kind"].as_str().unwrap();
    request(json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1",
        "name": meta["name"], "uid": meta["uid"]}}))
}

impl Cluster {
    async fn token(&self, request: &Value) -> String {
        let answer = self.post(DEFAULT_TOKEN, request).await.expect(201);
        answer["status"]["token"].as_str().unwrap().to_string()
    }

    /// A GET of someone who has nothing but a token.
    async fn get_with(&self, token: &str, path: &str) -> Answer {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        let request = request.body(Full::new(Bytes::new())).unwrap();
        Answer::of(door::handle(self.server.clone(), None, request).await).await
    }

    async fn is_known(&self, token: &str) -> bool {
        match self.get_with(token, "/api/v1").await.code {
            200 => true,
            401 => false,
            other => panic!("{other}"),
        }
    }

    async fn review(&self, token: &str, audiences: Value) -> Value {
        let spec = json!({"token": token, "audiences": audiences});
        self.post(REVIEWS, &json!({"spec": spec})).await.expect(201)["status"].clone()
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_stands_for_its_account_until_it_expires() {
    let cluster = Cluster::new().await;
    let answer = cluster.post(DEFAULT_TOKEN, &request(json!({"expirationSeconds": 600}))).await;
    let answer = answer.expect(201);
    assert_eq!(answer["kind"], "TokenRequest");
    assert_eq!(answer["metadata"]["name"], "default");
    assert_eq!(answer["status"]["expirationTimestamp"], "2026-01-01T00:10:00Z");
    let token = answer["status"]["token"].as_str().unwrap();
    cluster.get_with(token, "/apis/apps/v1").await.expect(200);
    let refused = cluster.get_with(token, PODS).await.failure(403);
    assert!(refused.contains(&format!("User \"{ROBOT}\" cannot list")), "{refused}");
    tokio::time::advance(Duration::from_secs(599)).await;
    assert!(cluster.is_known(token).await);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!cluster.is_known(token).await);
    assert_eq!(cluster.get_with(token, PODS).await.failure(401), "Unauthorized");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_is_nobodys() {
    let cluster = Cluster::new().await;
    let other = Cluster::new().await;
    let foreign = other.token(&request(NO_SPEC)).await;
    let vault = cluster.token(&request(json!({"audiences": ["vault"]}))).await;
    let none = "eyJhbGciOiJub25lIn0.e30.";
    for token in [foreign.as_str(), &vault, none, "x", "a.b.c"] {
        // Not even what the anonymous may see.
        for path in [PODS, "/version", "/livez", "/v2/"] {
            let answer = cluster.get_with(token, path).await;
            assert_eq!(answer.failure(401), "Unauthorized", "{token} {path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_ends_with_what_it_is_bound_to() {
    let cluster = Cluster::new().await;
    let pod = cluster.pod("p").await;
    let token = cluster.token(&bound_to(&pod)).await;
    let plain = cluster.token(&request(NO_SPEC)).await;
    assert!(cluster.is_known(&token).await);
    cluster.delete(&format!("{PODS}/p"), &json!({})).await.expect(200);
    assert!(!cluster.is_known(&token).await);
    // Another pod of the same name is another pod.
    cluster.pod("p").await;
    assert!(!cluster.is_known(&token).await);
    assert!(cluster.is_known(&plain).await);

    let node = cluster.post("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await;
    let node = node.expect(201);
    let on_node = cluster.token(&bound_to(&node)).await;
    assert!(cluster.is_known(&on_node).await);
    let bound = cluster.pod("q").await;
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/q/binding"), &binding).await.expect(201);
    let of_pod = cluster.token(&bound_to(&bound)).await;
    let status = cluster.review(&of_pod, json!([])).await;
    let extra = &status["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["n1"]));
    assert_eq!(extra["authentication.kubernetes.io/pod-name"], json!(["q"]));
    cluster.delete("/api/v1/nodes/n1", &json!({})).await.expect(200);
    assert!(!cluster.is_known(&on_node).await && !cluster.is_known(&of_pod).await);

    cluster.delete(&format!("{ACCOUNTS}/default"), &json!({})).await.expect(200);
    assert!(!cluster.is_known(&plain).await);
    let again = json!({"metadata": {"name": "default"}});
    cluster.post(ACCOUNTS, &again).await.expect(201);
    assert!(!cluster.is_known(&plain).await);
}

/// A pod that takes its time to go is heard for a minute more than it was given.
#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_go_loses_its_token() {
    let cluster = Cluster::new().await;
    let mut slow = pod("slow");
    slow["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let slow = cluster.post(PODS, &slow).await.expect(201);
    let token = cluster.token(&bound_to(&slow)).await;
    cluster.delete(&format!("{PODS}/slow"), &json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert!(cluster.is_known(&token).await);
    tokio::time::advance(Duration::from_secs(62)).await;
    assert!(!cluster.is_known(&token).await);
}

#[tokio::test(start_paused = true)]
async fn requests_that_make_no_sense_are_refused() {
    let cluster = Cluster::new().await;
    let refused = async |spec: Value, code: u16| {
        cluster.post(DEFAULT_TOKEN, &request(spec)).await.failure(code)
    };
    let short = refused(json!({"expirationSeconds": 599}), 422).await;
    assert!(short.contains("may not specify a duration less than 10 minutes"), "{short}");
    refused(json!({"expirationSeconds": (1i64 << 32) + 1}), 422).await;
    refused(json!({"audiences": vec!["a"; 33]}), 422).await;
    refused(json!({"boundObjectRef": {"kind": "Secret", "apiVersion": "v1", "name": "s"}}), 400)
        .await;
    let pod = |name: &str, uid: &str| json!({"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": name, "uid": uid}});
    refused(pod("none", ""), 404).await;
    cluster.pod("p").await;
    refused(pod("p", "another"), 409).await;
    cluster.post(ACCOUNTS, &json!({"metadata": {"name": "robot"}})).await.expect(201);
    let other = format!("{ACCOUNTS}/robot/token");
    let message = cluster.post(&other, &request(pod("p", ""))).await.failure(400);
    assert!(message.contains("different serviceaccount name"), "{message}");
    cluster.post(&format!("{ACCOUNTS}/none/token"), &request(NO_SPEC)).await.failure(404);
    cluster.get(DEFAULT_TOKEN).await.failure(405);
    cluster.post(DEFAULT_TOKEN, &json!({"kind": "Pod", "apiVersion": "v1"})).await.failure(400);
    let dry = cluster.post(&format!("{DEFAULT_TOKEN}?dryRun=All"), &request(NO_SPEC)).await;
    assert_eq!(dry.expect(201)["status"]["token"], "");
}

/// As client-go sends it: a TokenRequest with `expirationSeconds: 601` in protobuf.
#[tokio::test(start_paused = true)]
async fn a_request_in_protobuf_is_understood() {
    let cluster = Cluster::new().await;
    let field = |number: u8, bytes: &[u8]| {
        let mut out = vec![number << 3 | 2, u8::try_from(bytes.len()).unwrap()];
        out.extend(bytes);
        out
    };
    let type_meta = [field(1, b"authentication.k8s.io/v1"), field(2, b"TokenRequest")].concat();
    let spec = [field(1, b"vault"), vec![4 << 3, 0xd9, 0x04]].concat();
    let body = [b"k8s\0".to_vec(), field(1, &type_meta), field(2, &field(2, &spec))].concat();
    let headers = [("content-type", "application/vnd.kubernetes.protobuf")];
    let answer = cluster.send("POST", DEFAULT_TOKEN, &headers, body).await.expect(201);
    assert_eq!(answer["spec"]["expirationSeconds"], 601);
    assert_eq!(answer["spec"]["audiences"], json!(["vault"]));
}

#[tokio::test(start_paused = true)]
async fn an_agent_gets_tokens_for_its_own_pods_only() {
    let cluster = Cluster::new().await;
    let pod = cluster.pod("p").await;
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    let ask = async |node: &str, account: &str, body: Value| {
        let target = Target {
            resource: wasmfleet::api::Gvr::new("", "v1", "serviceaccounts", true),
            namespace: Some("default".into()),
            name: Some(account.into()),
            subresource: Some("token".into()),
        };
        let body = wasmfleet::api::Object::from_value(body).unwrap();
        let api = cluster.server.api(User::node(node));
        api.create(&target, body, &WriteOptions::default()).await.map(|_| ())
    };
    ask("n1", "default", bound_to(&pod)).await.unwrap();
    let mut no_uid = bound_to(&pod);
    no_uid["spec"]["boundObjectRef"].as_object_mut().unwrap().remove("uid");
    let mut node = bound_to(&pod);
    node["spec"]["boundObjectRef"]["kind"] = "Node".into();
    for (agent, body, why) in [
        ("n2", bound_to(&pod), "bound to a pod scheduled on a different node"),
        ("n1", request(NO_SPEC), "not bound to a pod"),
        ("n1", no_uid, "with a pod binding without a uid"),
        ("n1", node, "not bound to a pod"),
    ] {
        let error = ask(agent, "default", body).await.unwrap_err();
        assert_eq!(error.code, 403);
        assert!(error.message.contains(why), "{}", error.message);
    }
    cluster.post(ACCOUNTS, &json!({"metadata": {"name": "robot"}})).await.expect(201);
    assert_eq!(ask("n1", "robot", bound_to(&pod)).await.unwrap_err().code, 400);
}

#[tokio::test(start_paused = true)]
async fn reviews_tell_whom_a_token_stands_for() {
    let cluster = Cluster::new().await;
    let token = cluster.token(&request(NO_SPEC)).await;
    let status = cluster.review(&token, json!([])).await;
    assert_eq!(status["authenticated"], true);
    assert_eq!(status["user"]["username"], ROBOT);
    assert_eq!(
        status["user"]["groups"],
        json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"])
    );
    let account = cluster.get(&format!("{ACCOUNTS}/default")).await.expect(200);
    assert_eq!(status["user"]["uid"], account["metadata"]["uid"]);
    let vault = cluster.token(&request(json!({"audiences": ["vault", "other"]}))).await;
    let status = cluster.review(&vault, json!(["vault", "third"])).await;
    assert_eq!((&status["authenticated"], &status["audiences"]), (&json!(true), &json!(["vault"])));
    for (token, audiences) in
        [(vault.as_str(), json!([])), (&token, json!(["vault"])), ("x", json!([]))]
    {
        let status = cluster.review(token, audiences).await;
        assert!(status.get("authenticated").is_none(), "{status}");
        assert!(status["error"].as_str().unwrap().starts_with("invalid bearer token"));
    }
    cluster.post(REVIEWS, &json!({"spec": {}})).await.failure(400);
    cluster.get(REVIEWS).await.failure(405);
    // Accounts may read the key, and not ask about others.
    cluster.get_with(&token, "/openid/v1/jwks").await.expect(200);
    cluster.get_with(&token, "/.well-known/other").await.failure(403);
}

#[tokio::test(start_paused = true)]
async fn others_can_verify_tokens() {
    let cluster = Cluster::new().await;
    let document = cluster.get("/.well-known/openid-configuration").await.expect(200);
    assert_eq!(document["id_token_signing_alg_values_supported"], json!(["ES256"]));
    let keys = cluster.get("/openid/v1/jwks").await;
    assert_eq!(keys.header("content-type"), "application/jwk-set+json");
    assert_eq!(keys.expect(200)["keys"][0]["crv"], "P-256");
    assert_eq!(cluster.get("/openid/v1/other").await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn pods_mount_the_token_of_their_account() {
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(Pki::open(dir.path()).unwrap());
    let cluster = Cluster::with_pki(pki.clone()).await;
    let pod = cluster.pod("p").await;
    let mount = &pod["spec"]["containers"][0]["volumeMounts"][0];
    assert_eq!(mount["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    assert_eq!(mount["name"], pod["spec"]["volumes"][0]["name"]);
    // A namespace has what the volume is made of from its first moment.
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": "new"}})).await.expect(201);
    let map = "/api/v1/namespaces/new/configmaps/kube-root-ca.crt";
    assert_eq!(cluster.get(map).await.expect(200)["data"]["ca.crt"], pki.ca_pem());

    let patch = json!({"automountServiceAccountToken": false});
    cluster.merge(&format!("{ACCOUNTS}/default"), &patch).await.expect(200);
    assert!(cluster.pod("q").await["spec"].get("volumes").is_none());
    // The key outlives the server.
    let token = cluster.token(&request(NO_SPEC)).await;
    let opened = Arc::new(Pki::open(dir.path()).unwrap());
    let again = Cluster::assemble(cluster.store.clone(), Options::default(), None, Some(opened));
    assert!(again.await.is_known(&token).await);
}
