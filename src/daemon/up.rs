//! `wasmfleet up` and `wasmfleet server`.

use std::future::Future;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use parking_lot::Mutex;

use super::args::default_data_dir;
use super::control_plane::{self, ControlPlane, Foundation};
use super::control_plane_args::{Command, ServerArgs, UpArgs};
use super::data_dir::DataDir;
use super::local_node::{self, Code};
use super::{demo, inner_node, ready, signals};
use crate::apiserver::User;
use crate::base::Tasks;
use crate::base::clock::RealClock;
use crate::client::Client;
use crate::client::cache::Cache;
use crate::client::join::Access;
use crate::client::recorder::Recorder;
use crate::client::remote::Remote;
use crate::node::Node;
use crate::proxy::Proxy;
use crate::store::SharedStore;

/// From start to every node being ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// One of the commands that have a control plane.
pub async fn run_command(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => run(args).await,
        Command::Server(args) => run_server(args).await,
    }
}

/// A whole cluster in this process.
async fn run(args: UpArgs) -> anyhow::Result<()> {
    let mut stop = pin!(signals::stop_requested());
    args.node.check_labels()?;
    args.node.check_taints()?;
    let dir = DataDir::open(&data_dir(&args.server)?)?;
    let foundation = control_plane::lay(&args.server, &dir).await?;
    let (store, tasks) = (foundation.store(), Tasks::default());
    let mut held = None;
    let result = async {
        let plane = tokio::select! {
            () = &mut stop => None,
            plane = up(&args, &dir, foundation, &tasks) => Some(plane?),
            error = failed(&store, &tasks) => return Err(error),
        };
        match (held.insert(plane), args.once) {
            (None, true) => bail!("stopped by a signal before the demo's answer"),
            (Some(_), false) => until_stopped(stop, &store, &tasks).await,
            _ => Ok(()),
        }
    };
    let result = result.await;
    shut_down(&tasks, &store).await;
    result
}

/// A control plane in this process; nodes join from others.
async fn run_server(args: ServerArgs) -> anyhow::Result<()> {
    let mut stop = pin!(signals::stop_requested());
    let dir = DataDir::open(&data_dir(&args)?)?;
    let foundation = control_plane::lay(&args, &dir).await?;
    let (store, tasks) = (foundation.store(), Tasks::default());
    let mut held = None;
    let result = async {
        let plane = tokio::select! {
            () = &mut stop => return Ok(()),
            plane = control_plane::start(foundation, &args, &dir, &tasks, &|_| {}) => plane?,
            error = failed(&store, &tasks) => return Err(error),
        };
        let plane = held.insert(plane);
        tell_paths(plane, &dir);
        println!("join token       {}", plane.join_token_file.display());
        println!(
            "join with        wasmfleet node --server {} --token-file {}",
            plane.url(),
            plane.join_token_file.display()
        );
        println!("ready");
        until_stopped(stop, &store, &tasks).await
    };
    let result = result.await;
    shut_down(&tasks, &store).await;
    result
}

/// Waits for a signal, or for what makes going on pointless.
async fn until_stopped(
    stop: impl Future<Output = ()>,
    store: &SharedStore,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    tokio::select! {
        () = stop => Ok(()),
        error = failed(store, tasks) => Err(error),
    }
}

/// A store or a task that failed is mended by a new start only: whoever supervises this process
/// must see its end. Running on, it would look whole.
async fn failed(store: &SharedStore, tasks: &Tasks) -> anyhow::Error {
    tokio::select! {
        why = store.failed() => anyhow!(
            "the store failed ({why}); what was acknowledged is on the disk: check the disk, and \
             start again"
        ),
        ended = tasks.first_end() => anyhow!("{ended}; start again"),
    }
}

fn data_dir(args: &ServerArgs) -> anyhow::Result<PathBuf> {
    let chosen = args.data_dir.clone().or_else(|| default_data_dir("wasmfleet"));
    chosen.context("there is no home directory; name a data directory with --data-dir")
}

/// Stops the tasks, then closes the store: also after a start that failed or was cut off.
async fn shut_down(tasks: &Tasks, store: &SharedStore) {
    super::shut_down(tasks).await;
    store.close().await;
}

fn tell_paths(plane: &ControlPlane, dir: &DataDir) {
    println!("data directory   {}", dir.path().display());
    println!("kubeconfig       {}", plane.kubeconfig.display());
    println!("API server       {}", plane.url());
}

async fn up(
    args: &UpArgs,
    dir: &DataDir,
    foundation: Foundation,
    tasks: &Tasks,
) -> anyhow::Result<ControlPlane> {
    let proxy = Arc::new(Mutex::new(None));
    let notices = Arc::new(Mutex::new(None::<Recorder>));
    let attach = |cache: &Arc<Cache>| {
        let notices = notices.clone();
        let tell = Arc::new(move |notice| {
            if let Some(recorder) = notices.lock().as_ref() {
                recorder.record(notice);
            }
        });
        *proxy.lock() = Some(Proxy::new(cache.clone(), Arc::new(RealClock), tell));
    };
    let plane = control_plane::start(foundation, &args.server, dir, tasks, &attach).await?;
    tell_paths(&plane, dir);
    let proxy_api = plane.server.api(User::system("kube-proxy"));
    let recorder = Recorder::new(proxy_api.clone(), "kube-proxy", plane.clock.clone());
    recorder.run(tasks);
    *notices.lock() = Some(recorder);
    let proxy = proxy.lock().take();
    let nodes = start_nodes(args, dir, &plane, proxy.as_ref(), tasks)?;
    if let Some(proxy) = proxy {
        proxy.run(&Client::new(proxy_api, "kube-proxy"), tasks);
    }
    let names: Vec<String> = nodes.iter().map(|node| node.name().to_string()).collect();
    let ready = async {
        tokio::select! {
            refused = first_refused(&nodes) => Err(refused),
            () = ready::wait(&plane.cache, &names) => Ok(()),
        }
    };
    match tokio::time::timeout(READY_LIMIT, ready).await {
        Ok(ready) => ready.map(|()| println!("ready"))?,
        Err(_) => bail!("the nodes did not get ready in {READY_LIMIT:?}; --log info tells more"),
    }
    if args.demo {
        let remote = connect(&plane)?;
        let client = Client::new(Arc::new(remote.clone()), "wasmfleet-demo");
        demo::run(&remote, &client, &plane.kubeconfig).await?;
    }
    Ok(plane)
}

fn start_nodes(
    args: &UpArgs,
    dir: &DataDir,
    plane: &ControlPlane,
    proxy: Option<&Arc<Proxy>>,
    tasks: &Tasks,
) -> anyhow::Result<Vec<Node>> {
    let names: Vec<String> = (1..=args.nodes).map(|n| format!("node-{n}")).collect();
    let mut nodes = Vec::new();
    if names.is_empty() {
        return Ok(nodes);
    }
    let ranges = plane.network.ranges()?;
    let access = local_node::api_access(&Access::read(&plane.kubeconfig)?, &ranges)?;
    let code = Code::Compiled(args.server.compile.options()?);
    let runtime = local_node::runtime(dir.path(), ranges.clone(), access, code)?;
    for name in &names {
        let node_dir = dir.join("nodes").join(name);
        let options = local_node::options(name, &node_dir, &args.node, args.nodes)?;
        let node = inner_node::start(plane, options, &args.node, runtime.clone(), tasks);
        nodes.push(node.with_context(|| format!("starting {name}"))?);
        if let Some(proxy) = proxy {
            proxy.add_local_node(name);
        }
    }
    Ok(nodes)
}

/// Resolves if the server refuses one of the nodes.
async fn first_refused(nodes: &[Node]) -> anyhow::Error {
    let refused = nodes.iter().map(|node| Box::pin(async { (node.name(), node.refused().await) }));
    let refused: Vec<_> = refused.collect();
    if refused.is_empty() {
        return std::future::pending().await;
    }
    let ((name, error), _, _) = futures::future::select_all(refused).await;
    local_node::refused(name, error)
}

/// Connects as any client would, with the kubeconfig that was written.
fn connect(plane: &ControlPlane) -> anyhow::Result<Remote> {
    Ok(Remote::certified(&Access::read(&plane.kubeconfig)?)?)
}
