//! Simulated nodes against a real API server over a store in memory, on paused time: what they tell,
//! and what their credentials may not do.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};
use wasmfleet::api::ApiError;
use wasmfleet::api::simulated::SIMULATOR_LABEL;
use wasmfleet::apiserver::{ApiServer, User};
use wasmfleet::base::{SharedClock, Tasks};
use wasmfleet::client::cache::{Cache, View};
use wasmfleet::client::{Client, DeleteOptions, ListOptions, Patch};
use wasmfleet::node::LeaseTimes;
use wasmfleet::node::simulated::{Options, Simulator, parse_capacity};

use super::harness::api_server;

/// The longest that a test waits, on virtual time.
const PATIENCE: Duration = Duration::from_secs(3600);

struct Rig {
    server: Arc<ApiServer>,
    client: Client,
    clock: SharedClock,
    cache: Arc<Cache>,
    changed: Arc<tokio::sync::Notify>,
    tasks: Tasks,
    watching: Tasks,
}

fn options(nodes: u32) -> Options {
    Options {
        name: "sim".into(),
        nodes,
        holder: "machine_1".into(),
        capacity: parse_capacity("cpu=4,memory=8Gi,pods=10").unwrap(),
        labels: [("topology.kubernetes.io/zone".to_string(), "z{i%2}".parse().unwrap())].into(),
        taints: Vec::new(),
        start_delay: Duration::from_secs(2),
        finish_after: Some(Duration::from_secs(30)),
        lease: LeaseTimes::of_heartbeat(Duration::from_secs(10)),
        host_ip: Ipv4Addr::LOCALHOST.into(),
    }
}

impl Rig {
    async fn start() -> Rig {
        let (server, clock) = api_server().await;
        let api = server.api(User::system("test"));
        let (cache, changed) = (Cache::new(), Arc::new(tokio::sync::Notify::new()));
        let wake = changed.clone();
        cache.listen(Box::new(move |_| wake.notify_one()));
        let watching = Tasks::default();
        cache.keep::<Pod>(api.clone(), "", &watching);
        cache.keep::<Node>(api.clone(), "", &watching);
        let client = Client::new(api, "test");
        Rig { server, client, clock, cache, changed, tasks: Tasks::default(), watching }
    }

    async fn simulate(&self, options: Options) -> Simulator {
        let api = self.server.api(User::simulator(&options.name));
        let simulator = Simulator::new(options, api, self.clock.clone());
        simulator.run(&self.tasks);
        tokio::time::timeout(PATIENCE, simulator.registered()).await.unwrap();
        simulator
    }

    async fn until<T>(&self, mut look: impl FnMut(&View) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if let Some(found) = look(&self.cache.view()) {
                    return found;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.expect("it came")
    }

    async fn bound(&self, name: &str, node: &str, more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "web:v1"}]},
        });
        for (field, value) in more.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        self.client.create(&serde_json::from_value(pod).unwrap()).await.unwrap()
    }

    async fn phase(&self, name: &str, phase: &str) -> Arc<Pod> {
        let is = |pod: &&Arc<Pod>| pod.status.as_ref().unwrap().phase.as_deref() == Some(phase);
        self.until(|view| view.get::<Pod>("default", name).filter(is).cloned()).await
    }

    async fn end(self) {
        assert!(self.tasks.shut_down(Duration::from_secs(5)).await.is_empty());
        assert!(self.watching.shut_down(Duration::from_secs(5)).await.is_empty());
    }
}

fn holds(pod: &Pod, type_: &str) -> bool {
    let conditions = pod.status.as_ref().unwrap().conditions.iter().flatten();
    conditions.into_iter().any(|one| one.type_ == type_ && one.status == "True")
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|one| one.type_ == "Ready" && one.status == "True")
}

#[tokio::test(start_paused = true)]
async fn nodes_register_and_their_pods_run_finish_and_go() {
    let rig = Rig::start().await;
    let simulator = rig.simulate(options(120)).await;
    let nodes = rig.client.list::<Node>(None, &ListOptions::default()).await.unwrap();
    assert_eq!(nodes.len(), 120);
    let last = nodes.iter().find(|node| node.metadata.name.as_deref() == Some("sim-119")).unwrap();
    let labels = last.metadata.labels.as_ref().unwrap();
    assert_eq!(labels["topology.kubernetes.io/zone"], "z1");
    assert_eq!(labels[SIMULATOR_LABEL], "sim");
    assert_eq!(last.status.as_ref().unwrap().allocatable.as_ref().unwrap()["memory"].0, "8Gi");
    assert!(nodes.iter().all(ready));
    let leases = ListOptions::default();
    let leases = rig.client.list::<Lease>(Some("kube-node-lease"), &leases).await.unwrap();
    assert_eq!(leases.len(), 1, "one heartbeat for all");

    let begin = rig.clock.now();
    rig.bound("web", "sim-3", json!({})).await;
    rig.bound("job", "sim-4", json!({"restartPolicy": "Never"})).await;
    rig.bound("other", "n1", json!({})).await;
    rig.bound("beyond", "sim-120", json!({})).await;
    let web = rig.phase("web", "Running").await;
    let took = rig.clock.now().duration_since(begin).as_secs();
    assert!((2..4).contains(&took), "the delay is kept: {took} s");
    assert!(["Ready", "ContainersReady", "Initialized"].iter().all(|type_| holds(&web, type_)));
    let status = web.status.as_ref().unwrap();
    assert!(status.pod_ip.as_ref().unwrap().starts_with("127."), "{:?}", status.pod_ip);
    assert_eq!(status.container_statuses.as_ref().unwrap()[0].image, "web:v1");
    let job = rig.phase("job", "Succeeded").await;
    let state = job.status.as_ref().unwrap().container_statuses.as_ref().unwrap()[0].clone().state;
    assert_eq!(state.unwrap().terminated.unwrap().exit_code, 0);
    assert!(!holds(&job, "Ready"));
    for name in ["other", "beyond"] {
        let pod = rig.client.get::<Pod>("default", name).await.unwrap();
        assert_eq!(pod.status.unwrap().phase.as_deref(), Some("Pending"), "{name}");
    }

    rig.client.delete::<Pod>("default", "web", &DeleteOptions::default()).await.unwrap();
    rig.until(|view| view.get::<Pod>("default", "web").is_none().then_some(())).await;
    assert_eq!(simulator.pods(), 0, "nothing is remembered of pods that are gone");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn nodes_and_pods_taken_for_lost_are_told_again() {
    let mut rig = Rig::start().await;
    rig.simulate(options(2)).await;
    rig.bound("web", "sim-0", json!({})).await;
    let web = rig.phase("web", "Running").await;
    // As the control plane does after a silence.
    let mut node = rig.client.get::<Node>("", "sim-0").await.unwrap();
    for condition in node.status.as_mut().unwrap().conditions.iter_mut().flatten() {
        condition.status = "Unknown".into();
    }
    rig.client.update_status(&node).await.unwrap();
    let mut pod = Pod::clone(&web);
    for condition in pod.status.as_mut().unwrap().conditions.iter_mut().flatten() {
        condition.status = "False".into();
    }
    rig.client.update_status(&pod).await.unwrap();
    rig.until(|view| view.get::<Node>("", "sim-0").filter(|node| !ready(node)).map(drop)).await;
    rig.until(|view| view.get::<Node>("", "sim-0").filter(|node| ready(node)).map(drop)).await;
    let again = |pod: &&Arc<Pod>| holds(pod, "Ready");
    let now = rig.until(|view| view.get::<Pod>("default", "web").filter(again).cloned()).await;
    let ip = |pod: &Pod| pod.status.as_ref().unwrap().pod_ip.clone();
    assert_eq!(ip(&now), ip(&web));
    // One that was deleted registers again, as every agent does.
    let old = rig.client.get::<Node>("", "sim-1").await.unwrap().metadata.uid;
    rig.client.delete::<Node>("", "sim-1", &DeleteOptions::default()).await.unwrap();
    let is_new = |node: &&Arc<Node>| node.metadata.uid != old;
    rig.until(|view| view.get::<Node>("", "sim-1").filter(is_new).map(drop)).await;
    // Another process takes everything over as it stands.
    assert!(rig.tasks.shut_down(Duration::from_secs(5)).await.is_empty());
    rig.tasks = Tasks::default();
    let simulator = rig.simulate(options(2)).await;
    rig.bound("more", "sim-0", json!({})).await;
    let more = rig.phase("more", "Running").await;
    assert_ne!(ip(&more), ip(&web));
    assert_eq!(simulator.pods(), 2);
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_simulator_may_do_nothing_but_stand_for_its_nodes() {
    let rig = Rig::start().await;
    rig.simulate(options(1)).await;
    rig.bound("mine", "sim-0", json!({})).await;
    rig.bound("other", "n1", json!({})).await;
    rig.phase("mine", "Running").await;
    let sim = Client::new(rig.server.api(User::simulator("sim")), "test");
    let forbidden = |done: Result<(), ApiError>, what: &str| match done {
        Err(error) => assert_eq!(error.code, 403, "{what}: {error}"),
        Ok(()) => panic!("{what} was allowed"),
    };
    let named = |name: &str, label: Option<&str>| -> Node {
        let labels = label.map(|value| json!({SIMULATOR_LABEL: value})).unwrap_or_default();
        serde_json::from_value(json!({"metadata": {"name": name, "labels": labels}})).unwrap()
    };
    let created = |node: Node| {
        let sim = &sim;
        async move { sim.create(&node).await.map(drop) }
    };
    forbidden(created(named("n1", Some("sim"))).await, "another node");
    forbidden(created(named("sim-x-1", Some("sim"))).await, "another simulator's node");
    forbidden(created(named("sim-7", None)).await, "a node that lives by a Lease of its own");
    forbidden(created(named("sim-7", Some("n1"))).await, "a node that lives by another's Lease");
    let taints = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
    let tainted = sim.patch::<Node>("", "sim-0", Patch::Merge(taints)).await;
    forbidden(tainted.map(drop), "taints of a Node that exists");
    let failed = || Patch::Merge(json!({"status": {"phase": "Failed"}}));
    let target = wasmfleet::client::Target::one::<Pod>("default", "other").subresource("status");
    let patched = sim.api.patch(&target, failed(), &Default::default()).await;
    forbidden(patched.map(drop), "the status of another node's pod");
    let deleted = sim.delete::<Pod>("default", "other", &DeleteOptions::default()).await;
    forbidden(deleted, "another node's pod");
    let lease = sim.get::<Lease>("kube-node-lease", "n1").await;
    forbidden(lease.map(drop), "another's Lease");
    let secret = sim.get::<k8s_openapi::api::core::v1::Secret>("default", "x").await;
    forbidden(secret.map(drop), "a Secret");
    // And no agent of a machine passes for a simulated node.
    let agent = Client::new(rig.server.api(User::node("n2")), "test");
    let posing = agent.create(&named("n2", Some("sim"))).await;
    forbidden(posing.map(drop), "a machine that lives by a simulator's Lease");
    rig.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_simulator_of_a_name_ends_before_it_tells_anything() {
    let mut rig = Rig::start().await;
    rig.simulate(options(3)).await;
    let another = || Options {
        holder: "machine_2".into(),
        capacity: parse_capacity("cpu=99").unwrap(),
        ..options(2)
    };
    let second =
        Simulator::new(another(), rig.server.api(User::simulator("sim")), rig.clock.clone());
    let tasks = Tasks::default();
    second.run(&tasks);
    let why = tokio::time::timeout(PATIENCE, second.failed()).await.unwrap();
    assert!(why.starts_with("there is a simulator sim already: machine_1"), "{why}");
    assert!(tasks.shut_down(Duration::from_secs(5)).await.is_empty());
    let cpu =
        |node: &Node| node.status.as_ref().unwrap().capacity.as_ref().unwrap()["cpu"].0.clone();
    let node = rig.client.get::<Node>("", "sim-0").await.unwrap();
    assert_eq!(cpu(&node), "4");
    let lease = async || rig.client.get::<Lease>("kube-node-lease", "sim").await;
    assert!(lease().await.is_ok(), "it is the first one's");
    // The first one ends, and takes its Lease with it: the name is free.
    assert!(rig.tasks.shut_down(Duration::from_secs(5)).await.is_empty());
    assert!(lease().await.is_err_and(|error| error.is_not_found()));
    rig.tasks = Tasks::default();
    let began = rig.clock.now();
    rig.simulate(another()).await;
    assert!(rig.clock.now().duration_since(began).as_secs() < 10);
    let is_new = |node: &&Arc<Node>| cpu(node) == "99";
    rig.until(|view| view.get::<Node>("", "sim-0").filter(is_new).map(drop)).await;
    rig.end().await;
}
