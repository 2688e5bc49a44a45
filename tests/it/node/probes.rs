//! Probes on real sockets, in real time.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use wasmfleet::runtime::fake::Script;

use super::harness::Rig;

/// Answers 200 or 503 to every request.
async fn serve(listener: TcpListener, healthy: Arc<AtomicBool>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let status = if healthy.load(Ordering::SeqCst) { "200 OK" } else { "503 No" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

#[tokio::test]
async fn readiness_and_liveness_follow_the_answers() {
    let rig = Rig::start().await;
    // The address that the node's first pod gets.
    let listener = TcpListener::bind("127.64.1.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let healthy = Arc::new(AtomicBool::new(true));
    tokio::spawn(serve(listener, healthy.clone()));
    let get = json!({"httpGet": {"path": "/ok", "port": port}, "periodSeconds": 1,
        "failureThreshold": 1});
    let spec = json!({"terminationGracePeriodSeconds": 1,
        "containers": [{"name": "web", "image": "hello",
            "startupProbe": {"tcpSocket": {"port": port}, "periodSeconds": 1},
            "readinessProbe": get, "livenessProbe": get}]});
    rig.create("a", spec).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    healthy.store(false, Ordering::SeqCst);
    rig.pod("a", |pod| {
        let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
        statuses.is_some_and(|list| !list[0].ready)
    })
    .await;
    rig.pod("a", |pod| super::harness::summary(pod).contains("running/1")).await;
    healthy.store(true, Ordering::SeqCst);
    rig.pod("a", |pod| super::harness::summary(pod).starts_with("Running ready")).await;
    assert!(rig.has_told("Unhealthy"));
}

/// The API takes no status by which a container that ended well runs again.
#[tokio::test]
async fn a_handler_that_fails_its_liveness_probe_runs_again_on_failure() {
    let rig = Rig::start().await;
    rig.runtime.script_default(Script::serves());
    let spec = json!({"restartPolicy": "OnFailure", "containers": [{"name": "web", "image": "hello",
        "livenessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 1, "failureThreshold": 1}}]});
    rig.create("a", spec).await;
    let pod = rig.pod("a", |pod| super::harness::summary(pod).contains("CrashLoopBackOff/1")).await;
    let statuses =
        pod.status.as_ref().and_then(|s| s.container_statuses.as_ref()).expect("statuses");
    let ended = statuses[0].last_state.as_ref().and_then(|state| state.terminated.as_ref());
    assert_eq!(ended.map(|end| end.exit_code), Some(0));
}

#[tokio::test]
async fn a_probe_that_never_passes_says_why() {
    let rig = Rig::start().await;
    let spec = json!({"containers": [{"name": "web", "image": "hello",
        "readinessProbe": {"httpGet": {"path": "/ok", "port": 1}, "periodSeconds": 1,
            "failureThreshold": 1}}]});
    rig.create("a", spec).await;
    rig.pod_is("a", "Running unready web:running/0").await;
    let notice = rig.told("Unhealthy").await;
    let text = "Readiness probe failed: Get \"http://127.64.1.2:1/ok\": ";
    assert!(notice.message.starts_with(text), "{}", notice.message);
}

#[tokio::test]
async fn a_probe_of_an_unknown_port_names_it() {
    let rig = Rig::start().await;
    let spec = json!({"containers": [{"name": "web", "image": "hello",
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {"tcpSocket": {"port": "htp"}, "periodSeconds": 1,
            "failureThreshold": 1}}]});
    rig.create("a", spec).await;
    let text = "Readiness probe failed: container \"web\" has no port named \"htp\"";
    assert_eq!(rig.told("Unhealthy").await.message, text);
}

/// Answers health checks with this status; one of a service that is not `db` as unknown.
async fn serve_grpc(listener: TcpListener, status: Arc<AtomicU8>) {
    while let Ok((stream, _)) = listener.accept().await {
        let status = status.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let status = status.load(Ordering::SeqCst);
            async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let asked = request.into_body().collect().await.unwrap().to_bytes();
                let is_known = asked[..] == [0, 0, 0, 0, 4, 10, 2, b'd', b'b'];
                let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
                let mut trailers = HeaderMap::new();
                let code = if is_known { "0" } else { "5" };
                trailers.insert("grpc-status", code.parse().unwrap());
                let frames = [Frame::data(message), Frame::trailers(trailers)];
                let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
                Ok::<_, Infallible>(Response::new(body))
            }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

#[tokio::test]
async fn grpc_probes_follow_the_health_protocol() {
    let rig = Rig::start().await;
    let listener = TcpListener::bind("127.64.1.2:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let status = Arc::new(AtomicU8::new(1));
    tokio::spawn(serve_grpc(listener, status.clone()));
    let probe = |service: &str| {
        json!({"grpc": {"port": port, "service": service}, "periodSeconds": 1,
            "failureThreshold": 1, "timeoutSeconds": 30})
    };
    let spec = json!({"containers": [{"name": "web", "image": "hello",
        "startupProbe": probe("db"), "readinessProbe": probe("db")}]});
    rig.create("a", spec).await;
    rig.pod_is("a", "Running ready web:running/0").await;
    status.store(2, Ordering::SeqCst);
    rig.pod_is("a", "Running unready web:running/0").await;
    let told = rig.told("Unhealthy").await;
    let text = "Readiness probe failed: service unhealthy (responded with \"NOT_SERVING\")";
    assert_eq!(told.message, text);
    // What the server does not know is not well.
    rig.delete("a", Some(0)).await;
    rig.gone("a").await;
    rig.notices.lock().clear();
    let spec = json!({"containers": [{"name": "web", "image": "hello",
        "readinessProbe": probe("other")}]});
    rig.create("b", spec).await;
    rig.told("Unhealthy").await;
}
