//! A disk without room: what was there is read, watched and deleted, nothing new is taken, and all
//! goes on once there is room, without a restart.

use std::fs::File;
use std::io::Write;

use crate::cluster::tools::has;
use crate::cluster::{Cluster, WASMCTL, guests, until};

/// More than a new cluster with an image needs, and little enough to fill.
const DISK_BYTES: u64 = 256 << 20;

#[test]
fn a_full_disk_refuses_what_is_new_and_lets_the_old_be_deleted() {
    let Some(mut cluster) = Cluster::on_disk(DISK_BYTES) else { return };
    cluster.push(&guests::path("c-http-p2.wasm"), "hello:v1");
    cluster.apply(&guests::deployment("web", "hello:v1", 2));
    cluster.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: old}\ndata: {a: b}\n");
    cluster.wasmctl("rollout status deployment/web --timeout 60s").ok();

    let ballast = cluster.data_file("ballast");
    fill(&ballast);
    // The store's file may have a little room within; soon there is none.
    let mut number = 0;
    let refused = until("a refused ConfigMap", || {
        number += 1;
        let data =
            format!("metadata: {{name: new-{number}}}\ndata: {{a: {}}}", "x".repeat(200_000));
        let manifest = format!("apiVersion: v1\nkind: ConfigMap\n{data}\n");
        let made = cluster.run(WASMCTL.as_ref(), "apply -f -", &manifest);
        if made.code == 0 { Err("it is taken".into()) } else { Ok(made.fails()) }
    });
    has(&refused, &["disk is full", "deletions still work"]);

    let pods = cluster.wasmctl("get pods").ok();
    assert_eq!(pods.matches("web-").count(), 2, "{pods}");
    cluster.wasmctl("delete configmap old").ok();
    cluster.wasmctl("delete deployment web").ok();
    until("the deployment's pods are gone", || {
        let pods = cluster.wasmctl("get pods,replicasets -o name").ok();
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
    let small = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: small}\n";
    let told = cluster.run(WASMCTL.as_ref(), "apply -f -", small).fails();
    has(&told, &["disk is full"]);

    std::fs::remove_file(&ballast).expect("removed");
    cluster.apply(small);
    cluster.apply(&guests::deployment("again", "hello:v1", 1));
    cluster.wasmctl("rollout status deployment/again --timeout 60s").ok();
}

/// Writes until nothing more is taken.
fn fill(path: &std::path::Path) {
    let mut file = File::create(path).expect("a file");
    let (mut piece, zeros) = (1 << 20, vec![0; 1 << 20]);
    while piece > 0 {
        match file.write(&zeros[..piece]) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
                piece /= 2;
            }
        }
    }
}
