//! The Python client (pip `kubernetes`): what it does is in `python.py`.

use std::path::Path;

use crate::cluster::tools::{has, python_client};
use crate::cluster::{Cluster, Space};

#[test]
fn the_python_client_pages_watches_patches_and_leads() {
    let Some(client) = python_client() else { return };
    let space = Space::new("python");
    let client = client.to_str().expect("UTF-8");
    let env = [("PYTHONPATH", client), ("NAMESPACE", &space.name)];
    let script = "tests/it/interop/python.py";
    let told = space.cluster.run_with(Path::new("python3"), script, "", &env).ok();
    let steps = ["pages", "watches", "patches", "errors", "custom_resources", "manifests", "leads"];
    let steps = [&steps[..], &["streams"]].concat();
    for step in steps {
        has(&told, &[&format!("{step}: done")]);
    }
}

#[test]
fn the_python_client_is_told_what_expired() {
    let Some(client) = python_client() else { return };
    let cluster = Cluster::control_plane_with(&["--history-seconds", "10"]);
    let client = client.to_str().expect("UTF-8");
    let env = [("PYTHONPATH", client), ("NAMESPACE", "default"), ("EXPIRES", "1")];
    let script = "tests/it/interop/python.py";
    has(&cluster.run_with(Path::new("python3"), script, "", &env).ok(), &["expires: done"]);
}
