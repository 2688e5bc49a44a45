//! How a node goes down: what its containers are answering is answered first. They end with the
//! process and begin anew with the next agent, so nothing of it is told to the API, and no worker is
//! left that would start one of them again. What reaches them through the node's tunnel goes on so
//! long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::container_state::container_id;
use super::{Node, Shared};
use crate::runtime::{Container, ContainerId, RuntimeEvent};

/// What containers have to end; what still runs then is killed. Well within the time that a program
/// has to stop (`daemon`: 20 s).
const GRACE: Duration = Duration::from_secs(6);

/// Whether the node's containers have ended, since it goes down.
pub struct Left(watch::Sender<bool>);

impl Default for Left {
    fn default() -> Left {
        Left(watch::Sender::new(false))
    }
}

impl Node {
    /// Returns when what ran on the node has ended, after the tasks were told to stop.
    pub async fn left(&self) {
        // The sender is our own: there is no error.
        let _ = self.shared.left.0.subscribe().wait_for(|left| *left).await;
    }
}

/// The containers of a node that goes down.
pub struct Leaving(HashMap<ContainerId, Arc<dyn Container>>);

impl Leaving {
    /// Everything that runs now, which from now on outlives its worker.
    pub fn of(node: &Shared) -> Leaving {
        let mut all = HashMap::new();
        for (_, entry) in node.pods.all() {
            for (name, running) in entry.all_running() {
                if let Some(container) = running.container.upgrade() {
                    let attempt = running.console.log.attempt;
                    all.insert(container_id(&entry.uid, &name, attempt), container);
                }
            }
        }
        Leaving(all)
    }

    /// Asks all of them to end, and waits until they have.
    pub async fn end(mut self, node: &Shared, events: &mut mpsc::Receiver<RuntimeEvent>) {
        for container in self.0.values() {
            container.stop(GRACE);
        }
        let ended = async {
            while !self.0.is_empty()
                && let Some(event) = events.recv().await
            {
                if let RuntimeEvent::Exited { id, .. } = event {
                    self.0.remove(&id);
                }
            }
        };
        tokio::select! {
            () = ended => {}
            () = node.clock.sleep(GRACE) => {}
        }
        node.left.0.send_replace(true);
    }
}
