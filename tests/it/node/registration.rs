//! The Node object: what others do to it is noticed.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, Taint};
use wasmfleet::client::DeleteOptions;

use super::harness::Rig;

fn ready(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|c| c.type_ == "Ready").map(|c| c.status.as_str())
}

async fn until_ready(rig: &Rig, wanted: &str) {
    rig.until(|view| {
        let node = view.get::<Node>("", "n1")?;
        (ready(node) == Some(wanted)).then_some(())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_node_taken_for_lost_answers_soon() {
    let rig = Rig::start().await;
    until_ready(&rig, "True").await;
    let mut node = rig.client.get::<Node>("", "n1").await.unwrap();
    for condition in node.status.as_mut().unwrap().conditions.iter_mut().flatten() {
        condition.status = "Unknown".into();
    }
    rig.client.update_status(&node).await.unwrap();
    until_ready(&rig, "Unknown").await;
    let began = rig.clock.now();
    until_ready(&rig, "True").await;
    let took = Duration::try_from(rig.clock.now().duration_since(began)).unwrap();
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

/// The control plane takes the Lease of an agent whose tunnel broke, which may live all the same.
#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_is_renewed_soon() {
    let rig = Rig::start().await;
    until_ready(&rig, "True").await;
    let lease = async || rig.client.get::<Lease>("kube-node-lease", "n1").await;
    let renewed = async || loop {
        // The first one comes soon after the Node.
        match lease().await {
            Ok(lease) if lease.spec.as_ref().unwrap().holder_identity.is_some() => return lease,
            Err(error) if !error.is_not_found() => panic!("{error}"),
            _ => rig.clock.sleep(Duration::from_millis(100)).await,
        }
    };
    let mut taken = renewed().await;
    taken.spec.as_mut().unwrap().holder_identity = None;
    rig.client.update(&taken).await.unwrap();
    let mut node = rig.client.get::<Node>("", "n1").await.unwrap();
    for condition in node.status.as_mut().unwrap().conditions.iter_mut().flatten() {
        condition.status = "Unknown".into();
    }
    rig.client.update_status(&node).await.unwrap();
    let began = rig.clock.now();
    renewed().await;
    let took = Duration::try_from(rig.clock.now().duration_since(began)).unwrap();
    // Before the Node tells that it is ready.
    assert!(took <= Duration::from_millis(400), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_node_registers_again() {
    let rig = Rig::start().await;
    until_ready(&rig, "True").await;
    let old = rig.client.get::<Node>("", "n1").await.unwrap().metadata.uid;
    let began = rig.clock.now();
    rig.client.delete::<Node>("", "n1", &DeleteOptions::default()).await.unwrap();
    rig.until(|view| {
        let node = view.get::<Node>("", "n1")?;
        (node.metadata.uid != old && ready(node) == Some("True")).then_some(())
    })
    .await;
    let took = Duration::try_from(rig.clock.now().duration_since(began)).unwrap();
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_the_server_refuses_says_so_once() {
    let taint = Taint { key: "a".into(), effect: "NoSchedule".into(), ..Taint::default() };
    let rig = Rig::begin(|options| options.taints = vec![taint.clone(), taint]).await;
    let error = tokio::time::timeout(Duration::from_secs(60), rig.node.refused()).await.unwrap();
    assert_eq!(error.code, 422, "{error}");
    assert!(error.message.contains("taints"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_lease_is_renewed_in_time_for_the_control_plane() {
    let rig = Rig::start().await;
    until_ready(&rig, "True").await;
    let lease = || async {
        loop {
            // The first one comes soon after the Node.
            match rig.client.get::<Lease>("kube-node-lease", "n1").await {
                Ok(lease) => return lease.spec,
                Err(error) => assert!(error.is_not_found(), "{error}"),
            }
            rig.clock.sleep(Duration::from_millis(100)).await;
        }
    };
    let seconds = |lease: Option<LeaseSpec>| lease.and_then(|lease| lease.lease_duration_seconds);
    assert_eq!(seconds(lease().await), Some(40));
    rig.node.set_grace(Duration::from_secs(9));
    rig.clock.sleep(Duration::from_secs(10)).await;
    let told = lease().await;
    let renewed = told.as_ref().and_then(|lease| lease.renew_time.as_ref()).unwrap().0;
    let age = rig.clock.now().duration_since(renewed).as_secs();
    assert!(age <= 3, "{age} s");
    assert_eq!(seconds(told), Some(9));
}
