//! Nodes that are drained and stopped while requests are under way: each is answered whole.

use std::net::SocketAddr;

use super::separate::{READY, Server};
use crate::cluster::tools::has;
use crate::cluster::{Program, WASMCTL, guests, http, until, until_nobody_listens};
use crate::runtime::clients::body_reader;

const BODY: &str = "the body";

/// Requests of which the guest has all but the body, by every way that leads to a pod.
struct InFlight {
    requests: Vec<(&'static str, http::Connection)>,
    pod: String,
    _forward: Program,
}

impl InFlight {
    fn begin(server: &Server, service: &str) -> InFlight {
        let pod = server.wasmctl("get pods -l app=web -o jsonpath={.items[0].metadata.name}");
        let ip = server.wasmctl("get pods -l app=web -o jsonpath={.items[0].status.podIP}");
        let kubeconfig = server.dir.path().join("server/kubeconfig").display().to_string();
        let words = ["port-forward", &format!("pod/{pod}"), ":8080", "--kubeconfig", &kubeconfig];
        let forward = Program::start(WASMCTL, &words, None);
        let line = forward.wait_line("Forwarding from 127.0.0.1:");
        let port = line.split(['>', ' ']).find_map(|word| word.strip_prefix("127.0.0.1:"));
        let forwarded = format!("http://127.0.0.1:{}/", port.expect("a port"));
        let direct = format!("http://{ip}:8080/");
        let ways =
            [("the pod", &direct), ("the Service", &service.to_string()), ("a tunnel", &forwarded)];
        let requests = ways.map(|(way, url)| {
            // A proxy may not have heard of the pod yet.
            let connection = until(way, || {
                let mut connection = http::Connection::open(url)?;
                connection.begin(BODY.len()).map(|()| connection)
            });
            (way, connection)
        });
        InFlight { requests: requests.into(), pod: direct, _forward: forward }
    }

    /// Waits until the pod sends its clients away.
    fn until_draining(&self) {
        until("the pod drains", || match http::Connection::open(&self.pod)?.get("/")? {
            response if response.keep_alive => Err(format!("{} as usual", response.status)),
            _ => Ok(()),
        });
    }

    fn are_answered(mut self) {
        for (way, connection) in &mut self.requests {
            let response = connection.finish(BODY).unwrap_or_else(|error| panic!("{way}: {error}"));
            assert_eq!((response.status, response.body.as_str()), (200, "all is here\n"), "{way}");
            assert!(!response.keep_alive, "{way}: the connection ends");
        }
    }
}

#[test]
fn requests_in_flight_outlive_a_drain_and_the_end_of_the_node() {
    let server = Server::start_with(&[]);
    let mut first = server.node("n1");
    server.wait("node n1", READY, "True");
    let guest = guests::written("http-body", &body_reader());
    server.wasmctl(&format!("push {} reader:v1", guest.display()));
    server.wasmctl_with("apply -f -", &guests::deployment("web", "reader:v1", 1)).ok();
    let service = guests::service("web").replace("port: 80,", "port: 8080,");
    server.wasmctl_with("apply -f -", &service).ok();
    server.wasmctl("rollout status deployment/web --timeout 90s");
    let mut second = server.node("n2");
    server.wait("node n2", READY, "True");
    let ip = server.wasmctl("get service web -o jsonpath={.spec.clusterIP}");
    let service = format!("http://{ip}:8080/");

    let in_flight = InFlight::begin(&server, &service);
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| server.wasmctl("drain n1 --timeout 90s"));
        in_flight.until_draining();
        in_flight.are_answered();
        has(&drain.join().expect("no panic"), &["node/n1 drained"]);
    });
    assert!(first.terminate().success(), "{}", first.log());
    server.wait("pods -l app=web", ".items[*].spec.nodeName", "n2");
    server.wasmctl("rollout status deployment/web --timeout 90s");

    let in_flight = InFlight::begin(&server, &service);
    let pod: SocketAddr = in_flight.requests[0].1.authority().parse().expect("an address");
    second.ask_to_end();
    in_flight.until_draining();
    in_flight.are_answered();
    assert!(second.wait_end().success(), "{}", second.log());
    until_nobody_listens(pod);
    until_nobody_listens(format!("{ip}:8080").parse().expect("an address"));
    // Nothing of it is the pod's fault.
    let restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}";
    assert_eq!(server.wasmctl(&format!("get pods -l app=web -o {restarts}")), "0");
}
