//! How the server stops: not ready first, then no new connections, streams ended, what is in flight
//! finished.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;

use tokio::net::TcpStream;
use tokio::sync::oneshot;
use wasmfleet::apiserver::listener::{Limits, serve};
use wasmfleet::apiserver::{User, full};

use super::connections::{LIMIT, Served, get, served_within, text};
use crate::api::Cluster;
use crate::cluster::until_nobody_listens;

type Sender = hyper::client::conn::http2::SendRequest<Empty<Bytes>>;

async fn http2(server: &Served, user: &User) -> (Sender, tokio::task::JoinHandle<()>) {
    let io = TokioIo::new(server.connect(Some(user), "h2").await);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let ended = tokio::spawn(async move {
        let _ = connection.await;
    });
    (sender, ended)
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("https://127.0.0.1{path}")).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn readiness_ends_before_service_does() {
    let cluster = Cluster::new().await;
    let (api, limits) = (
        cluster.server.clone(),
        Limits { shutdown_delay: Duration::from_secs(1), ..Limits::default() },
    );
    let server = Served::start(|listener, tls, stop| serve(api, listener, tls, limits, stop)).await;
    let admin = User::new("admin", &["system:masters"]);
    let (mut sender, ended) = http2(&server, &admin).await;
    let ready = sender.send_request(request("/readyz")).await.unwrap();
    assert_eq!((ready.status().as_u16(), text(ready).await), (200, "ok".into()));
    let path = "/api/v1/namespaces/default/configmaps?watch=true";
    let mut watch = sender.send_request(request(path)).await.unwrap().into_body();
    let tasks = &server.tasks;
    let client = async {
        loop {
            let ready = sender.send_request(request("/readyz")).await.unwrap();
            if ready.status() == 500 {
                assert!(text(ready).await.contains("[-]shutdown failed"));
                break;
            }
        }
        // Not ready, and serving all the same, also who comes anew.
        let live = sender.send_request(request("/livez")).await.unwrap();
        assert_eq!(live.status(), 200);
        let (mut other, _) = http2(&server, &admin).await;
        let list = other.send_request(request("/api/v1/namespaces")).await.unwrap();
        assert_eq!(list.status(), 200);
        // The watch ends well, and the connection is closed.
        while let Some(frame) = watch.frame().await {
            frame.unwrap();
        }
        tokio::time::timeout(LIMIT, ended).await.unwrap().unwrap();
    };
    let (late, ()) = tokio::join!(tasks.shut_down(LIMIT), client);
    assert_eq!(late, [""; 0]);
    until_nobody_listens(server.address);
}

#[tokio::test]
async fn what_is_in_flight_is_finished() {
    let (begun, wait_begun) = oneshot::channel();
    let (finish, wait_finish) = oneshot::channel::<()>();
    let both = Arc::new(Mutex::new(Some((begun, wait_finish))));
    let limits = Limits { drain_timeout: LIMIT, ..Limits::default() };
    let server = served_within(limits, move |_, _| {
        let both = both.lock().take();
        async move {
            if let Some((begun, finish)) = both {
                begun.send(()).unwrap();
                finish.await.unwrap();
            }
            Response::new(full("finished"))
        }
    })
    .await;
    let io = TokioIo::new(server.connect(None, "http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let client = async {
        let answer = sender.send_request(get("/")).await.unwrap();
        assert_eq!(answer.headers()["connection"], "close");
        text(answer).await
    };
    let stop = async {
        wait_begun.await.unwrap();
        let release = async {
            // The listener is closed once the stop is seen.
            while TcpStream::connect(server.address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            finish.send(()).unwrap();
        };
        tokio::join!(server.tasks.shut_down(LIMIT), release).0
    };
    let (answer, late) = tokio::join!(client, stop);
    assert_eq!((answer, late), ("finished".into(), vec![]));
}
