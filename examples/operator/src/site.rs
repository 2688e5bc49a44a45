//! The kind Site and its controller. Children and status are written by server-side apply, each by
//! a manager of this operator's name, so that fields which others set on them stay theirs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::{Action, Controller};
use kube::runtime::finalizer::{Event, finalizer};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher;
use kube::{Client, CustomResource, CustomResourceExt, Resource, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The name under which the operator owns fields.
const MANAGER: &str = "site-operator";
const FINALIZER: &str = "examples.wasmfleet.dev/directory";
/// Lists all Sites of a namespace. It belongs to none of them, so a finalizer takes entries out.
const DIRECTORY: &str = "sites";

/// A web site: a component that answers HTTP, and the name to reach it by.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "examples.wasmfleet.dev",
    version = "v1",
    kind = "Site",
    namespaced,
    status = "SiteStatus",
    scale = r#"{"specReplicasPath":".spec.replicas","statusReplicasPath":".status.replicas"}"#,
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.ready"),
    selectable = ".spec.image"
)]
#[serde(rename_all = "camelCase")]
pub struct SiteSpec {
    /// The image of the component.
    pub image: String,
    /// How many instances answer.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 100))]
    pub replicas: i32,
}

fn one() -> i32 {
    1
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteStatus {
    /// The generation that this status is about.
    pub observed_generation: i64,
    /// Instances that there are.
    pub replicas: i32,
    /// Instances that answer.
    pub ready: i32,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Finalizer(#[from] Box<kube::runtime::finalizer::Error<kube::Error>>),
    #[error(transparent)]
    Wait(#[from] kube::runtime::wait::Error),
}

/// Defines the kind, or brings the definition up to date, and waits until it is served.
pub async fn define(client: Client) -> Result<(), Error> {
    let definitions: Api<CustomResourceDefinition> = Api::all(client);
    let definition = Site::crd();
    let name = definition.name_any();
    let params = PatchParams::apply(MANAGER).force();
    definitions.patch(&name, &params, &Patch::Apply(&definition)).await?;
    await_condition(definitions, &name, conditions::is_crd_established()).await?;
    Ok(())
}

/// The results of reconciling, one after the other, for as long as they are asked for.
pub fn controller(
    client: Client,
) -> impl Stream<
    Item = Result<
        (ObjectRef<Site>, Action),
        kube::runtime::controller::Error<Error, watcher::Error>,
    >,
> {
    // Lists as streams: the server sends what there is as events, and says when that was all.
    let config = watcher::Config::default().streaming_lists();
    Controller::new(Api::<Site>::all(client.clone()), config.clone())
        .owns(Api::<Deployment>::all(client.clone()), config)
        .run(reconcile, on_error, Arc::new(client))
}

async fn reconcile(site: Arc<Site>, client: Arc<Client>) -> Result<Action, Error> {
    let namespace = site.namespace().unwrap_or_default();
    let sites: Api<Site> = Api::namespaced(Client::clone(&client), &namespace);
    let done = finalizer(&sites, FINALIZER, site, |event| async {
        match event {
            Event::Apply(site) => apply(&client, &namespace, &site).await,
            Event::Cleanup(site) => clean_up(&client, &namespace, &site).await,
        }
    });
    Ok(done.await.map_err(Box::new)?)
}

fn on_error(_: Arc<Site>, _: &Error, _: Arc<Client>) -> Action {
    Action::requeue(Duration::from_secs(5))
}

async fn apply(client: &Client, namespace: &str, site: &Site) -> Result<Action, kube::Error> {
    let name = site.name_any();
    let labels = BTreeMap::from([("site", name.clone())]);
    let metadata = json!({"name": name, "labels": labels,
        "ownerReferences": [site.controller_owner_ref(&())]});
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata,
        "spec": {
            "replicas": site.spec.replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{
                "name": "site", "image": site.spec.image, "ports": [{"containerPort": 8080}]}]}}}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata,
        "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]}});
    let entry = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {&name: site.spec.image}});
    let params = PatchParams::apply(MANAGER).force();
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), namespace);
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    let directories: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let running = deployments.patch(&name, &params, &Patch::Apply(deployment)).await?;
    services.patch(&name, &params, &Patch::Apply(service)).await?;
    // A manager a Site: its entry goes when that manager applies nothing.
    let keeper = PatchParams::apply(&keeper(site)).force();
    directories.patch(DIRECTORY, &keeper, &Patch::Apply(entry)).await?;

    let running = running.status.unwrap_or_default();
    let status = SiteStatus {
        observed_generation: site.metadata.generation.unwrap_or_default(),
        replicas: running.replicas.unwrap_or_default(),
        ready: running.ready_replicas.unwrap_or_default(),
    };
    let status = json!({"apiVersion": Site::api_version(&()), "kind": Site::kind(&()),
        "status": status});
    let sites: Api<Site> = Api::namespaced(client.clone(), namespace);
    sites.patch_status(&name, &params, &Patch::Apply(status)).await?;
    // Changes of the Site and of its Deployment call again; this is for what was missed.
    Ok(Action::requeue(Duration::from_secs(300)))
}

async fn clean_up(client: &Client, namespace: &str, site: &Site) -> Result<Action, kube::Error> {
    let directories: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let nothing = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let keeper = PatchParams::apply(&keeper(site)).force();
    directories.patch(DIRECTORY, &keeper, &Patch::Apply(nothing)).await?;
    Ok(Action::await_change())
}

fn keeper(site: &Site) -> String {
    format!("{MANAGER}/{}", site.name_any())
}
