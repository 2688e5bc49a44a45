//! The Node object: what others do to it is noticed.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
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
