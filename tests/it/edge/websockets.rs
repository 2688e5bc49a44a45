//! Watches over WebSocket, as dashboards open them.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use wasmfleet::apiserver::User;
use wasmfleet::apiserver::listener::{Limits, serve};

use super::connections::{LIMIT, Served};
use crate::api::{Cluster, MAPS};

type Socket = WebSocketStream<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>;

async fn start() -> (Cluster, Served) {
    let cluster = Cluster::new().await;
    let api = cluster.server.clone();
    let serve = |listener, tls, stop| serve(api, listener, tls, Limits::default(), stop);
    let server = Served::start(serve).await;
    (cluster, server)
}

/// Opens a watch; the subprotocol that was agreed to comes with it.
async fn open(
    server: &Served,
    user: Option<&User>,
    path: &str,
    protocols: &str,
) -> Result<(Socket, String), Error> {
    let io = server.connect(user, "http/1.1").await;
    let mut request = format!("wss://127.0.0.1{path}").into_client_request().unwrap();
    if !protocols.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    let (socket, response) = tokio_tungstenite::client_async(request, io).await?;
    let agreed = response.headers().get("sec-websocket-protocol");
    Ok((socket, agreed.map(|v| v.to_str().unwrap().to_string()).unwrap_or_default()))
}

async fn next(socket: &mut Socket) -> Option<Message> {
    tokio::time::timeout(LIMIT, socket.next()).await.expect("in time").map(Result::unwrap)
}

async fn event(socket: &mut Socket) -> String {
    let message = next(socket).await.expect("an event");
    let event: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
    let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
    format!("{} {name}", event["type"].as_str().unwrap())
}

#[tokio::test]
async fn events_come_as_text_messages() {
    let (cluster, server) = start().await;
    let admin = User::new("admin", &["system:masters"]);
    for name in ["a", "b"] {
        cluster.config_map(name, json!({})).await;
    }
    let path = format!("{MAPS}?watch=1");
    let (mut socket, protocol) = open(&server, Some(&admin), &path, "").await.unwrap();
    assert_eq!(protocol, "");
    assert_eq!([event(&mut socket).await, event(&mut socket).await], ["ADDED a", "ADDED b"]);
    cluster.delete(&format!("{MAPS}/a"), &json!({})).await.expect(200);
    assert_eq!(event(&mut socket).await, "DELETED a");
    socket.send(Message::Ping("hello".into())).await.unwrap();
    assert_eq!(next(&mut socket).await, Some(Message::Pong("hello".into())));
    socket.close(None).await.unwrap();
    while let Some(message) = next(&mut socket).await {
        assert!(message.is_close());
    }

    // A browser's offer is agreed to; what is too old is an event here too.
    cluster.store.compact(cluster.store.revision()).await.unwrap();
    let path = format!("{MAPS}?watch=1&resourceVersion=1");
    let offer = "base64.binary.k8s.io, other";
    let (mut socket, protocol) = open(&server, Some(&admin), &path, offer).await.unwrap();
    assert_eq!(protocol, "base64.binary.k8s.io");
    assert_eq!(event(&mut socket).await, "ERROR -");
    assert!(next(&mut socket).await.unwrap().is_close());
}

#[tokio::test]
async fn a_stop_closes_them_well() {
    let (cluster, server) = start().await;
    let admin = User::new("admin", &["system:masters"]);
    cluster.config_map("a", json!({})).await;
    let path = format!("{MAPS}?watch=1");
    let (mut socket, _) = open(&server, Some(&admin), &path, "").await.unwrap();
    assert_eq!(event(&mut socket).await, "ADDED a");
    let (late, end) = tokio::join!(server.tasks.shut_down(LIMIT), next(&mut socket));
    assert!(end.unwrap().is_close());
    assert_eq!(late, [""; 0]);
}

#[tokio::test]
async fn a_browser_shows_its_token_as_a_subprotocol() {
    use base64::Engine;
    let (cluster, server) = start().await;
    let account = "/api/v1/namespaces/default/serviceaccounts";
    cluster.post(account, &json!({"metadata": {"name": "a"}})).await.expect(201);
    let asked = cluster.post(&format!("{account}/a/token"), &json!({"spec": {}})).await;
    let token = asked.expect(201)["status"]["token"].as_str().unwrap().to_string();
    let offer = |token: &str| {
        let text = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token);
        format!("base64url.bearer.authorization.k8s.io.{text}, base64.binary.k8s.io")
    };
    let path = format!("{MAPS}?watch=1");
    let code = async |protocols: &str| match open(&server, None, &path, protocols).await {
        Ok((_, protocol)) => (101, protocol),
        Err(Error::Http(response)) => (response.status().as_u16(), String::new()),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(code("").await.0, 401);
    assert_eq!(code(&offer("wrong")).await.0, 401);
    assert_eq!(code(&offer(&token)).await.0, 403, "known, and allowed nothing");
    let binding = json!({"metadata": {"name": "b"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "default"}]});
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    cluster.post(bindings, &binding).await.expect(201);
    assert_eq!(code(&offer(&token)).await, (101, "base64.binary.k8s.io".into()));
}
