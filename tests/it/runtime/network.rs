//! `wasi:sockets` for pods: wildcard binds become the pod's address, and no other.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::harness::{Harness, PATIENCE, built};

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
            assert!(TcpStream::connect(*address).await.is_err(), "its socket is closed");
        }
    }
}
