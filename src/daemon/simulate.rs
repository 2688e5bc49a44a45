//! `wasmfleet node --simulate N`: many nodes that run nothing, in one process.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::agent::{connect, data_dir, work_until_stopped};
use super::args::NodeArgs;
use super::join::Joiner;
use super::signals;
use crate::api::simulated::{SIMULATOR, is_simulator_name, node_name};
use crate::base::Tasks;
use crate::base::clock::RealClock;
use crate::base::ids::Ids;
use crate::node::LeaseTimes;
use crate::node::simulated::{Options, Simulator};

/// What a node has where nobody says: a machine of a usual size, and kubelet's number of pods.
const CAPACITY: [(&str, &str); 3] = [("cpu", "32"), ("memory", "64Gi"), ("pods", "110")];

/// Joins if need be, and stands for the nodes until a signal comes.
pub async fn run(args: &NodeArgs, nodes: u32) -> anyhow::Result<()> {
    let stop = signals::stop_requested();
    let name = args.name.clone().unwrap_or_else(|| SIMULATOR.to_string());
    if !is_simulator_name(&name) {
        bail!(
            "--name {name:?}: a simulator is called {SIMULATOR}, or {SIMULATOR}-… in lower case \
             letters, digits and '-'; its nodes get its name and a number"
        );
    }
    let dir = data_dir(args, "wasmfleet-simulator")?;
    let tasks = Tasks::default();
    let work = async {
        let remote = connect(args, &dir, Joiner::Simulator(&name)).await?;
        let holder = dir.identity(&Ids::from_system())?;
        let options = options(args, &name, nodes, holder);
        let simulator = Simulator::new(options, Arc::new(remote), Arc::new(RealClock));
        simulator.run(&tasks);
        println!("data directory   {}", dir.path().display());
        println!("nodes            {} to {}", node_name(&name, 0), node_name(&name, nodes - 1));
        let ready = async {
            simulator.registered().await;
            println!("ready");
            std::future::pending().await
        };
        tokio::select! {
            why = simulator.failed() => bail!(why),
            ended = ready => ended,
        }
    };
    work_until_stopped(stop, work, &tasks).await
}

fn options(args: &NodeArgs, name: &str, nodes: u32, holder: String) -> Options {
    let usual = CAPACITY.map(|(name, amount)| (name.to_string(), Quantity(amount.to_string())));
    let named = args.simulated.capacity.clone().unwrap_or_default();
    let heartbeat = args.tuning.heartbeat_seconds;
    Options {
        name: name.to_string(),
        nodes,
        holder,
        capacity: usual.into_iter().chain(named).collect(),
        labels: args.tuning.labels.iter().cloned().collect(),
        taints: args.tuning.taints.clone(),
        start_delay: args.simulated.start_delay,
        finish_after: args.simulated.finish_after,
        lease: LeaseTimes::of_heartbeat(Duration::from_secs(heartbeat)),
        host_ip: Ipv4Addr::LOCALHOST.into(),
    }
}
