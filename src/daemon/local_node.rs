//! Nodes in the control plane's process: the same agent as elsewhere, over the API without HTTP
//! and a tunnel that is a pipe.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use base64::Engine;

use super::args::NodeTuning;
use super::control_plane::ControlPlane;
use super::images;
use super::names::ServiceNames;
use crate::apiserver::User;
use crate::base::Tasks;
use crate::base::ids::Ids;
use crate::client::recorder::Recorder;
use crate::engine::compile::CompilerPlace;
use crate::node::{self, Node, Parts, tunnel};
use crate::runtime::wasm::{self, WasmRuntime};
use crate::runtime::{ApiAccess, IpRange, Runtime};

/// Bytes in flight in a tunnel that is a pipe.
const PIPE_BYTES: usize = 64 << 10;

/// The wait before a tunnel that ended is made anew.
const REATTACH_WAIT: Duration = Duration::from_millis(100);

/// The port of the Service `kubernetes`.
const API_PORT: u16 = 443;

/// The runtime of this process. Compiled code is kept under `dir`; guests may connect to `cluster`.
pub fn runtime(
    dir: &Path,
    cluster: Vec<IpRange>,
    api: Option<ApiAccess>,
) -> anyhow::Result<Arc<WasmRuntime>> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    let clock = Arc::new(jiff::Timestamp::now);
    let place = CompilerPlace::ChildProcess(program);
    let mut options = wasm::Options::new(place, Some(dir.join("compiled")), clock);
    options.api = api;
    options.cluster = cluster;
    Ok(WasmRuntime::new(options)?)
}

/// How guests reach the API: at the address of its Service, with the CA of a kubeconfig. `server` is
/// used in place of the kubeconfig's.
pub fn api_access(
    kubeconfig: &Path,
    server: Option<&str>,
    cluster: &[IpRange],
) -> anyhow::Result<Option<ApiAccess>> {
    let Some(service) = api_service(cluster) else { return Ok(None) };
    let file = kube::config::Kubeconfig::read_from(kubeconfig)?;
    let one = file.clusters.into_iter().find_map(|named| named.cluster);
    let Some((Some(url), Some(ca))) = one.map(|one| (one.server, one.certificate_authority_data))
    else {
        return Ok(None);
    };
    let url: http::Uri = server.unwrap_or(&url).parse().context("the server is no URL")?;
    let host = url.host().context("the server has no host")?;
    let server = format!("{host}:{}", url.port_u16().unwrap_or(API_PORT));
    let ca = base64::engine::general_purpose::STANDARD.decode(ca)?;
    Ok(Some(ApiAccess::new(SocketAddr::new(service, API_PORT), &server, &ca)?))
}

/// The address of the Service `kubernetes`: the first of the range of Services, which is the second
/// of a cluster's ranges.
pub fn api_service(cluster: &[IpRange]) -> Option<IpAddr> {
    cluster.get(1).map(IpRange::first)
}

/// The settings of a node agent that is one of `nodes` on this machine: each has its part of it.
pub fn options(
    name: &str,
    dir: &Path,
    tuning: &NodeTuning,
    nodes: u32,
    cluster: &[IpRange],
) -> node::Options {
    let mut options = node::Options::new(name, dir, Ipv4Addr::LOCALHOST.into());
    options.api_service = api_service(cluster);
    options.capacity = options.capacity.part(nodes);
    options.capacity.pods = u64::from(tuning.max_pods);
    options.host_paths.clone_from(&tuning.host_path);
    options.eviction = tuning.eviction_hard.unwrap_or_default();
    options.lease_period = Duration::from_secs(tuning.heartbeat_seconds);
    options.lease_duration = Duration::from_secs(tuning.heartbeat_seconds * 4);
    options
}

/// Starts a node agent of this process.
pub fn start(
    plane: &ControlPlane,
    options: node::Options,
    tuning: &NodeTuning,
    runtime: Arc<dyn Runtime>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let (name, dir) = (options.name.clone(), options.data_dir.clone());
    let api = plane.server.api(User::node(&name));
    let recorder = Recorder::new(api.clone(), "kubelet", plane.clock.clone());
    recorder.run(tasks);
    let images = images::open(api.clone(), &dir.join("images"), tuning, tasks)?;
    let parts = Parts {
        api,
        runtime,
        images: Arc::new(images),
        names: ServiceNames::new(plane.cache.clone()),
        clock: plane.clock.clone(),
        ids: Arc::new(Ids::from_system()),
        notices: Arc::new(move |notice| recorder.record(notice)),
    };
    let node = Node::new(options, parts)?;
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
    Ok(())
}
