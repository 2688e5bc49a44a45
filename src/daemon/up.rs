//! `wasmfleet up` and `wasmfleet server`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use parking_lot::Mutex;

use super::args::{ServerArgs, UpArgs, default_data_dir};
use super::control_plane::{self, ControlPlane};
use super::data_dir::DataDir;
use super::{SHUTDOWN_LIMIT, demo, local_node, signals};
use crate::apiserver::User;
use crate::base::Tasks;
use crate::base::clock::RealClock;
use crate::client::Client;
use crate::client::cache::Cache;
use crate::client::recorder::Recorder;
use crate::client::remote::Remote;
use crate::proxy::Proxy;

/// From start to every node being ready.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// A whole cluster in this process.
pub async fn run(args: UpArgs) -> anyhow::Result<()> {
    let dir = DataDir::open(&data_dir(&args.server)?)?;
    let tasks = Tasks::default();
    let result = tokio::select! {
        result = up(&args, &dir, &tasks) => result,
        () = signals::stop_requested() => Ok(None),
    };
    let plane = match result {
        Ok(plane) => plane,
        Err(error) => {
            tasks.shut_down(SHUTDOWN_LIMIT).await;
            return Err(error);
        }
    };
    if plane.is_some() && !args.once {
        signals::stop_requested().await;
    }
    shut_down(&tasks, plane).await;
    Ok(())
}

/// A control plane in this process; nodes join from others.
pub async fn run_server(args: ServerArgs) -> anyhow::Result<()> {
    let dir = DataDir::open(&data_dir(&args)?)?;
    let tasks = Tasks::default();
    let plane = control_plane::start(&args, &dir, &tasks, &|_| {}).await?;
    tell_paths(&plane, &dir);
    println!("join token       {}", plane.join_token_file.display());
    println!(
        "join with        wasmfleet node --server {} --token-file {}",
        plane.url(),
        plane.join_token_file.display()
    );
    println!("ready");
    signals::stop_requested().await;
    shut_down(&tasks, Some(plane)).await;
    Ok(())
}

fn data_dir(args: &ServerArgs) -> anyhow::Result<PathBuf> {
    let chosen = args.data_dir.clone().or_else(|| default_data_dir("wasmfleet"));
    chosen.context("there is no home directory; name a data directory with --data-dir")
}

async fn shut_down(tasks: &Tasks, plane: Option<ControlPlane>) {
    let late = tasks.shut_down(SHUTDOWN_LIMIT).await;
    if !late.is_empty() {
        tracing::warn!(?late, "tasks did not stop in time");
    }
    if let Some(plane) = plane {
        plane.store.close().await;
    }
}

fn tell_paths(plane: &ControlPlane, dir: &DataDir) {
    println!("data directory   {}", dir.path().display());
    println!("kubeconfig       {}", plane.kubeconfig.display());
    println!("API server       {}", plane.url());
}

async fn up(args: &UpArgs, dir: &DataDir, tasks: &Tasks) -> anyhow::Result<Option<ControlPlane>> {
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
    let plane = control_plane::start(&args.server, dir, tasks, &attach).await?;
    tell_paths(&plane, dir);
    let recorder = Recorder::new(
        plane.server.api(User::system("kube-proxy")),
        "kube-proxy",
        plane.clock.clone(),
    );
    recorder.run(tasks);
    *notices.lock() = Some(recorder);
    let proxy = proxy.lock().take();
    let nodes = start_nodes(args, dir, &plane, proxy.as_ref(), tasks)?;
    if let Some(proxy) = proxy {
        proxy.run(tasks);
    }
    match tokio::time::timeout(READY_LIMIT, wait_nodes(&plane, &nodes)).await {
        Ok(()) => println!("ready"),
        Err(_) => bail!("the nodes did not get ready in {READY_LIMIT:?}; --log info tells more"),
    }
    if args.demo {
        let remote = connect(&plane).await?;
        let client = Client::new(Arc::new(remote.clone()), "wasmfleet-demo");
        demo::run(&remote, &client, &plane.kubeconfig).await?;
    }
    Ok(Some(plane))
}

fn start_nodes(
    args: &UpArgs,
    dir: &DataDir,
    plane: &ControlPlane,
    proxy: Option<&Arc<Proxy>>,
    tasks: &Tasks,
) -> anyhow::Result<Vec<String>> {
    let names: Vec<String> = (1..=args.nodes).map(|n| format!("node-{n}")).collect();
    if names.is_empty() {
        return Ok(names);
    }
    let runtime = local_node::runtime(dir.path(), plane.network.ranges()?)?;
    for name in &names {
        let node_dir = dir.join("nodes").join(name);
        let options = local_node::options(name, &node_dir, &args.node, args.nodes);
        local_node::start(plane, options, runtime.clone(), tasks)
            .with_context(|| format!("starting {name}"))?;
        if let Some(proxy) = proxy {
            proxy.add_local_node(name);
        }
    }
    Ok(names)
}

/// Waits until the cache shows every node of ours ready.
async fn wait_nodes(plane: &ControlPlane, names: &[String]) {
    let changed = Arc::new(tokio::sync::Notify::new());
    let wake = changed.clone();
    plane.cache.listen(Box::new(move |change| {
        if change.typed::<Node>() != (None, None) {
            wake.notify_one();
        }
    }));
    plane.cache.wait_synced().await;
    loop {
        let ready = {
            let view = plane.cache.view();
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

/// Connects as any client would, with the kubeconfig that was written.
async fn connect(plane: &ControlPlane) -> anyhow::Result<Remote> {
    let file = kube::config::Kubeconfig::read_from(&plane.kubeconfig)?;
    let config = kube::Config::from_custom_kubeconfig(file, &Default::default()).await?;
    Ok(Remote::new(config)?)
}
