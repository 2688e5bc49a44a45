//! `wasi:sockets` for pods: wildcard binds become the pod's address, and no other.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use wasmfleet::runtime::Names;

use super::harness::{Harness, PATIENCE, built, pod_ip, world};
use crate::cluster::until_nobody_listens;

/// Asks until the guest listens: it tells nobody when it does.
async fn ask(address: SocketAddr) -> String {
    let asked = async {
        loop {
            if let Ok(mut stream) = TcpStream::connect(address).await {
                stream.write_all(b"GET /t HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("writes");
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.expect("reads");
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("it listens in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_that_bind_the_wildcard_listen_on_their_pods_address() {
    let harness = Harness::new();
    for wasm in [
        include_bytes!("../guests/wat-p2-tcp.wasm").as_slice(),
        built!("rust-tcp-p2.wasm"),
        built!("rust-tcp-p3.wasm"),
    ] {
        // Two pods with the same port: only the address keeps them apart.
        let mut both = Vec::new();
        for _ in 0..2 {
            let (mut spec, _) = harness.spec(wasm).await;
            spec.env = vec![("PORT".to_owned(), "9090".to_owned())];
            let address = SocketAddr::new(spec.pod_ip, 9090);
            both.push((harness.start(spec).await.expect("it starts"), address));
        }
        for (running, address) in &mut both {
            let answer = ask(*address).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains("hello from"), "{answer}");
            running.container.stop(Duration::ZERO);
            assert_eq!(running.exit().await.code, 137);
            until_nobody_listens(*address);
        }
    }
}

/// A guest that looks up a name, connects there and exits with what came of it.
pub fn client(generation: &str, name: &str, port: u16) -> Vec<u8> {
    let text = match generation {
        "p2" => include_str!("../guests/client-p2.wat"),
        _ => include_str!("../guests/client-p3.wat"),
    };
    let text = text
        .replace("\"NAME\"", &format!("{name:?}"))
        .replace("LENGTH", &name.len().to_string())
        .replace("const PORT", &format!("const {port}"));
    component(generation, &text)
}

fn component(generation: &str, core: &str) -> Vec<u8> {
    world(include_str!("../guests/client.wit"), generation, core)
}

struct Db(IpAddr);

impl Names for Db {
    fn resolve(&self, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
        (namespace == "default" && name == "db").then(|| vec![self.0])
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_find_services_by_name_and_speak_from_their_own_address() {
    let harness = Harness::new();
    let service = pod_ip();
    let listener = TcpListener::bind(SocketAddr::new(service, 0)).await.expect("listens");
    let port = listener.local_addr().expect("an address").port();
    // The host's own loopback, where the same port answers, is closed to guests: theirs is their pod.
    let own = TcpListener::bind(("127.0.0.1", port)).await;
    for (generation, denied_connect, refused, denied_name) in
        [("p2", 71, 84, 11), ("p3", 70, 79, 10)]
    {
        let run = async |name: &str| {
            let (mut spec, output) = harness.spec(&client(generation, name, port)).await;
            spec.names = Arc::new(Db(service));
            let pod = spec.pod_ip;
            let exit = harness.start(spec).await.expect("it starts").exit().await;
            (exit, pod, output)
        };
        let (exit, pod, output) = run("db").await;
        assert_eq!(exit.code, 0, "{generation}: {exit:?} {}", output.stderr());
        let (_, peer) = listener.accept().await.expect("the guest's connection");
        assert_eq!(peer.ip(), pod, "{generation}: the service sees who speaks");
        assert_eq!(run(&service.to_string()).await.0.code, 0, "{generation}: an address");
        listener.accept().await.expect("the guest's connection");
        assert_eq!(run("127.0.0.1").await.0.code, refused, "{generation}: nobody listens there");
        assert_eq!(run("169.254.169.254").await.0.code, denied_connect, "{generation}: metadata");
        assert_eq!(run("example.com").await.0.code, denied_name, "{generation}: the world");
    }
    drop(own);
}

/// Makes sockets until one is refused, drops one, makes one more, and exits with the error's code.
const GREEDY: &str = r#"(module
  (import "wasi:cli/exit@0.2.0" "exit-with-code" (func $exit (param i32)))
  (import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $create (param i32 i32)))
  (import "wasi:sockets/tcp@0.2.0" "[resource-drop]tcp-socket" (func $drop (param i32)))
  (memory (export "memory") 1)
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
  (func (export "wasi:cli/run@0.2.0#run") (result i32) (local $last i32) (local $code i32)
    (loop $more
      (call $create (i32.const 0) (i32.const 0))
      (if (i32.eqz (i32.load8_u (i32.const 0)))
        (then (local.set $last (i32.load (i32.const 4))) (br $more))))
    (local.set $code (i32.load8_u (i32.const 4)))
    (call $drop (local.get $last))
    (call $create (i32.const 0) (i32.const 0))
    (if (i32.load8_u (i32.const 0)) (then (call $exit (i32.const 99))))
    (call $create (i32.const 0) (i32.const 0))
    (if (i32.eqz (i32.load8_u (i32.const 0))) (then (call $exit (i32.const 98))))
    (call $exit (local.get $code))
    (i32.const 0)))"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_container_has_so_many_sockets_and_no_more() {
    let harness = Harness::new();
    let (exit, output) = harness.run(&component("p2", GREEDY)).await;
    let new_socket_limit = 10;
    assert_eq!(exit.code, new_socket_limit, "{exit:?} {}", output.stderr());
}
