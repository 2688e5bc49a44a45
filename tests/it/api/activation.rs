//! Connections to a Service whose pods were scaled to zero: the real proxy, as a node has it, over the
//! API in this process, with real sockets.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wasmfleet::base::Tasks;
use wasmfleet::base::clock::RealClock;
use wasmfleet::client::Client;
use wasmfleet::client::cache::Cache;
use wasmfleet::proxy::Proxy;

use super::*;

const LIMIT: Duration = Duration::from_secs(60);
const ZERO: &str = "wasmfleet.dev/ScaledToZero";
const AWAITED: &str = "wasmfleet.dev/Awaited";
const STATUS: &str = "/api/v1/namespaces/default/services/web/status";
const STRATEGIC: &[(&str, &str)] = &[("content-type", "application/strategic-merge-patch+json")];

fn conditions(kinds: &[&str]) -> Value {
    let of = |kind: &&str| {
        json!({"type": kind, "status": "True", "reason": "R", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let list: Vec<Value> = kinds.iter().map(of).collect();
    json!({"status": {"conditions": list}})
}

/// A Service, and a proxy of the node `n1` that serves it.
struct World {
    cluster: Cluster,
    cache: Arc<Cache>,
    tasks: Tasks,
    address: SocketAddr,
}

impl World {
    async fn new() -> World {
        // Addresses that no cluster of the other tests has.
        let range = "127.250.7.0/24".parse().unwrap();
        let options = Options { service_cidr: range, ..Options::default() };
        let cluster = Cluster::with(MemoryStore::default(), options).await;
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
            "clusterIP": "127.250.7.9", "ports": [{"port": port, "targetPort": 8080}]}});
        let service = cluster.post(SERVICES, &service).await.expect(201);
        let ip = service["spec"]["clusterIP"].as_str().unwrap();
        let address = format!("{ip}:{port}").parse().unwrap();
        let (api, cache, tasks) =
            (cluster.server.api(User::node("n1")), Cache::new(), Tasks::default());
        let proxy = Proxy::new(cache.clone(), Arc::new(RealClock), Arc::new(|_| {}));
        cache.keep::<Service>(api.clone(), "", &tasks);
        cache.keep::<EndpointSlice>(api.clone(), "", &tasks);
        proxy.run(&Client::new(api, "kube-proxy"), &tasks);
        World { cluster, cache, tasks, address }
    }

    /// Sets the conditions, as the controller does, and waits until the proxy has seen it.
    async fn tell(&self, kinds: &[&str]) {
        self.cluster.merge(STATUS, &conditions(kinds)).await.expect(200);
        let kinds = kinds.to_vec();
        self.until(move |cache| {
            let view = cache.view();
            let service = view.get::<Service>("default", "web");
            let status = service.and_then(|service| service.status.clone()).unwrap_or_default();
            let there = status.conditions.unwrap_or_default();
            there.len() == kinds.len() && there.iter().all(|one| kinds.contains(&&*one.type_))
        })
        .await;
    }

    async fn until(&self, holds: impl Fn(&Cache) -> bool) {
        let wait = async {
            while !holds(&self.cache) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("it is seen");
    }

    fn is_awaited(&self) -> bool {
        let view = self.cache.view();
        let service = view.get::<Service>("default", "web").unwrap();
        wasmfleet::api::kinds::service_activation::holds(service, AWAITED)
    }

    /// A connection that a listener of the proxy took.
    async fn connect(&self) -> TcpStream {
        let wait = async {
            loop {
                match TcpStream::connect(self.address).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        tokio::time::timeout(LIMIT, wait).await.expect("the proxy listens")
    }

    /// A pod that answers each connection with a word and closes it.
    async fn pod(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut asked = [0; 5];
                stream.read_exact(&mut asked).await.unwrap();
                stream.write_all(b"pod saw ").await.unwrap();
                stream.write_all(&asked).await.unwrap();
            }
        });
        let slice = json!({"metadata": {"name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"port": address.port()}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": true}}]});
        let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        self.cluster.post(slices, &slice).await.expect(201);
        address
    }
}

async fn read(mut stream: TcpStream) -> String {
    let mut text = String::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_string(&mut text)).await;
    read.expect("an end").unwrap();
    text
}

#[tokio::test]
async fn connections_wait_for_a_pod_and_are_told_of_once() {
    let world = World::new().await;
    // Without the condition: closed at once.
    assert_eq!(read(world.connect().await).await, "");
    assert!(!world.is_awaited());
    world.tell(&[ZERO]).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut stream = world.connect().await;
        stream.write_all(b"hello").await.unwrap();
        waiting.push(stream);
    }
    world.until(|_| world.is_awaited()).await;
    let told = world.cluster.get(STATUS).await.expect(200);
    let list = told["status"]["conditions"].as_array().unwrap().clone();
    assert_eq!(list.len(), 2, "{told}");
    let before = version(&told);
    world.pod().await;
    for stream in waiting {
        assert_eq!(read(stream).await, "pod saw hello");
    }
    let after = version(&world.cluster.get(STATUS).await.expect(200));
    assert_eq!(before, after, "twenty connections are one write");
    assert!(world.tasks.shut_down(LIMIT).await.is_empty());
}

#[tokio::test]
async fn who_waited_in_vain_is_told() {
    let world = World::new().await;
    world.tell(&[ZERO]).await;
    let (mut http, mut other) = (world.connect().await, world.connect().await);
    http.write_all(b"GET / HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    other.write_all(b"\x16\x03\x01").await.unwrap();
    world.until(|_| world.is_awaited()).await;
    world.tell(&[]).await;
    let answer = read(http).await;
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.ends_with("no pod of the Service became ready in time\n"), "{answer}");
    let mut rest = Vec::new();
    let end = tokio::time::timeout(LIMIT, other.read_to_end(&mut rest)).await.expect("an end");
    assert!(rest.is_empty(), "what is no HTTP is closed: {end:?}");
    assert!(world.tasks.shut_down(LIMIT).await.is_empty());
}

/// The right to tell of a connection is no right to write Services.
#[tokio::test(start_paused = true)]
async fn a_node_tells_that_a_connection_waits_and_nothing_else() {
    let cluster = Cluster::new().await;
    let service = json!({"metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    cluster.post(SERVICES, &service).await.expect(201);
    let node = User::node("n1");
    let send = async |body: &Value| {
        let answer = cluster.open_as(&node, "PATCH", STATUS, STRATEGIC, body.to_string()).await;
        Answer::of(answer).await
    };
    let message = send(&conditions(&[AWAITED])).await.failure(403);
    assert!(message.contains("of a Service that has wasmfleet.dev/ScaledToZero"), "{message}");
    send(&conditions(&[ZERO])).await.failure(403);
    send(&conditions(&[ZERO, AWAITED])).await.failure(403);
    cluster.merge(STATUS, &conditions(&[ZERO])).await.expect(200);
    send(&json!({"metadata": {"labels": {"a": "b"}}})).await.failure(403);
    send(&json!({"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}}))
        .await
        .failure(403);
    send(&json!({"status": {"conditions": [{"type": ZERO, "status": "False"}]}}))
        .await
        .failure(403);
    let told = send(&conditions(&[AWAITED])).await.expect(200);
    assert_eq!(told["status"]["conditions"].as_array().unwrap().len(), 2, "{told}");
}
