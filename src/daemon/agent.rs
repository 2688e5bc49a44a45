//! `wasmfleet node`: a node agent in a process of its own, over HTTPS.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use k8s_openapi::api::core::v1::{Node as NodeObject, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::time::Instant;

use super::args::{NodeArgs, default_data_dir};
use super::data_dir::DataDir;
use super::images;
use super::join::Joiner;
use super::local_node::{self, Code};
use super::names::ServiceNames;
use super::{SHUTDOWN_LIMIT, code, join, ready, shut_down, signals, simulate};
use crate::api::ApiError;
use crate::base::clock::RealClock;
use crate::base::ids::Ids;
use crate::base::tasks::Stop;
use crate::base::{SharedClock, Tasks};
use crate::client::cache::Cache;
use crate::client::join::Access;
use crate::client::node_paths::{GRACE_HEADER, TUNNEL_PROTOCOL, tunnel_path};
use crate::client::recorder::Recorder;
use crate::client::remote::Remote;
use crate::client::{Api, Client, SharedApi, Target};
use crate::node::{Node, Parts, tunnel};
use crate::proxy::Proxy;

/// The wait before a lost tunnel is dialled again, doubling to the most.
const FIRST_REDIAL: Duration = Duration::from_millis(100);
const MOST_REDIAL: Duration = Duration::from_secs(10);
/// A node that is not Ready, or whose control plane is away, tells so this often.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// A tunnel that held so long was a good one.
const GOOD_TUNNEL: Duration = Duration::from_secs(30);

/// Joins if need be, and runs pods until a signal comes.
pub async fn run(args: NodeArgs) -> anyhow::Result<()> {
    args.tuning.check_taints()?;
    if let Some(nodes) = args.simulated.simulate {
        return simulate::run(&args, nodes).await;
    }
    let stop = signals::stop_requested();
    let dir = data_dir(&args, "wasmfleet-node")?;
    let name = args.name.clone().unwrap_or_else(host_name);
    args.tuning.check_labels()?;
    let tasks = Tasks::default();
    let work = async {
        let remote = connect(&args, &dir, Joiner::Node(&name)).await?;
        let node = start(&args, &dir, &name, remote.clone(), &tasks)?;
        println!("data directory   {}", dir.path().display());
        println!("node             {name}");
        let ready = async {
            wait_ready(remote, &name).await;
            println!("ready");
            std::future::pending().await
        };
        tokio::select! {
            error = node.refused() => Err(local_node::refused(&name, error)),
            ended = ready => ended,
        }
    };
    work_until_stopped(stop, work, &tasks).await
}

/// Works until a signal comes, or a task ends that should not; then stops the tasks.
pub(super) async fn work_until_stopped(
    stop: impl Future<Output = ()>,
    work: impl Future<Output = anyhow::Result<()>>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let result = tokio::select! {
        () = stop => Ok(()),
        result = work => result,
        ended = tasks.first_end() => Err(anyhow!("{ended}; start again")),
    };
    shut_down(tasks).await;
    result
}

/// Waits until the control plane shows this node Ready. A node that is not stays: its control plane
/// may be away for long, and its pods must not end for it.
async fn wait_ready(remote: Remote, name: &str) {
    let (tasks, cache) = (Tasks::default(), Cache::new());
    cache.keep::<NodeObject>(Arc::new(remote), &format!("metadata.name={name}"), &tasks);
    let names = [name.to_string()];
    let mut ready = pin!(ready::wait(&cache, &names));
    while tokio::time::timeout(READY_PATIENCE, &mut ready).await.is_err() {
        tracing::warn!(node = name, "not Ready for {READY_PATIENCE:?}; --log info tells more");
    }
    tasks.shut_down(SHUTDOWN_LIMIT).await;
}

/// The directory that the user named, or the usual one.
pub(super) fn data_dir(args: &NodeArgs, usual: &str) -> anyhow::Result<DataDir> {
    let chosen = args.data_dir.clone().or_else(|| default_data_dir(usual));
    let path =
        chosen.context("there is no home directory; name a data directory with --data-dir")?;
    Ok(DataDir::open(&path)?)
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    name.split('.').next().unwrap_or_default().to_string()
}

/// With the node's own credentials, which the join token buys the first time, and again when the
/// server refuses those that are kept (it may have been made anew).
pub(super) async fn connect(
    args: &NodeArgs,
    dir: &DataDir,
    who: Joiner<'_>,
) -> anyhow::Result<Remote> {
    let name = who.name();
    let kubeconfig: PathBuf = dir.join(join::KUBECONFIG);
    let mut joined = !kubeconfig.exists();
    if joined {
        let token = token(args)?.context(
            "this node has not joined yet: give --token-file FILE (the server prints its path) or \
             --token TOKEN",
        )?;
        join::join(&args.server, &token, who, dir.path()).await?;
    }
    let mut wait = FIRST_REDIAL;
    let mut told = None::<Instant>;
    loop {
        let remote = Remote::certified(&access(args, dir)?)?;
        let own = Target::one::<NodeObject>("", name);
        let error = match remote.get(&own).await {
            Err(error) if !error.is_not_found() => error,
            _ => return Ok(remote),
        };
        if !refuses(&error) {
            if args.tuning.pod_manifest_path.is_some() && !joined {
                let server = &args.server;
                tracing::warn!(node = name, server, %error, "going on with static pods alone");
                return Ok(remote);
            }
            if told.is_none_or(|at| at.elapsed() > READY_PATIENCE) {
                told = Some(Instant::now());
                tracing::warn!(node = name, server = args.server, %error, "trying again");
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(MOST_REDIAL);
            continue;
        }
        let file = kubeconfig.display();
        let Some(token) = token(args)?.filter(|_| !joined) else {
            let what = format!(
                "cannot work as node {name} at {} with {file}; to join again, give a token \
                 (--token-file FILE) of that server",
                args.server
            );
            return Err(anyhow::Error::from(error).context(what));
        };
        tracing::warn!(node = name, %error, "the server refuses {file}; joining again");
        join::join(&args.server, &token, who, dir.path()).await?;
        joined = true;
    }
}

/// What the user gave; read only when it is needed, because its file may be gone after the join.
fn token(args: &NodeArgs) -> anyhow::Result<Option<String>> {
    let token = match (&args.token, &args.token_file) {
        (Some(token), _) => token.clone(),
        (None, Some(file)) => std::fs::read_to_string(file)
            .with_context(|| format!("the token file {} cannot be read", file.display()))?,
        (None, None) => return Ok(None),
    };
    Ok(Some(token.trim().to_string()))
}

/// What the join left in `dir`, with the server that the user names now.
fn access(args: &NodeArgs, dir: &DataDir) -> anyhow::Result<Access> {
    let file = dir.join(join::KUBECONFIG);
    let unreadable = || format!("{} cannot be read; delete it to join again", file.display());
    let access = Access::read(&file).with_context(unreadable)?;
    Ok(Access { server: args.server.clone(), ..access })
}

/// Whether an error is about who we are, or who the server is: trying again does not help. A
/// refused handshake has no code of its own, only the TLS library's words.
fn refuses(error: &ApiError) -> bool {
    let text = error.message.to_ascii_lowercase();
    matches!(error.code, 401 | 403) || text.contains("certificate") || text.contains("unknownca")
}

fn start(
    args: &NodeArgs,
    dir: &DataDir,
    name: &str,
    remote: Remote,
    tasks: &Tasks,
) -> anyhow::Result<Node> {
    let api: SharedApi = Arc::new(remote.clone());
    let clock: SharedClock = Arc::new(RealClock);
    let recorder = Recorder::new(api.clone(), "kubelet", clock.clone());
    recorder.run(tasks);
    let record = Arc::new(move |notice| recorder.record(notice));
    let ranges = join::cluster_ranges(dir.path())?;
    let access = access(args, dir)?;
    let api_access = local_node::api_access(&access, &ranges)?;
    let code = match args.compile_here() {
        true => Code::Compiled(local_node::compiler()?),
        false => Code::From(code::server(remote.clone(), name, &access.ca)?),
    };
    let runtime = local_node::runtime(dir.path(), ranges.clone(), api_access, code)?;
    let cache = Cache::new();
    let services = ServiceNames::new(cache.clone());
    let images = dir.join("images");
    let images = images::open(api.clone(), &images, &args.tuning, runtime.clone(), tasks)?;
    let parts = Parts {
        api: api.clone(),
        runtime,
        images: Arc::new(images),
        names: services.clone(),
        services,
        clock: clock.clone(),
        ids: Arc::new(Ids::from_system()),
        notices: record.clone(),
    };
    let mut options = local_node::options(name, dir.path(), &args.tuning, 1)?;
    options.fence = args.fence;
    let node = Node::new(options, parts)?;
    let proxy = Proxy::new(cache.clone(), clock, record);
    proxy.add_local_node(name);
    cache.keep::<Service>(api.clone(), "", tasks);
    cache.keep::<EndpointSlice>(api.clone(), "", tasks);
    proxy.run(&Client::new(api, "kube-proxy"), tasks);
    let (dialled, stop) = (node.clone(), tasks.stop());
    tasks.spawn_until_done("tunnel", keep_tunnel(remote, dialled, stop));
    node.run(tasks);
    Ok(node)
}

/// Dials the server, serves until the tunnel is lost, and dials again; what is open when the tasks
/// stop ends with what runs on the node.
async fn keep_tunnel(remote: Remote, node: Node, stop: Stop) {
    let path = tunnel_path(node.name());
    let mut wait = FIRST_REDIAL;
    while !stop.is_set() {
        let begin = Instant::now();
        let dialled = tokio::select! {
            () = stop.wait() => return,
            dialled = remote.upgrade(&path, TUNNEL_PROTOCOL) => dialled,
        };
        match dialled {
            Ok((stream, headers)) => {
                let grace = headers.get(GRACE_HEADER).and_then(|value| value.to_str().ok());
                if let Some(seconds) = grace.and_then(|text| text.parse().ok()) {
                    node.set_grace(Duration::from_secs(seconds));
                }
                tunnel::serve(stream, node.clone(), stop.clone()).await;
            }
            Err(error) => tracing::warn!(%error, "the tunnel could not be opened"),
        }
        if begin.elapsed() > GOOD_TUNNEL {
            wait = FIRST_REDIAL;
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(wait) => {}
        }
        wait = (wait * 2).min(MOST_REDIAL);
    }
}
