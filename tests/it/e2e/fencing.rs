//! A node that is cut off for real: bytes between it and the control plane get lost, in both
//! directions, while both live.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::separate::{READY, Server};
use crate::cluster::{guests, http, until};

/// A wire that carries connections to a server, and loses what they send while it is cut.
struct Wire {
    address: SocketAddr,
    is_cut: Arc<AtomicBool>,
}

impl Wire {
    fn to(server: SocketAddr) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (address, is_cut) = (listener.local_addr().expect("bound"), Arc::default());
        let wire = Wire { address, is_cut };
        let cut = wire.is_cut.clone();
        // It ends with the test program.
        std::thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = TcpStream::connect(server) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { continue };
                    let cut = cut.clone();
                    std::thread::spawn(move || carry(from, to, &cut));
                }
            }
        });
        wire
    }

    fn cut(&self, is_cut: bool) {
        self.is_cut.store(is_cut, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut buffer = vec![0; 16 << 10];
    let mut lost = false;
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        lost |= cut.load(Ordering::SeqCst);
        // What lost something is of no use any more, and says so once the wire is whole again.
        match (lost, cut.load(Ordering::SeqCst)) {
            (true, true) => {}
            (true, false) => break,
            (false, _) if to.write_all(&buffer[..read]).is_err() => break,
            (false, _) => {}
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

#[test]
fn a_node_that_is_cut_off_does_not_serve_beside_its_replacement() {
    let server = Server::start_with(&[]);
    let wire = Wire::to(server.url.trim_start_matches("https://").parse().expect("an address"));
    let through = format!("https://{}", wire.address);
    let _whole = server.node_with("n1", &[]);
    let _cut = server.node_at(&through, "n2", &["--fence"]);
    server.wait("node n1", READY, "True");
    server.wait("node n2", READY, "True");
    server.wasmctl(&format!("push {} hello:v1", guests::path("rust-http-p2.wasm").display()));
    let tolerations = "tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}
      containers:";
    let web = guests::deployment("web", "hello:v1", 4).replacen("containers:", tolerations, 1);
    server.wasmctl_with("apply -f -", &web).ok();
    server.wasmctl("rollout status deployment/web --timeout 90s");
    let on = |node: &str, path: &str| {
        let words = format!(
            "get pods --field-selector spec.nodeName={node} -o jsonpath={{.items[*]{path}}}"
        );
        server.wasmctl(&words)
    };
    // In one order.
    let (old, ip) = (on("n2", ".metadata.name"), on("n2", ".status.podIP"));
    let old = old.split(' ').next().unwrap_or_default();
    let ip = ip.split(' ').next().unwrap_or_default();
    assert!(!old.is_empty(), "four pods are on both nodes");
    let direct = format!("http://{ip}:8080/");
    http::get(&direct).expect("the pod answers by itself");

    wire.cut(true);
    server.wait("node n2", READY, "Unknown");
    until("a replacement", || {
        let ready = server.wasmctl("get deployment web -o jsonpath={.status.readyReplicas}");
        let here = on("n1", ".metadata.name").split(' ').count();
        if ready == "4" && here == 4 { Ok(()) } else { Err(format!("{ready}; {here} here")) }
    });
    until("the old pod's end on the node that was cut off", || match http::get(&direct) {
        Ok(body) => Err(format!("it serves: {body}")),
        Err(_) => Ok(()),
    });
    wire.cut(false);
    server.wait("node n2", READY, "True");
    until("the end of the old pod's object", || {
        let names = server.wasmctl("get pods -o jsonpath={.items[*].metadata.name}");
        if names.contains(old) { Err(names) } else { Ok(()) }
    });
}
