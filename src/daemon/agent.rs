//! `wasmfleet node`: a node agent in a process of its own, over HTTPS.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::args::{NodeArgs, default_data_dir};
use super::data_dir::DataDir;
use super::images;
use super::names::ServiceNames;
use super::{SHUTDOWN_LIMIT, join, local_node, signals};
use crate::apiserver::nodes::tunnel_path;
use crate::base::clock::RealClock;
use crate::base::ids::Ids;
use crate::base::{SharedClock, Tasks};
use crate::client::cache::Cache;
use crate::client::recorder::Recorder;
use crate::client::remote::Remote;
use crate::client::{Api, SharedApi, Target};
use crate::node::{Node, Parts, tunnel};
use crate::proxy::Proxy;

/// What the server knows the tunnel's protocol as.
const TUNNEL_PROTOCOL: &str = "wasmfleet-tunnel";
/// The wait before a lost tunnel is dialled again, doubling to the most.
const FIRST_REDIAL: Duration = Duration::from_millis(100);
const MOST_REDIAL: Duration = Duration::from_secs(10);
/// A tunnel that held so long was a good one.
const GOOD_TUNNEL: Duration = Duration::from_secs(30);

/// Joins if need be, and runs pods until a signal comes.
pub async fn run(args: NodeArgs) -> anyhow::Result<()> {
    let chosen = args.data_dir.clone().or_else(|| default_data_dir("wasmfleet-node"));
    let path =
        chosen.context("there is no home directory; name a data directory with --data-dir")?;
    let dir = DataDir::open(&path)?;
    let name = args.name.clone().unwrap_or_else(host_name);
    let remote = connect(&args, &dir, &name).await?;
    let tasks = Tasks::default();
    start(&args, &dir, &name, remote, &tasks)?;
    println!("data directory   {}", dir.path().display());
    println!("node             {name}");
    println!("ready");
    signals::stop_requested().await;
    let late = tasks.shut_down(SHUTDOWN_LIMIT).await;
    if !late.is_empty() {
        tracing::warn!(?late, "tasks did not stop in time");
    }
    Ok(())
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    name.split('.').next().unwrap_or_default().to_string()
}

/// With the node's own credentials, which the join token buys the first time.
async fn connect(args: &NodeArgs, dir: &DataDir, name: &str) -> anyhow::Result<Remote> {
    let kubeconfig: PathBuf = dir.join(join::KUBECONFIG);
    if !kubeconfig.exists() {
        let token = match (&args.token, &args.token_file) {
            (Some(token), _) => token.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .with_context(|| format!("the token file {} cannot be read", file.display()))?,
            (None, None) => bail!(
                "this node has not joined yet: give --token-file FILE (the server prints its path) \
                 or --token TOKEN"
            ),
        };
        join::join(&args.server, token.trim(), name, dir.path()).await?;
    }
    let file = kube::config::Kubeconfig::read_from(&kubeconfig)?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
    config.cluster_url = args.server.parse().context("--server is no URL")?;
    let remote = Remote::new(config)?;
    // A wrong address, an expired certificate or another's name is told now, not in the logs.
    let own = Target::one::<k8s_openapi::api::core::v1::Node>("", name);
    match remote.get(&own).await {
        Err(error) if !error.is_not_found() => {
            let what = format!("cannot work as node {name} at {}", args.server);
            Err(anyhow::Error::from(error).context(what))
        }
        _ => Ok(remote),
    }
}

fn start(
    args: &NodeArgs,
    dir: &DataDir,
    name: &str,
    remote: Remote,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let api: SharedApi = Arc::new(remote.clone());
    let clock: SharedClock = Arc::new(RealClock);
    let recorder = Recorder::new(api.clone(), "kubelet", clock.clone());
    recorder.run(tasks);
    let record = Arc::new(move |notice| recorder.record(notice));
    let runtime = local_node::runtime(dir.path(), join::cluster_ranges(dir.path())?)?;
    let cache = Cache::new();
    let parts = Parts {
        api: api.clone(),
        runtime,
        images: Arc::new(images::open(api.clone(), &dir.join("images"))?),
        names: ServiceNames::new(cache.clone()),
        clock: clock.clone(),
        ids: Arc::new(Ids::from_system()),
        notices: record.clone(),
    };
    let node = Node::new(local_node::options(name, dir.path(), &args.tuning, 1), parts)?;
    let proxy = Proxy::new(cache.clone(), clock, record);
    proxy.add_local_node(name);
    cache.keep::<Service>(api.clone(), "", tasks);
    cache.keep::<EndpointSlice>(api, "", tasks);
    proxy.run(tasks);
    let (dialled, stop) = (node.clone(), tasks.stop());
    tasks.spawn("tunnel", async move { keep_tunnel(remote, dialled, stop).await });
    node.run(tasks);
    Ok(())
}

/// Dials the server, serves until the tunnel is lost, and dials again.
async fn keep_tunnel(remote: Remote, node: Node, stop: crate::base::tasks::Stop) {
    let path = tunnel_path(node.name());
    let mut wait = FIRST_REDIAL;
    loop {
        let begin = tokio::time::Instant::now();
        match remote.upgrade(&path, TUNNEL_PROTOCOL).await {
            Ok(stream) => tunnel::serve(stream, node.clone(), stop.clone()).await,
            Err(error) => tracing::warn!(%error, "the tunnel could not be opened"),
        }
        if begin.elapsed() > GOOD_TUNNEL {
            wait = FIRST_REDIAL;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MOST_REDIAL);
    }
}
