//! What every node agent of a program is given: its runtime, its settings, its way to the API.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

use super::args::NodeTuning;
use crate::api::ApiError;
use crate::client::join::Access;
use crate::engine::compile::{self, CompilerPlace};
use crate::engine::supply::Server;
use crate::node::{self, Capacity, simulated::LabelPattern};
use crate::runtime::wasm::{self, WasmRuntime};
use crate::runtime::{ApiAccess, IpRange};

/// The port of the Service `kubernetes`.
const API_PORT: u16 = 443;

/// Where native code comes from.
pub enum Code {
    /// Compiled in children of this process, in bounds.
    Compiled(compile::Options),
    /// From the control plane; where there is none for this machine, as above.
    From(Server),
}

/// Compiling in children of this process, with the usual bounds.
pub fn compiler() -> anyhow::Result<compile::Options> {
    let program = std::env::current_exe().context("finding this program's own file")?;
    Ok(compile::Options::new(CompilerPlace::ChildProcess(program)))
}

/// The runtime of this process. Compiled code is kept under `dir`; guests may connect to `cluster`.
pub fn runtime(
    dir: &Path,
    cluster: Vec<IpRange>,
    api: Option<ApiAccess>,
    code: Code,
) -> anyhow::Result<Arc<WasmRuntime>> {
    let (compiler, server) = match code {
        Code::Compiled(compiler) => (compiler, None),
        Code::From(server) => (compiler()?, Some(server)),
    };
    let clock = Arc::new(jiff::Timestamp::now);
    let mut options = wasm::Options::new(compiler.place.clone(), Some(dir.join("compiled")), clock);
    options.compiler = compiler;
    options.server = server;
    options.api = api;
    options.cluster = cluster;
    Ok(WasmRuntime::new(options)?)
}

/// How guests reach the API of `access`: at the address of its Service.
pub fn api_access(access: &Access, cluster: &[IpRange]) -> anyhow::Result<Option<ApiAccess>> {
    let Some(service) = api_service(cluster) else { return Ok(None) };
    let url: http::Uri = access.server.parse().context("the server is no URL")?;
    let host = url.host().context("the server has no host")?;
    let server = format!("{host}:{}", url.port_u16().unwrap_or(API_PORT));
    let ca = access.ca.as_bytes();
    Ok(Some(ApiAccess::new(SocketAddr::new(service, API_PORT), &server, ca)?))
}

/// The address of the Service `kubernetes`: the first of the range of Services, which is the second
/// of a cluster's ranges.
pub fn api_service(cluster: &[IpRange]) -> Option<IpAddr> {
    cluster.get(1).map(IpRange::first)
}

/// What ends a process whose node the server refuses.
pub fn refused(name: &str, error: ApiError) -> anyhow::Error {
    anyhow::Error::from(error).context(format!("the server refuses the node {name}"))
}

/// The settings of a node agent that is one of `nodes` on this machine: each has its part of it.
pub fn options(
    name: &str,
    dir: &Path,
    tuning: &NodeTuning,
    nodes: u32,
) -> anyhow::Result<node::Options> {
    let mut options = node::Options::new(name, dir, Ipv4Addr::LOCALHOST.into());
    // What is low when it is left is for nobody: as a kubelet, which takes its threshold off too.
    let kept = tuning.eviction_hard.unwrap_or_default().memory.of(options.capacity.memory_bytes);
    let reserved = tuning.reserved()?;
    let share = |amount: u64| amount / u64::from(nodes.max(1));
    options.reserved = node::Reserved {
        cpu_millicores: share(reserved.cpu_millicores),
        memory_bytes: share(reserved.memory_bytes.saturating_add(kept)),
    };
    options.capacity = options.capacity.part(nodes);
    options.capacity.pods =
        tuning.max_pods.map_or_else(|| Capacity::pods_of_machine(nodes), u64::from);
    let left = options.allocatable();
    anyhow::ensure!(
        left.cpu_millicores > 0 && left.memory_bytes > 0,
        "--system-reserved leaves nothing for pods: the node has {}m of cpu and {}Mi of memory",
        options.capacity.cpu_millicores,
        options.capacity.memory_bytes >> 20
    );
    let label = |(key, value): &(String, LabelPattern)| (key.clone(), value.of(0));
    options.labels = tuning.labels.iter().map(label).collect();
    options.features = crate::artifact::interfaces::offered();
    options.taints.clone_from(&tuning.taints);
    options.host_paths.clone_from(&tuning.host_path);
    options.static_pods = tuning.pod_manifest_path.clone().map(|path| node::StaticPodSource {
        path: std::path::absolute(&path).unwrap_or(path),
        period: Duration::from_secs(tuning.file_check_seconds),
    });
    options.eviction = tuning.eviction_hard.unwrap_or_default();
    options.lease = node::LeaseTimes::of_heartbeat(Duration::from_secs(tuning.heartbeat_seconds));
    Ok(options)
}
