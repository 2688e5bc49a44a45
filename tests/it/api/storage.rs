//! Claims and volumes, with the real controllers over the API in the process.

use super::garbage::{PATIENCE, REST, gone, start, until};
use super::*;

const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

fn volume(name: &str, size: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": size},
        "accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
        "csi": {"driver": "example.com", "volumeHandle": name}}})
}

fn claim(name: &str, size: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "manual", "resources": {"requests": {"storage": size}}}})
}

async fn phase(cluster: &Cluster, path: &str, phase: &str) -> Value {
    until(cluster, path, |answer| answer.json()["status"]["phase"] == phase).await.json()
}

#[tokio::test(start_paused = true)]
async fn claims_are_bound_released_and_protected() {
    let (cluster, tasks) = start().await;
    for (name, size) in [("small", "1Gi"), ("large", "4Gi")] {
        cluster.post(VOLUMES, &volume(name, size)).await.expect(201);
    }
    phase(&cluster, &format!("{VOLUMES}/large"), "Available").await;
    let made = cluster.post(CLAIMS, &claim("a", "2Gi")).await.expect(201);
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let bound = phase(&cluster, &format!("{CLAIMS}/a"), "Bound").await;
    assert_eq!(bound["spec"]["volumeName"], "large");
    assert_eq!(bound["status"]["capacity"], json!({"storage": "4Gi"}));
    let given = phase(&cluster, &format!("{VOLUMES}/large"), "Bound").await;
    assert_eq!(given["spec"]["claimRef"]["uid"], made["metadata"]["uid"]);
    assert!(given["status"]["lastPhaseTransitionTime"].is_string(), "{given}");
    // Two want the last volume: one has it, and the other goes on waiting.
    for name in ["b", "c"] {
        cluster.post(CLAIMS, &claim(name, "1Gi")).await.expect(201);
    }
    phase(&cluster, &format!("{VOLUMES}/small"), "Bound").await;
    tokio::time::sleep(REST).await;
    let mut phases = Vec::new();
    for name in ["b", "c"] {
        let claim = cluster.get(&format!("{CLAIMS}/{name}")).await.expect(200);
        phases.push(claim["status"]["phase"].as_str().unwrap().to_string());
    }
    phases.sort();
    assert_eq!(phases, ["Bound", "Pending"]);
    // A bound volume is kept until its claim is gone.
    cluster.delete(&format!("{VOLUMES}/large"), &json!({})).await.expect(200);
    tokio::time::sleep(REST).await;
    let kept = cluster.get(&format!("{VOLUMES}/large")).await.expect(200);
    assert_eq!(kept["metadata"]["finalizers"], json!(["kubernetes.io/pv-protection"]));
    cluster.delete(&format!("{CLAIMS}/a"), &json!({})).await.expect(200);
    gone(&cluster, &format!("{CLAIMS}/a")).await;
    gone(&cluster, &format!("{VOLUMES}/large")).await;
    // What is left with its data is nobody's, until someone frees it.
    for name in ["b", "c"] {
        cluster.delete(&format!("{CLAIMS}/{name}"), &json!({})).await.expect(200);
    }
    phase(&cluster, &format!("{VOLUMES}/small"), "Released").await;
    cluster.post(CLAIMS, &claim("d", "1Gi")).await.expect(201);
    tokio::time::sleep(REST).await;
    phase(&cluster, &format!("{CLAIMS}/d"), "Pending").await;
    let free = json!({"spec": {"claimRef": null}});
    cluster.merge(&format!("{VOLUMES}/small"), &free).await.expect(200);
    phase(&cluster, &format!("{CLAIMS}/d"), "Bound").await;
    // At rest nothing is written.
    tokio::time::sleep(REST).await;
    let revision = cluster.store.revision();
    tokio::time::sleep(REST).await;
    assert_eq!(cluster.store.revision(), revision);
    tasks.shut_down(PATIENCE).await;
}
