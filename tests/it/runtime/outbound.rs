//! Where guests may go: the cluster, and hosts that their pod lists, by every way that WASI 0.2 and
//! 0.3 know (targets: outbound abuse). The guests are `examples/guests/rust/net-p2` and `net-p3`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use wasmfleet::runtime::Names;

use super::harness::{Harness, built, pod_ip};

const CLIENTS: [(&str, &[u8]); 2] =
    [("0.2", built!("rust-net-p2.wasm")), ("0.3", built!("rust-net-p3.wasm"))];

/// A Service, and a name whose answer the world chose: this machine.
struct Cluster(IpAddr);

impl Names for Cluster {
    fn resolve(&self, _: &str, name: &str) -> Option<Vec<IpAddr>> {
        (name == "shop").then(|| vec![self.0])
    }
}

/// What the guest prints for each try.
async fn tries(
    harness: &Harness,
    wasm: &[u8],
    service: IpAddr,
    allowed: &[&str],
    arguments: &[String],
) -> (IpAddr, Vec<String>) {
    let (mut spec, output) = harness.spec(wasm).await;
    spec.args.extend(arguments.iter().cloned());
    spec.names = Arc::new(Cluster(service));
    spec.allowed_hosts = allowed.iter().map(|host| (*host).to_owned()).collect();
    let pod = spec.pod_ip;
    let exit = harness.start(spec).await.expect("it starts").exit().await;
    assert_eq!(exit.code, 0, "{} {}", output.stdout(), output.stderr());
    let lines = output.stdout().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines.len(), arguments.len(), "{lines:?}");
    (pod, lines)
}

/// Ports that the system gives to nobody by itself: whoever connects to its own address at one of its
/// choice may be given that very port, and so be connected with itself.
const LISTENED: std::ops::Range<u16> = 20_000..32_000;

/// Answers who asks with their address, and HTTP with the `host` header too.
async fn echo(address: IpAddr) -> u16 {
    let begin = usize::from(std::process::id() as u16) % LISTENED.len();
    for port in LISTENED.cycle().skip(begin).take(LISTENED.len()) {
        let place = SocketAddr::new(address, port);
        if let Ok(tcp) = TcpListener::bind(place).await
            && let Ok(udp) = UdpSocket::bind(place).await
        {
            echo_at(tcp, udp);
            return port;
        }
    }
    panic!("no port of {LISTENED:?} is free at {address}")
}

fn echo_at(tcp: TcpListener, udp: UdpSocket) {
    tokio::spawn(async move {
        let mut bytes = [0; 64];
        while let Ok((count, peer)) = udp.recv_from(&mut bytes).await {
            assert_eq!(&bytes[..count], b"ping");
            let _ = udp.send_to(peer.ip().to_string().as_bytes(), peer).await;
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, peer)) = tcp.accept().await {
            let mut head = vec![0; 2048];
            let count = stream.read(&mut head).await.unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..count]).to_lowercase();
            let answer = match head.starts_with("get ") {
                false => peer.ip().to_string(),
                true => {
                    let hosts = head.lines().filter_map(|line| line.strip_prefix("host: "));
                    let body = format!("{} {}", peer.ip(), hosts.collect::<Vec<_>>().join(","));
                    let length = body.len();
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}")
                }
            };
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_reach_the_cluster_from_their_own_address() {
    let harness = Harness::new();
    let service = pod_ip();
    let port = echo(service).await;
    for (generation, wasm) in CLIENTS {
        let arguments = [
            "lookup=shop".to_owned(),
            format!("tcp={service}:{port}"),
            format!("udp={service}:{port}"),
            format!("http=shop:{port}/a"),
        ];
        let (pod, lines) = tries(&harness, wasm, service, &[], &arguments).await;
        let wanted = [
            format!("lookup=shop: ok {service}"),
            format!("tcp={service}:{port}: ok {pod}"),
            format!("udp={service}:{port}: ok {pod}"),
            // The header is the authority's, whatever the guest said.
            format!("http=shop:{port}/a: ok 200 {pod} shop:{port}"),
        ];
        assert_eq!(lines, wanted, "WASI {generation}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_open_by_any_way() {
    let harness = Harness::new();
    let service = pod_ip();
    // Listening here, so that only the policy can be what refuses.
    let local = echo(IpAddr::from([127, 0, 0, 1])).await;
    let other = echo(IpAddr::from([127, 1, 2, 3])).await;
    for (generation, wasm) in CLIENTS {
        let mut arguments = vec!["lookup=example.com".to_owned()];
        // These mean the pod, where nobody listens; a datagram to it would be lost in silence.
        for place in [format!("127.0.0.1:{local}"), format!("127.1.2.3:{other}")] {
            arguments.extend([format!("tcp={place}"), format!("http={place}/")]);
        }
        for place in [
            "169.254.169.254:80".to_owned(),
            "0.0.0.0:80".to_owned(),
            "255.255.255.255:80".to_owned(),
            "224.0.0.1:80".to_owned(),
            "10.1.2.3:80".to_owned(),
        ] {
            arguments.extend(["tcp", "udp"].map(|way| format!("{way}={place}")));
            arguments.push(format!("http={place}/"));
        }
        arguments.extend([
            format!("http=localhost:{local}/"),
            format!("http=[::1]:{local}/"),
            format!("http=[::ffff:127.0.0.1]:{local}/"),
            format!("http=2130706433:{local}/"),
            format!("http=0x7f.1:{local}/"),
            format!("http=shop@127.0.0.1:{local}/"),
            "http=example.com/".to_owned(),
        ]);
        // Neither by default, nor where everything or these very names are listed.
        for allowed in [&[][..], &["*"], &["localhost", "127.0.0.1", "169.254.169.254", "::1"]] {
            let mut these = arguments.clone();
            if allowed == ["*"] {
                // These are the world's, and would be asked.
                let world = ["example.com", "10.1.2.3"];
                these.retain(|one| !world.iter().any(|name| one.contains(name)));
            }
            let (_, lines) = tries(&harness, wasm, service, allowed, &these).await;
            for line in lines {
                assert!(line.contains(": error "), "WASI {generation}, {allowed:?}: {line}");
            }
        }
    }
}

/// Containers of a pod find each other at its loopback, whose port the host has for somebody else.
#[tokio::test(flavor = "multi_thread")]
async fn the_loopback_is_the_pods_own() {
    let harness = Harness::new();
    for (generation, wasm) in CLIENTS {
        let (mut spec, output) = harness.spec(wasm).await;
        let pod = spec.pod_ip;
        let port = echo(pod).await;
        let host = TcpListener::bind(("127.0.0.1", port)).await;
        let tries = [
            ("lookup=localhost".to_owned(), format!("ok {pod}")),
            (format!("tcp=127.0.0.1:{port}"), format!("ok {pod}")),
            (format!("udp=127.0.0.1:{port}"), format!("ok {pod}")),
            (format!("http=127.0.0.1:{port}/"), format!("ok 200 {pod} 127.0.0.1:{port}")),
            (format!("http=localhost:{port}/a"), format!("ok 200 {pod} localhost:{port}")),
            (format!("http=[::1]:{port}/"), format!("ok 200 {pod} [::1]:{port}")),
        ];
        spec.args.extend(tries.iter().map(|(argument, _)| argument.clone()));
        let exit = harness.start(spec).await.expect("it starts").exit().await;
        assert_eq!(exit.code, 0, "{} {}", output.stdout(), output.stderr());
        let wanted = tries.map(|(argument, answer)| format!("{argument}: {answer}"));
        let lines = output.stdout().lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines, wanted, "WASI {generation}");
        drop(host);
    }
}
