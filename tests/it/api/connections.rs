//! What the API server does with others: logs from nodes, images in the registry, its own address.

use std::convert::Infallible;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::*;

/// A node that answers every request with its path and query, `missing` with a failure.
fn node(cluster: &Cluster, name: &str) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let service = service_fn(|request: Request<hyper::body::Incoming>| async move {
        let uri = request.uri().path_and_query().unwrap().to_string();
        let response = http::Response::builder();
        let response = match uri.contains("previous") {
            true => response.status(400).body(Full::new(Bytes::from("no earlier run"))),
            false => response.body(Full::new(Bytes::from(uri))),
        };
        Ok::<_, Infallible>(response.unwrap())
    });
    tokio::spawn(async move {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server.serve_connection(TokioIo::new(far), service).await
    });
    cluster.nodes.attach(name, near);
}

#[tokio::test(start_paused = true)]
async fn logs_come_from_the_node() {
    let cluster = Cluster::new().await;
    cluster.pod("p").await;
    let path = format!("{PODS}/p/log");
    assert!(cluster.get(&path).await.failure(400).contains("does not have a host"));
    let binding = json!({"target": {"name": "n1"}});
    cluster.post(&format!("{PODS}/p/binding"), &binding).await.expect(201);
    cluster.get(&path).await.failure(503);
    node(&cluster, "n1");
    let log = cluster.get(&path).await;
    assert_eq!((log.code, log.text()), (200, "/logs/default/p/main"));
    assert_eq!(log.header("content-type"), "text/plain");
    let query =
        "container=main&follow=true&tailLines=5&timestamps=1&sinceTime=2026-01-01T00:00:00Z";
    let log = cluster.get(&format!("{path}?{query}")).await;
    assert_eq!(
        log.text(),
        "/logs/default/p/main?tailLines=5&follow=true&timestamps=true&sinceTime=2026-01-01T00:00:00Z"
    );
    let previous = cluster.get(&format!("{path}?previous=true")).await;
    assert_eq!(previous.failure(400), "no earlier run");
    let errors = cluster.get(&format!("{path}?stream=Stderr")).await;
    assert_eq!(errors.text(), "/logs/default/p/main?stream=Stderr");
    for bad in ["container=none", "tailLines=x", "sinceTime=noon"] {
        cluster.get(&format!("{path}?{bad}")).await.failure(400);
    }
    for bad in ["tailLines=-1", "sinceSeconds=0", "limitBytes=0", "stream=both"] {
        cluster.get(&format!("{path}?{bad}")).await.failure(422);
    }
    cluster.get(&format!("{PODS}/none/log")).await.failure(404);
}

#[tokio::test(start_paused = true)]
async fn images_are_checked_when_they_are_applied() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::with_images(dir.path()).await;
    let mut body = deployment("web");
    let image = |body: &mut Value, name: &str| {
        body["spec"]["template"]["spec"]["containers"][0]["image"] = name.into();
    };
    image(&mut body, "No Image!");
    let message = cluster.post(DEPLOYMENTS, &body).await.failure(422);
    assert!(message.contains("spec.template.spec.containers[0].image"), "{message}");
    // What is not there yet may be pushed later.
    image(&mut body, "hello:v1");
    cluster.post(DEPLOYMENTS, &body).await.expect(201);
    let patch = json!([{"op": "replace",
        "path": "/spec/template/spec/containers/0/image", "value": "No Image!"}]);
    let media = [("content-type", "application/json-patch+json")];
    let path = format!("{DEPLOYMENTS}/web");
    cluster.send("PATCH", &path, &media, patch.to_string()).await.failure(422);
    assert_eq!(cluster.get("/v2/").await.code, 200);
    let missing = cluster.api().get_bytes("/v2/hello/manifests/v1").await;
    assert_eq!(missing.unwrap_err().code, 404);
    // A registry that cannot be read is not the object's fault.
    std::fs::create_dir_all(dir.path().join("repositories/broken/_tags/v1")).unwrap();
    image(&mut body, "broken:v1");
    cluster.put(&path, &body).await.failure(500);
}

#[tokio::test(start_paused = true)]
async fn the_api_tells_its_address() {
    let cluster = Cluster::new().await;
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    cluster.get(slice).await.failure(404);
    for address in ["192.0.2.7:6443", "0.0.0.0:7443"] {
        cluster.server.bootstrap(Some(address.parse().unwrap())).await.unwrap();
    }
    let slice = cluster.get(slice).await.expect(200);
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["127.0.0.1"]));
    assert_eq!(slice["ports"][0]["port"], 7443);
    assert_eq!(slice["metadata"]["labels"]["kubernetes.io/service-name"], "kubernetes");
}

#[tokio::test(start_paused = true)]
async fn a_client_in_the_process_meets_the_same_rules() {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
    use wasmfleet::client::{Client, ListOptions, Patch};
    let cluster = Cluster::new().await;
    let client = Client::new(cluster.api(), "test");
    let meta = |name: &str, namespace: &str| ObjectMeta {
        name: Some(name.into()),
        namespace: Some(namespace.into()),
        ..ObjectMeta::default()
    };
    let map = ConfigMap { metadata: meta("x", "default"), ..ConfigMap::default() };
    let mut made: ConfigMap = client.create(&map).await.unwrap();
    assert!(client.create(&map).await.unwrap_err().is_already_exists());
    let lost = ConfigMap { metadata: meta("x", "none"), ..ConfigMap::default() };
    assert!(client.create(&lost).await.unwrap_err().is_not_found());
    made.data = Some([("a".to_string(), "b".to_string())].into());
    let updated = client.update(&made).await.unwrap();
    assert!(client.update(&map).await.is_ok());
    assert!(client.update(&updated).await.unwrap_err().is_conflict());
    let patch = Patch::Merge(json!({"data": {"c": "d"}}));
    let patched: ConfigMap = client.patch("default", "x", patch).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 1);
    let all: Vec<ConfigMap> = client.list(None, &ListOptions::default()).await.unwrap();
    assert_eq!(all.len(), 1);
    client.delete::<ConfigMap>("default", "x", &Default::default()).await.unwrap();
    let nobody = Client::new(cluster.server.api(User::new("nobody", &[])), "test");
    assert_eq!(nobody.get::<ConfigMap>("default", "x").await.unwrap_err().code, 403);
}
