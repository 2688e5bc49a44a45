//! Static pods of a node in a process of its own, with and without its control plane.

use super::separate::{READY, Server};
use crate::cluster::{Program, WASMFLEET, guests, http, until};

#[test]
fn static_pods_run_whether_or_not_there_is_a_control_plane() {
    let mut server = Server::start_with(&[]);
    let folder = server.dir.path().join("manifests");
    std::fs::create_dir(&folder).expect("made");
    let push = format!("push {} hello:v1", guests::path("rust-http-p2.wasm").display());
    server.wasmctl(&push);
    let web = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, labels: {app: web}}\n\
               spec: {containers: [{name: web, image: 'hello:v1'}]}\n";
    std::fs::write(folder.join("web.yaml"), web).expect("written");
    let path = folder.to_str().expect("UTF-8").to_string();
    let options = ["--pod-manifest-path", &path, "--file-check-seconds", "1"];
    let mut node = server.node_with("n1", &options);
    until("a mirror", || match server.wasmctl_with("get pod web-n1", "") {
        found if found.code == 0 => Ok(()),
        found => Err(found.told()),
    });
    server.wait("pod web-n1", READY, "True");
    let ip = server.wasmctl("get pod web-n1 -o jsonpath={.status.podIP}");
    let url = format!("http://{ip}:8080/");
    until("an answer of the pod", || http::get(&url));
    server.wasmctl("logs web-n1");
    let uid = "get pod web-n1 -o jsonpath={.metadata.uid}";
    let before = server.wasmctl(uid);
    server.wasmctl("delete pod web-n1 --no-wait");
    until("another mirror", || {
        let found = server.wasmctl_with(uid, "");
        let is_other = found.code == 0 && found.stdout != before;
        if is_other { Ok(()) } else { Err(found.told()) }
    });
    server.wait("pod web-n1", READY, "True");
    server.wait("pod web-n1", ".status.containerStatuses[0].restartCount", "0");

    // Both go away, and only the node comes back.
    server.program.terminate();
    node.terminate();
    let args = server.node_args("n1", &server.token());
    let args: Vec<&str> = args.iter().map(String::as_str).chain(options).collect();
    let mut node = Program::start(WASMFLEET, &args, None);
    until("an answer without the control plane", || http::get(&url));
    assert!(!node.stdout().contains("ready"));
    server.start_again();
    node.wait_line("ready");
    server.wait("pod web-n1", READY, "True");
    until("an answer as before", || http::get(&url));
    std::fs::remove_file(folder.join("web.yaml")).expect("removed");
    until("no mirror", || match server.wasmctl("get pods -o name") {
        none if none.is_empty() => Ok(()),
        some => Err(some),
    });
    node.terminate();
}
