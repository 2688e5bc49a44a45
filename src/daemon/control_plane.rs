//! A control plane: store, API server, controllers and scheduler in one process.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use tokio::net::TcpListener;

use super::control_plane_args::ServerArgs;
use super::data_dir::{DIR_MODE, DataDir, write_private};
use super::metrics;
use super::network::{NODE_PREFIX, Network};
use super::{local_node, lost_agents};
use crate::api::registry::Registry;
use crate::apiserver::artifacts::Artifacts;
use crate::apiserver::listener::{self, Limits};
use crate::apiserver::nodes::Tunnels;
use crate::apiserver::pki::Pki;
use crate::apiserver::service::{ApiServer, ControllersPageOf, Options, Parts};
use crate::apiserver::user::SYSTEM_MASTERS;
use crate::apiserver::{User, user};
use crate::base::clock::RealClock;
use crate::base::durable::create_dirs;
use crate::base::ids::Ids;
use crate::base::{SharedClock, Tasks};
use crate::client::Client;
use crate::client::cache::Cache;
use crate::client::controller_status::{ControllersPage, LeaseStatus};
use crate::client::election::{self, Election, Fenced, Gate, Timing};
use crate::client::join::Access;
use crate::client::recorder::Recorder;
use crate::controllers::driver::DriverOptions;
use crate::controllers::{self, Driver, Stats};
use crate::engine::compile::Compiler;
use crate::engine::seal::Signer;
use crate::engine::service::{self, CompileService};
use crate::scheduler::{self, Scheduler};
use crate::store::SharedStore;
use crate::store::redb::{self, RedbStore};

/// Old Events and history are dropped this often.
const HOUSEKEEPING: Duration = Duration::from_secs(60);
/// The administrator's certificate; a new one is written at every start.
const ADMIN_DAYS: u32 = 365;

/// A running control plane.
pub struct ControlPlane {
    pub server: Arc<ApiServer>,
    pub cache: Arc<Cache>,
    pub tunnels: Arc<Tunnels>,
    pub clock: SharedClock,
    pub address: SocketAddr,
    pub kubeconfig: PathBuf,
    pub join_token_file: PathBuf,
    /// After how long without a heartbeat a node counts as lost.
    pub node_grace: Duration,
    /// Held while the cluster runs.
    pub network: Network,
}

/// What is made before anything runs. Its store is to be closed by whoever has it made.
pub struct Foundation {
    listener: TcpListener,
    address: SocketAddr,
    network: Network,
    pki: Pki,
    store: SharedStore,
    artifacts: Arc<Artifacts>,
    scheduler: scheduler::Options,
}

/// Listeners of the cache that a caller adds before the cache is filled.
pub type Attach<'a> = &'a (dyn Fn(&Arc<Cache>) + Sync);

/// Starts everything; the API answers when this returns. `attach` may add parts that listen to the
/// cache.
pub async fn start(
    foundation: Foundation,
    args: &ServerArgs,
    dir: &DataDir,
    tasks: &Tasks,
    attach: Attach<'_>,
) -> anyhow::Result<ControlPlane> {
    let clock: SharedClock = Arc::new(RealClock);
    let tunnels = Arc::new(Tunnels::default());
    let server = ApiServer::new(Parts {
        store: foundation.store.clone(),
        registry: Arc::new(Registry::builtin()),
        clock: clock.clone(),
        ids: Arc::new(Ids::from_system()),
        artifacts: Some(foundation.artifacts.clone()),
        nodes: tunnels.clone(),
        pki: Some(Arc::new(foundation.pki.clone())),
        options: Options {
            service_cidr: foundation.network.service_cidr.parse().context("--service-cidr")?,
            components: ["controller-manager", "scheduler"].map(String::from).into(),
            cluster_ranges: [&foundation.network.cluster_cidr, &foundation.network.service_cidr]
                .map(Clone::clone)
                .into(),
            node_grace: Duration::from_secs(args.node_grace_seconds),
            history_kept: Duration::from_secs(args.history_seconds),
            event_ttl: Duration::from_secs(args.event_ttl_seconds),
            ..Options::default()
        },
    });
    metrics::show_process(server.metrics(), clock.now());
    metrics::show_store(server.metrics(), foundation.store.clone());
    foundation.artifacts.check_with(Compiler::new(args.compile.options()?));
    compile_for_nodes(args, dir, &foundation.pki, &server, tasks)?;
    server.bootstrap(Some(foundation.address)).await.context("preparing the cluster")?;
    let cache = Cache::new();
    cache.lean();
    attach(&cache);
    detach_deleted_nodes(&cache, &tunnels);
    let api = Client::new(server.api(User::system("node-controller")), "node-controller");
    tasks.spawn("lost agents", lost_agents::follow(tunnels.clone(), tunnels.ends(), api));
    let identity = dir.identity(&Ids::from_system()).context("the file of the identity")?;
    run_loops(args, &foundation, &server, &cache, &clock, &identity, tasks).await;
    let (kubeconfig, join_token_file) = write_access(args, dir, &foundation)?;
    let Foundation { listener, address, network, pki, .. } = foundation;
    let mut ips = vec![address.ip(), std::net::Ipv4Addr::LOCALHOST.into()];
    ips.extend(local_node::api_service(&network.ranges()?));
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
    ];
    let tls = pki.server_config(&names.map(str::to_string), &ips)?;
    let shutdown_delay = Duration::from_secs(args.shutdown_delay_seconds);
    let limits = Limits { shutdown_delay, ..Limits::default() };
    let serve = listener::serve(server.clone(), listener, tls, limits, tasks.stop());
    tasks.spawn_until_done("api", serve);
    Ok(ControlPlane {
        server,
        cache,
        tunnels,
        clock,
        address,
        kubeconfig,
        join_token_file,
        node_grace: Duration::from_secs(args.node_grace_seconds),
        network,
    })
}

/// Takes the address, the data directory's files and the network: all that can be refused.
pub async fn lay(args: &ServerArgs, dir: &DataDir) -> anyhow::Result<Foundation> {
    let scheduler = args.scheduler()?;
    let listener = TcpListener::bind(args.listen).await.with_context(|| {
        format!(
            "cannot listen on {}; name another address with --listen (port 0: any)",
            args.listen
        )
    })?;
    let address = listener.local_addr()?;
    let network = match (&args.cluster_cidr, &args.service_cidr) {
        (Some(cluster), Some(service)) => Network::named(cluster, service),
        _ => Network::of_slot(&dir.join("network-slot"))?,
    };
    network.ranges()?;
    let pki = Pki::open(&dir.join("pki"))?;
    let store_dir = dir.join("store");
    create_dirs(&store_dir, DIR_MODE).with_context(|| store_dir.display().to_string())?;
    let file = store_dir.join("state.redb");
    let artifacts = Artifacts::open(&dir.join("artifacts")).context("the registry's directory")?;
    // The last step that can fail: what comes after has a store to close.
    let open = || RedbStore::open(&file, redb::Options::default());
    let store = tokio::task::block_in_place(open).with_context(|| file.display().to_string())?;
    let store = Arc::new(store);
    Ok(Foundation { listener, address, network, pki, store, artifacts, scheduler })
}

/// Programs are compiled for nodes in other processes, which are given what the cluster's CA signed.
fn compile_for_nodes(
    args: &ServerArgs,
    dir: &DataDir,
    pki: &Pki,
    server: &Arc<ApiServer>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let signer = match Signer::new(&pki.code_key()) {
        Ok(signer) => signer,
        Err(error) => {
            tracing::warn!(%error, "nodes have to compile for themselves: the CA cannot sign code");
            return Ok(());
        }
    };
    let mut options = service::Options::new(args.compile.options()?, dir.join("code"));
    options.workers = args.compile.compilers.map_or(options.workers, |count| count as usize);
    let service = CompileService::open(options, signer).context("the directory of code")?;
    for _ in 0..service.workers() {
        tasks.spawn("compiler", service.clone().work());
    }
    metrics::show_compiler(server.metrics(), service.clone());
    server.compile_with(service);
    Ok(())
}

/// A deleted node's tunnel is closed; an agent that lives registers again and dials again.
fn detach_deleted_nodes(cache: &Arc<Cache>, tunnels: &Arc<Tunnels>) {
    let tunnels = tunnels.clone();
    cache.listen(Box::new(move |change| {
        if let (Some(_), None) = change.typed::<Node>() {
            tunnels.detach(&change.key.name);
        }
    }));
}

/// A contender for the lease of one of the loops.
fn election(
    (lease, user): (&str, &'static str),
    server: &Arc<ApiServer>,
    recorder: &Recorder,
    clock: &SharedClock,
    identity: &str,
) -> Election {
    let recorder = recorder.clone();
    let tell = Arc::new(move |notice| recorder.record(notice));
    let api = server.api(User::system(user));
    Election::new(api, (lease, user), identity.into(), Timing::default(), clock.clone(), tell)
}

/// What `/debug/controllers` shows.
fn controllers_page(
    driver: Arc<Driver>,
    gates: [(&'static str, Gate); 2],
    identity: String,
) -> ControllersPageOf {
    Box::new(move || {
        let lease = |(name, gate): &(&str, Gate)| LeaseStatus {
            name: name.to_string(),
            leads: gate.term().is_some(),
            identity: identity.clone(),
        };
        ControllersPage {
            leases: gates.iter().map(lease).collect(),
            controllers: driver.stats().iter().map(Stats::page).collect(),
        }
    })
}

/// Controllers, scheduler, housekeeping: all listen before the cache is filled. Controllers and
/// scheduler work while the lease of theirs is held by this process, which the first look decides
/// as a rule: before the cache is filled, so that nobody waits for it to show a term's beginning.
async fn run_loops(
    args: &ServerArgs,
    foundation: &Foundation,
    server: &Arc<ApiServer>,
    cache: &Arc<Cache>,
    clock: &SharedClock,
    identity: &str,
    tasks: &Tasks,
) {
    let (served, counted, others) = (server.clone(), server.clone(), server.clone());
    let options = controllers::Options {
        namespaced: Arc::new(move || controllers::namespaced(&served.registry())),
        others: Arc::new(move || controllers::others(&others.registry())),
        stored: Arc::new(move |(group, resource), namespace| {
            counted.stored_in(group, resource, namespace)
        }),
        ca_certificates: foundation.pki.ca_pem().to_string(),
        cluster_cidr: foundation.network.cluster_cidr.clone(),
        node_cidr_mask: NODE_PREFIX,
        node_grace: Duration::from_secs(args.node_grace_seconds),
        ..controllers::Options::default()
    };
    let api = server.api(User::system("kube-controller-manager"));
    let recorder = Recorder::new(api.clone(), "controllers", clock.clone());
    recorder.run(tasks);
    let names = (election::CONTROLLERS, "kube-controller-manager");
    let mut controllers_lead = election(names, server, &recorder, clock, identity);
    let driver = Driver::new(
        api.clone(),
        cache.clone(),
        clock.clone(),
        recorder,
        controllers::all(&options),
        DriverOptions::default(),
    );
    let scheduler_api = server.api(User::system("kube-scheduler"));
    let recorder = Recorder::new(scheduler_api.clone(), "default-scheduler", clock.clone());
    recorder.run(tasks);
    let names = (election::SCHEDULER, "kube-scheduler");
    let mut scheduler_leads = election(names, server, &recorder, clock, identity);
    let tell =
        Arc::new(move |profile: &str, notice| recorder.record_as(profile.to_string(), notice));
    let fenced = Arc::new(Fenced::new(scheduler_api, scheduler_leads.gate()));
    let client = Client::new(fenced.clone(), "kube-scheduler");
    let options = foundation.scheduler.clone();
    let scheduler = Scheduler::new(client, cache, clock.clone(), tell, options);
    let explainer = scheduler.explainer();
    server.explain_with(Arc::new(move |pod, most| explainer.explain(pod, most)));
    // Side by side: they share a flush.
    let waits = tokio::join!(controllers_lead.attempt(), scheduler_leads.attempt());
    controllers::keep(cache, &api, tasks);
    let served = server.clone();
    let describe = Arc::new(move || controllers::described(&served.registry()));
    cache.keep_metadata(api, describe, server.registry_changes(), tasks);
    driver.run_led(controllers_lead.gate(), tasks);
    let driver = Arc::new(driver);
    metrics::show_controllers(server.metrics(), &driver);
    let gates = [
        (election::CONTROLLERS, controllers_lead.gate()),
        (election::SCHEDULER, scheduler_leads.gate()),
    ];
    metrics::show_leases(server.metrics(), gates.clone());
    server.show_controllers(controllers_page(driver, gates, identity.to_string()));
    let filled = cache.clone();
    tasks.spawn("scheduler", async move {
        filled.wait_synced().await;
        scheduler.run_after(|| fenced.enter(&filled)).await;
    });
    tasks.spawn_until_done("election", controllers_lead.run(waits.0, tasks.stop()));
    tasks.spawn_until_done("election", scheduler_leads.run(waits.1, tasks.stop()));
    let (server, clock) = (server.clone(), clock.clone());
    // So that history and Events go about when they should.
    let shortest = Duration::from_secs(args.history_seconds.min(args.event_ttl_seconds));
    let interval = HOUSEKEEPING.min(shortest / 4);
    tasks.spawn("housekeeping", async move {
        loop {
            clock.sleep(interval).await;
            if let Err(error) = server.housekeep(clock.now()).await {
                tracing::warn!(%error, "housekeeping failed");
            }
        }
    });
}

/// Writes the administrator's kubeconfig and the join token.
fn write_access(
    args: &ServerArgs,
    dir: &DataDir,
    foundation: &Foundation,
) -> anyhow::Result<(PathBuf, PathBuf)> {
    let admin = User::new("admin", &[SYSTEM_MASTERS, user::AUTHENTICATED]);
    let (certificate, key) = foundation.pki.client_certificate(&admin, ADMIN_DAYS)?;
    let url = format!("https://{}", reachable(foundation.address));
    let ca = foundation.pki.ca_pem().to_string();
    let text = Access { server: url, ca, identity: Some((certificate, key)) }.to_kubeconfig();
    let path = args.kubeconfig.clone().unwrap_or_else(|| dir.join("kubeconfig"));
    write_private(&path, &text).with_context(|| format!("cannot write {}", path.display()))?;
    let token_file = dir.join("join-token");
    write_private(&token_file, &format!("{}\n", foundation.pki.join_token()))
        .with_context(|| format!("cannot write {}", token_file.display()))?;
    Ok((path.canonicalize().unwrap_or(path), token_file))
}

/// An address that a client on this machine can use where the server listens on all of them.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), address.port());
    }
    address
}

impl Foundation {
    pub fn store(&self) -> SharedStore {
        self.store.clone()
    }
}

impl ControlPlane {
    /// The API's URL for clients on this machine.
    pub fn url(&self) -> String {
        format!("https://{}", reachable(self.address))
    }
}
