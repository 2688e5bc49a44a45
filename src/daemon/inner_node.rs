//! Nodes in the control plane's process: the same agent as elsewhere, over the API without HTTP
//! and a tunnel that is a pipe.

use std::sync::Arc;
use std::time::Duration;

use super::args::NodeTuning;
use super::control_plane::ControlPlane;
use super::images;
use super::names::ServiceNames;
use crate::apiserver::User;
use crate::base::Tasks;
use crate::base::ids::Ids;
use crate::client::recorder::Recorder;
use crate::node::{self, Node, Parts, tunnel};
use crate::runtime::Runtime;

/// Bytes in flight in a tunnel that is a pipe.
const PIPE_BYTES: usize = 64 << 10;

/// The wait before a tunnel that ended is made anew.
const REATTACH_WAIT: Duration = Duration::from_millis(100);

/// Starts a node agent of this process.
pub fn start(
    plane: &ControlPlane,
    options: node::Options,
    tuning: &NodeTuning,
    runtime: Arc<dyn Runtime>,
    tasks: &Tasks,
) -> anyhow::Result<Node> {
    let (name, dir) = (options.name.clone(), options.data_dir.clone());
    let api = plane.server.api(User::node(&name));
    let recorder = Recorder::new(api.clone(), "kubelet", plane.clock.clone());
    recorder.run(tasks);
    let images = images::open(api.clone(), &dir.join("images"), tuning, runtime.clone(), tasks)?;
    let services = ServiceNames::new(plane.cache.clone());
    let parts = Parts {
        api,
        runtime,
        images: Arc::new(images),
        names: services.clone(),
        services,
        clock: plane.clock.clone(),
        ids: Arc::new(Ids::from_system()),
        notices: Arc::new(move |notice| recorder.record(notice)),
    };
    let node = Node::new(options, parts)?;
    node.set_grace(plane.node_grace);
    let (tunnels, served, stop) = (plane.tunnels.clone(), node.clone(), tasks.stop());
    tasks.spawn_until_done("tunnel", async move {
        // It is closed when its Node is deleted; the agent registers again and needs another.
        while !stop.is_set() {
            let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
            tunnels.attach(served.name(), ours);
            tunnel::serve(theirs, served.clone(), stop.clone()).await;
            tokio::time::sleep(REATTACH_WAIT).await;
        }
    });
    node.run(tasks);
    Ok(node)
}
