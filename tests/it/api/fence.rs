//! Writes that hold for a leader's term only.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::ConfigMap;
use wasmfleet::api::error::Reason;
use wasmfleet::api::{ApiError, Object};
use wasmfleet::client::election::{Fence, LOST};
use wasmfleet::client::{Client, DeleteOptions, Patch, SharedApi, Target, WriteOptions};

use super::*;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

/// A lease of a holder, and its term.
async fn lead(client: &Client, holder: &str, transitions: i32) -> Arc<Fence> {
    let lease: Lease = serde_json::from_value(json!({
        "metadata": {"name": "x", "namespace": "kube-system"},
        "spec": {"holderIdentity": holder, "leaseTransitions": transitions,
            "leaseDurationSeconds": 30},
    }))
    .unwrap();
    let lease = match client.get::<Lease>("kube-system", "x").await {
        Err(_) => client.create(&lease).await.unwrap(),
        Ok(found) => client.update(&Lease { metadata: found.metadata, ..lease }).await.unwrap(),
    };
    Arc::new(Fence::of(&lease))
}

/// One write of each sort, of a map that is there.
async fn write(api: &SharedApi, fence: &Arc<Fence>, number: u32) -> Vec<Result<(), ApiError>> {
    let options = WriteOptions { fence: Some(fence.clone()), ..WriteOptions::default() };
    let target = Target::one::<ConfigMap>("default", "there");
    let object = |name: &str| {
        Object::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default"},
            "data": {"number": number.to_string()}}))
        .unwrap()
    };
    let name = format!("new-{number}");
    let made = Target { name: Some(name.clone()), ..target.clone() };
    let patch = Patch::Merge(json!({"data": {"patched": number.to_string()}}));
    let delete = DeleteOptions { fence: Some(fence.clone()), ..DeleteOptions::default() };
    vec![
        api.create(&target.collection(), object(&name), &options).await.map(drop),
        api.update(&target, object("there"), &options).await.map(drop),
        api.patch(&target, patch, &options).await.map(drop),
        api.delete(&made, &delete).await.map(drop),
    ]
}

fn is_refused(result: &Result<(), ApiError>) -> bool {
    let Err(error) = result else { return false };
    let details = error.details.iter().flat_map(|details| &details.causes);
    let causes: Vec<&str> = details.map(|cause| cause.reason.as_str()).collect();
    error.code == 409 && error.reason == Reason::Conflict && causes == [LOST]
}

#[tokio::test(start_paused = true)]
async fn a_finished_term_writes_nothing() {
    let cluster = Cluster::new().await;
    let api = cluster.server.api(User::system("kube-controller-manager"));
    let client = Client::new(api.clone(), "test");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "there"}});
    cluster.post("/api/v1/namespaces/default/configmaps", &map).await.expect(201);
    let fence = lead(&client, "a", 3).await;
    assert!(write(&api, &fence, 1).await.iter().all(Result::is_ok));
    // A renewal changes the lease and not the term.
    lead(&client, "a", 3).await;
    assert!(write(&api, &fence, 2).await.iter().all(Result::is_ok));
    let before = client.get::<ConfigMap>("default", "there").await.unwrap();
    for (holder, transitions) in [("b", 4), ("a", 5), ("", 5)] {
        lead(&client, holder, transitions).await;
        let refused = write(&api, &fence, 3).await;
        // What is not there is not found, whoever asks.
        assert!(refused[..3].iter().all(is_refused), "{refused:?}");
    }
    // Nor when the lease is made anew, and counts anew.
    cluster.delete(&format!("{LEASES}/x"), &json!({})).await.expect(200);
    assert!(write(&api, &fence, 3).await[..3].iter().all(is_refused));
    lead(&client, "a", 3).await;
    assert!(write(&api, &fence, 3).await[..3].iter().all(is_refused));
    let delete = DeleteOptions { fence: Some(fence.clone()), ..DeleteOptions::default() };
    let target = Target::one::<ConfigMap>("default", "there");
    assert!(is_refused(&api.delete(&target, &delete).await.map(drop)));
    let after = client.get::<ConfigMap>("default", "there").await.unwrap();
    assert_eq!(before, after);
}

/// Renewals that come while a term's writes are on their way fail none of them.
#[tokio::test(start_paused = true)]
async fn renewals_hold_no_write_up() {
    let cluster = Cluster::new().await;
    let api = cluster.server.api(User::system("kube-controller-manager"));
    let client = Client::new(api.clone(), "test");
    let fence = lead(&client, "a", 0).await;
    let create = |number: u32| {
        let (api, fence) = (api.clone(), fence.clone());
        async move {
            let object = Object::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("m{number}"), "namespace": "default"}}))
            .unwrap();
            let options = WriteOptions { fence: Some(fence), ..WriteOptions::default() };
            let target = Target::all::<ConfigMap>(Some("default"));
            api.create(&target, object, &options).await
        }
    };
    let renew = async {
        for _ in 0..3 {
            lead(&client, "a", 0).await;
        }
    };
    let (results, ()) = tokio::join!(futures::future::join_all((0..50).map(create)), renew);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}
