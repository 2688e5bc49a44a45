//! Notices agents that ended: the tunnel of one that was killed breaks at once, long before its Lease
//! is too old. One that does not dial again within a second loses its Lease, by which the
//! node lifecycle controller knows that the node is lost.
//!
//! A tunnel that is silent and times out says nothing of its agent, and neither does it when most
//! tunnels break: that is a fault of the network or of ours. Then the grace of the Lease decides.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::coordination::v1::Lease;
use tokio::sync::mpsc::Receiver;

use crate::api::ApiError;
use crate::apiserver::nodes::Tunnels;
use crate::client::Client;
use crate::controllers::NODE_LEASES;

/// An agent that lives dials again at once.
const REDIALLED: Duration = Duration::from_secs(1);
/// Broken tunnels that are looked at, at the same time; of those beyond, the Lease tells.
const MOST: usize = 1024;

/// Follows the ends of tunnels, for ever.
pub async fn follow(tunnels: Arc<Tunnels>, mut ends: Receiver<String>, client: Client) {
    let mut waiting = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(node) = ends.recv(), if waiting.len() < MOST => {
                waiting.push(async move {
                    tokio::time::sleep(REDIALLED).await;
                    node
                });
            }
            Some(node) = waiting.next() => {
                let gone = 1 + waiting.len();
                if tunnels.is_connected(&node) || gone > tunnels.connected() {
                    continue;
                }
                match release(&client, &node).await {
                    Ok(()) => tracing::warn!(node, "the node's agent ended"),
                    // It was renewed meanwhile, or its node is gone.
                    Err(error) if error.is_conflict() || error.is_not_found() => {}
                    Err(error) => tracing::warn!(node, %error, "the end of an agent was not told"),
                }
            }
            else => return,
        }
    }
}

/// Nobody holds the Lease any more.
async fn release(client: &Client, node: &str) -> Result<(), ApiError> {
    let mut lease = client.get::<Lease>(NODE_LEASES, node).await?;
    if let Some(spec) = &mut lease.spec {
        spec.holder_identity = None;
    }
    client.update(&lease).await.map(drop)
}
