//! Control plane and nodes as processes of their own, joined by a token on loopback.

use std::path::Path;

use crate::cluster::tools::has;
use crate::cluster::{Program, Range, WASMCTL, WASMFLEET, guests, http, tools, until};

pub struct Server {
    pub dir: tempfile::TempDir,
    pub program: Program,
    pub url: String,
    options: &'static [&'static str],
    range: Range,
}

const GRACE: &str = "--node-grace-seconds";

impl Server {
    fn start() -> Server {
        Server::start_with(&[])
    }

    pub fn start_with(options: &'static [&'static str]) -> Server {
        let dir = tempfile::tempdir().expect("a directory");
        let range = Range::take();
        let (program, url) = Server::serve(dir.path(), "127.0.0.1:0", options, &range);
        Server { dir, program, url, options, range }
    }

    fn serve(dir: &Path, listen: &str, options: &[&str], range: &Range) -> (Program, String) {
        let data = dir.join("server");
        let mut args = vec!["server", "--listen", listen, "--data-dir"];
        args.push(data.to_str().expect("UTF-8"));
        args.extend(options);
        if !options.contains(&GRACE) {
            args.extend([GRACE, "4"]);
        }
        let ranges = range.options();
        args.extend(ranges.iter().map(String::as_str));
        let program = Program::start(WASMFLEET, &args, Some(dir));
        let line = program.wait_line("API server");
        program.wait_line("ready");
        (program, line.split_whitespace().last().expect("a URL").to_string())
    }

    /// Serves once more at the same address, after the program ended.
    pub fn start_again(&mut self) {
        let address = self.url.trim_start_matches("https://").to_string();
        (self.program, self.url) =
            Server::serve(self.dir.path(), &address, self.options, &self.range);
    }

    pub fn node_args(&self, name: &str, token: &Path) -> Vec<String> {
        self.node_args_at(&self.url, name, token)
    }

    fn node_args_at(&self, url: &str, name: &str, token: &Path) -> Vec<String> {
        let text = |path: &Path| path.to_str().expect("UTF-8").to_string();
        let data = text(&self.dir.path().join(name));
        let words = ["node", "--server", url, "--name", name, "--data-dir", &data];
        let mut args: Vec<String> = words.map(str::to_string).to_vec();
        args.extend(["--heartbeat-seconds", "1", "--token-file"].map(str::to_string));
        args.push(text(token));
        args
    }

    pub fn token(&self) -> std::path::PathBuf {
        self.dir.path().join("server/join-token")
    }

    pub fn node(&self, name: &str) -> Program {
        self.node_with(name, &[])
    }

    pub fn node_with(&self, name: &str, options: &[&str]) -> Program {
        self.node_at(&self.url, name, options)
    }

    /// A node that knows the server by another URL.
    pub fn node_at(&self, url: &str, name: &str, options: &[&str]) -> Program {
        let args = self.node_args_at(url, name, &self.token());
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        args.extend(options);
        let node = Program::start(WASMFLEET, &args, None);
        node.wait_line("ready");
        node
    }

    pub fn wasmctl_with(&self, words: &str, stdin: &str) -> tools::Output {
        let kubeconfig = self.dir.path().join("server/kubeconfig");
        let mut output =
            tools::run(WASMCTL.as_ref(), words, stdin, &kubeconfig, self.dir.path(), &[]);
        output.server_log = self.program.log();
        output
    }

    pub fn wasmctl(&self, words: &str) -> String {
        self.wasmctl_with(words, "").ok()
    }

    pub fn wait(&self, what: &str, path: &str, wanted: &str) {
        until(&format!("{what} {path} = {wanted}"), || {
            let found = self.wasmctl(&format!("get {what} -o jsonpath={{{path}}}"));
            if found == wanted { Ok(()) } else { Err(found) }
        });
    }
}

pub const READY: &str = ".status.conditions[?(@.type==\"Ready\")].status";

#[test]
fn nodes_join_run_are_lost_and_come_back() {
    // Their ends are seen by their tunnels: long before that.
    let server = Server::start_with(&[GRACE, "3600"]);
    let first = server.node("n1");
    let mut second = server.node("n2");
    server.wait("node n1", READY, "True");
    server.wait("node n2", READY, "True");
    let push = format!("push {} hello:v1", guests::path("rust-http-p2.wasm").display());
    server.wasmctl(&push);
    // Lost nodes give their pods up soon, so that the test need not wait five minutes.
    let tolerations = "tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:";
    let web = guests::deployment("web", "hello:v1", 2).replacen("containers:", tolerations, 1);
    server.wasmctl_with("apply -f -", &web).ok();
    server
        .wasmctl_with("apply -f -", &guests::service("web").replace("port: 80,", "port: 8080,"))
        .ok();
    server.wasmctl("rollout status deployment/web --timeout 90s");
    let pod = server.wasmctl("get pods -o jsonpath={.items[0].metadata.name}");
    server.wasmctl(&format!("logs {pod}"));
    let ip = server.wasmctl("get service web -o jsonpath={.spec.clusterIP}");
    let url = format!("http://{ip}:8080/");
    until("an answer through the Service", || http::get(&url));

    second.kill();
    server.wait("node n2", READY, "Unknown");
    // The pod of the lost node stays Terminating until its node says that it ended.
    until("both replicas on the other node", || {
        let nodes = "get pods -o jsonpath={.items[*].spec.nodeName}";
        let ready = "get deployment web -o jsonpath={.status.readyReplicas}";
        let (nodes, ready) = (server.wasmctl(nodes), server.wasmctl(ready));
        let here = nodes.split(' ').filter(|node| *node == "n1").count();
        if here == 2 && ready == "2" { Ok(()) } else { Err(format!("{nodes}; {ready} ready")) }
    });
    until("an answer from what is left", || http::get(&url));

    // It comes back by itself, with the certificate that it has.
    let second = server.node("n2");
    server.wait("node n2", READY, "True");
    server.wait("node n2", ".spec.taints", "");
    server.wait("pods", ".items[*].spec.nodeName", "n1 n1");
    drop(second);
    drop(first);
}

#[test]
fn a_wrong_token_buys_nothing() {
    let server = Server::start();
    let token = std::fs::read_to_string(server.token()).expect("the token");
    let token = token.trim();
    let refused = |name: &str, token: &str| {
        let file = server.dir.path().join("token");
        std::fs::write(&file, token).expect("written");
        let args = server.node_args(name, &file);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut node = Program::start(WASMFLEET, &args, None);
        assert!(!node.wait_end().success(), "{token}");
        node.stderr()
    };
    // The secret is its end; the beginning names the CA.
    let mut wrong = token.to_string();
    let last = wrong.pop().expect("not empty");
    wrong.push(if last == '0' { '1' } else { '0' });
    has(&refused("n1", &wrong), &["error: ", "token"]);
    has(&refused("n1", "nonsense"), &["error: ", "token"]);
    has(&refused("Bad Name", token), &["error: ", "Bad Name"]);
    assert_eq!(server.wasmctl("get nodes -o name"), "");
    drop(server.node("n1"));
}

#[test]
fn a_node_waits_for_its_control_plane_and_joins_one_that_is_new() {
    let mut server = Server::start();
    server.node("n1").terminate();
    server.program.terminate();
    let args = server.node_args("n1", Path::new("/does/not/exist"));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut node = Program::start(WASMFLEET, &args, None);
    until("a line about the server", || match node.stderr() {
        told if told.contains("trying again") => Ok(()),
        told => Err(told),
    });
    assert!(!node.stdout().contains("ready"));
    server.start_again();
    node.wait_line("ready");
    server.wait("node n1", READY, "True");
    node.terminate();

    // Another control plane at the same address knows nothing of the node's certificate.
    server.program.terminate();
    std::fs::remove_dir_all(server.dir.path().join("server")).expect("removed");
    server.start_again();
    let args = &args[..args.len() - 2];
    let mut stranger = Program::start(WASMFLEET, args, None);
    assert!(!stranger.wait_end().success());
    has(&stranger.stderr(), &["error: ", "node.kubeconfig", "--token-file"]);
    let mut node = server.node("n1");
    server.wait("node n1", READY, "True");
    node.terminate();
}
