//! Waits for nodes to be Ready.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::client::cache::Cache;

/// Waits until the cache, which is filled, shows every named node Ready.
pub async fn wait(cache: &Arc<Cache>, names: &[String]) {
    let changed = Arc::new(tokio::sync::Notify::new());
    let wake = changed.clone();
    cache.listen(Box::new(move |change| {
        if change.typed::<Node>() != (None, None) {
            wake.notify_one();
        }
    }));
    cache.wait_synced().await;
    loop {
        let ready = {
            let view = cache.view();
            names.iter().all(|name| view.get::<Node>("", name).is_some_and(|node| is_ready(node)))
        };
        if ready {
            return;
        }
        changed.notified().await;
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}
