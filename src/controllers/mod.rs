//! Control loops: what should happen. Each controller is a pure function from a view, a key and
//! the time to a [`Plan`]; [`driver`] owns waking, writing, back-off and the read-your-writes
//! barrier.
//!
//! A controller takes only a key, never the event; the same state gives the same plan; it never
//! retries. To add one: write its file, add its line to [`all`].

pub mod driver;

mod ask;
mod barrier;
mod cluster_role_aggregation;
mod cron_job;
mod daemon_set;
mod deployment;
mod deployment_status;
mod disruption;
mod endpoint_slice;
mod endpoint_slice_mirroring;
mod endpoints;
mod ephemeral_volume;
mod eviction_rate;
mod executor;
mod garbage_collector;
mod history;
mod job;
mod local_provisioner;
mod meter;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod ownership;
mod pace;
mod persistent_volume;
mod plan;
mod pod_autoscaler;
mod pod_gc;
mod pods;
mod proportion;
mod replica_set;
mod replicated;
mod resource_quota;
mod revision;
mod rollout;
mod root_ca;
mod selecting;
mod service_account;
mod service_activation;
mod slices;
mod slim;
mod staleness;
mod stateful_set;
mod taint_eviction;
mod volume_protection;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::scheduling::v1alpha1 as scheduling;
use k8s_openapi::api::{apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch};
use k8s_openapi::api::{coordination::v1 as coordination, core::v1 as core};
use k8s_openapi::api::{policy::v1 as policy, rbac::v1 as rbac, storage::v1 as storage};

use crate::api::registry::Registry;
use crate::api::resource::Gvr;
use crate::api::{ObjectKey, Raw};
use crate::base::Tasks;
use crate::client::SharedApi;
use crate::client::cache::{Cache, Changed, Described, View};

pub use ask::{Answer, Ask};
pub use driver::Driver;
pub use meter::Stats;
pub use node_lifecycle::NODE_LEASES;
pub use plan::{Action, Outcome, Plan, Write, target_of};

/// One control loop.
pub trait Controller: Send + Sync + 'static {
    /// For logs, metrics and the field manager.
    fn name(&self) -> &'static str;

    /// The keys that a change makes dirty. Called for every change of a kept kind; must be cheap
    /// for kinds that the controller does not care about. The view already shows the change.
    fn keys(&self, change: &Changed, view: &View) -> Vec<ObjectKey>;

    /// The resources that it reads, that of its keys first. The first pass and the slow periodic one call
    /// [`Controller::keys`] for each of their objects.
    fn reads(&self) -> Vec<Gvr>;

    /// What should be done about a key. Pure: no I/O, no clock, no randomness (names that must be
    /// unique are derived from content or left to `generateName`).
    fn reconcile(&self, view: &View, key: &ObjectKey, now: Timestamp) -> Plan;

    /// What must be asked before a key is decided on, beside what the view shows. Called again with
    /// what was answered, some times at most, until nothing more is asked.
    fn asks(&self, _view: &View, _key: &ObjectKey, _answers: &[Answer]) -> Vec<Ask> {
        Vec::new()
    }

    /// [`Controller::reconcile`] with what was answered; as pure. The view may be newer than that
    /// on which the questions were made.
    fn decide(&self, view: &View, key: &ObjectKey, _answers: &[Answer], now: Timestamp) -> Plan {
        self.reconcile(view, key, now)
    }

    /// What should be told after a plan was performed: conditions about failed writes, events that
    /// name what was created. Its own writes are not settled again.
    fn settle(
        &self,
        _view: &View,
        _key: &ObjectKey,
        _outcomes: &[Outcome],
        _now: Timestamp,
    ) -> Plan {
        Plan::default()
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }
}

/// How much one controller may do at a time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Keys worked on side by side.
    pub workers: usize,
    /// Deletions within a minute; further ones wait.
    pub deletions_per_minute: Option<u32>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { workers: 8, deletions_per_minute: None }
    }
}

/// What the controllers are told by their daemon.
#[derive(Clone)]
pub struct Options {
    /// The cluster's CA certificates (PEM), published in each namespace.
    pub ca_certificates: String,
    /// The addresses of pods, as a CIDR; each node gets a block of it.
    pub cluster_cidr: String,
    /// The prefix length of a node's block.
    pub node_cidr_mask: u8,
    /// A node whose lease was not renewed for so long is taken for unreachable.
    pub node_grace: Duration,
    /// The same for a node that never renewed a lease.
    pub node_startup_grace: Duration,
    /// Finished pods beyond this number are deleted, oldest first.
    pub terminated_pods_kept: usize,
    /// The garbage collector deletes no more than this many objects of a kind within a minute.
    pub collections_per_minute: u32,
    /// Tells every resource that lives in namespaces: what the deletion of a namespace deletes.
    /// Custom resources come and go.
    pub namespaced: Resources,
    /// Tells the resources whose metadata the cache keeps: see [`described`].
    pub others: Resources,
    /// Tells what is stored, for counts of kinds that are not kept.
    pub stored: Stored,
}

/// Tells resources, as they are served at the moment of asking.
pub type Resources = Arc<dyn Fn() -> Vec<Gvr> + Send + Sync>;

/// Tells what is stored of a resource (group and plural) in a namespace, at the moment of asking.
pub type Stored = Arc<dyn Fn((&str, &str), &str) -> Vec<Raw> + Send + Sync>;

/// The namespaced resources of a registry.
pub fn namespaced(registry: &Registry) -> Vec<Gvr> {
    let stored = registry.rows().iter().filter(|row| row.is_stored() && !row.is_view());
    let resources = stored.map(|row| row.gvr.clone());
    resources.filter(|resource| resource.namespaced).collect()
}

/// The resources whose metadata the garbage collector needs, beside those that are kept whole. An
/// Event owns nothing, and is gone in an hour.
pub fn described(registry: &Registry) -> Vec<Described> {
    let kept = kept();
    let same = |a: &Gvr, b: &Gvr| (&a.group, &a.resource) == (&b.group, &b.resource);
    let is_event =
        |gvr: &Gvr| gvr.resource == "events" && matches!(&*gvr.group, "" | "events.k8s.io");
    let mut all: Vec<Described> = Vec::new();
    for row in registry.rows().iter().filter(|row| row.is_stored() && !row.is_view()) {
        if is_event(&row.gvr) {
            continue;
        }
        if kept.iter().any(|gvr| same(gvr, &row.gvr)) {
            continue;
        }
        let api_version = row.gvr.api_version();
        match all.iter_mut().find(|one| same(&one.gvr, &row.gvr)) {
            Some(one) => one.api_versions.push(api_version),
            None => all.push(Described {
                gvr: row.gvr.clone(),
                kind: row.kind.to_string(),
                api_versions: vec![api_version],
            }),
        }
    }
    all
}

/// The resources of [`described`].
pub fn others(registry: &Registry) -> Vec<Gvr> {
    described(registry).into_iter().map(|one| one.gvr).collect()
}

impl Default for Options {
    fn default() -> Options {
        let builtin = Registry::builtin();
        let (builtin, others) = (namespaced(&builtin), others(&builtin));
        Options {
            ca_certificates: String::new(),
            cluster_cidr: "127.64.0.0/10".into(),
            node_cidr_mask: 20,
            node_grace: Duration::from_secs(40),
            node_startup_grace: Duration::from_secs(60),
            terminated_pods_kept: 12_500,
            collections_per_minute: 20_000,
            namespaced: Arc::new(move || builtin.clone()),
            others: Arc::new(move || others.clone()),
            stored: Arc::new(|_, _| Vec::new()),
        }
    }
}

/// Every controller.
pub fn all(options: &Options) -> Vec<Arc<dyn Controller>> {
    let mut all: Vec<Arc<dyn Controller>> = vec![
        Arc::new(deployment::DeploymentController),
        Arc::new(replica_set::ReplicaController::<apps::ReplicaSet>::new()),
        Arc::new(replica_set::ReplicaController::<core::ReplicationController>::new()),
        Arc::new(stateful_set::StatefulSetController),
        Arc::new(daemon_set::DaemonSetController),
        Arc::new(job::JobController),
        Arc::new(job::TrackedPodController),
        Arc::new(cron_job::CronJobController),
        Arc::new(endpoint_slice::EndpointSliceController),
        Arc::new(endpoints::EndpointsController),
        Arc::new(endpoint_slice_mirroring::EndpointSliceMirroringController),
        Arc::new(namespace::NamespaceController::new(options)),
        Arc::new(service_account::ServiceAccountController),
        Arc::new(root_ca::RootCaController::new(options)),
        Arc::new(cluster_role_aggregation::ClusterRoleAggregationController),
        Arc::new(node_lifecycle::NodeLifecycleController::new(options)),
        Arc::new(taint_eviction::TaintEvictionController::new(options)),
        Arc::new(node_ipam::NodeIpamController::new(options)),
        Arc::new(disruption::DisruptionController),
        Arc::new(pod_autoscaler::PodAutoscaler::default()),
        Arc::new(service_activation::ServiceActivationController),
        Arc::new(resource_quota::ResourceQuotaController::new(options)),
        Arc::new(persistent_volume::PersistentVolumeController),
        Arc::new(local_provisioner::LocalProvisioner),
        Arc::new(ephemeral_volume::EphemeralVolumeController),
        Arc::new(volume_protection::ClaimProtectionController),
        Arc::new(volume_protection::VolumeProtectionController),
        Arc::new(pod_gc::LostPodController),
        Arc::new(pod_gc::TerminatedPodController::new(options)),
    ];
    for resource in kept() {
        all.push(Arc::new(garbage_collector::GarbageCollector::new(resource, options)));
    }
    all.push(Arc::new(garbage_collector::GarbageCollector::others(options)));
    all
}

/// Calls a macro's body once with each kind that the controllers keep.
macro_rules! kept_kinds {
    ($with:ident) => {
        $with!(
            core::Namespace,
            core::Node,
            core::Pod,
            core::Service,
            core::Endpoints,
            core::ConfigMap,
            core::Secret,
            core::ServiceAccount,
            core::ReplicationController,
            core::ResourceQuota,
            core::PersistentVolume,
            core::PersistentVolumeClaim,
            coordination::Lease,
            apps::Deployment,
            apps::ReplicaSet,
            apps::ControllerRevision,
            apps::DaemonSet,
            apps::StatefulSet,
            autoscaling::HorizontalPodAutoscaler,
            batch::CronJob,
            batch::Job,
            discovery::EndpointSlice,
            policy::PodDisruptionBudget,
            rbac::ClusterRole,
            scheduling::Workload,
            storage::StorageClass
        )
    };
}

/// The resources that [`keep`] keeps.
pub fn kept() -> Vec<Gvr> {
    macro_rules! resources {
        ($($kind:ty),*) => { vec![$(Gvr::of::<$kind>()),*] };
    }
    kept_kinds!(resources)
}

/// Keeps every kind that the controllers read. Events are not kept: there are many, and only the
/// deletion of a namespace wants them, by a live list.
pub fn keep(cache: &Arc<Cache>, api: &SharedApi, tasks: &Tasks) {
    slim::set(cache);
    macro_rules! keep_each {
        ($($kind:ty),*) => { $(cache.keep::<$kind>(api.clone(), "", tasks);)* };
    }
    kept_kinds!(keep_each);
}

/// Adds every kind that the controllers read to a cache that is fed by hand.
pub fn keep_by_hand(cache: &Cache) {
    slim::set(cache);
    macro_rules! add_each {
        ($($kind:ty),*) => { $(cache.add::<$kind>();)* };
    }
    kept_kinds!(add_each);
}
