//! Starts the containers of a pod whose sandbox is there: image, code, log, recipe, run.

use std::borrow::Cow;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSource, ContainerStateTerminated, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::container::{self, Recipe};
use super::container_state::container_id;
use super::images::{PullError, PullPolicy, PullRequest, ResolvedImage};
use super::inbox::Inbox;
use super::inspect::DumpPlace;
use super::logs::AttemptLog;
use super::pod_state::{find_container, spec};
use super::setup::{Place, needs, uid};
use super::sources::{self, Freshness};
use super::streams::{Console, Programs};
use super::termination::{self, LastWords};
use super::{Shared, image_volumes, own_names, service_links, workload};
use crate::api::kinds::ephemeral_containers::as_container;
use crate::api::kinds::{pod_grants, program_names, static_pod};
use crate::client::event::Severity;
use crate::runtime::{
    ArtifactKind, Container, ContainerSpec, MAX_HTTP_PORTS, Mount, PrepareError, Prepared, Runner,
    StartError, refusal,
};
use crate::volumes::{Context, Need, Objects};

/// How long a start waits for the node's first look at Services.
const SERVICES_WAIT: Duration = Duration::from_secs(10);
/// The exit code of a container that could not be started (containerd's StartError).
const START_ERROR_CODE: i32 = 128;

/// A container that runs.
pub struct Started {
    pub id: String,
    pub container: Arc<dyn Container>,
    pub image_id: String,
    pub console: Arc<Console>,
    pub programs: Arc<Programs>,
    pub mounts: Arc<[Mount]>,
    pub last_words: LastWords,
    /// It serves others and is given time to drain.
    pub serves: bool,
    /// It is not ready until it says so itself.
    pub tells_readiness: bool,
}

/// Why a container did not start.
#[derive(Debug)]
pub struct StartFailure {
    /// A Waiting reason.
    pub reason: &'static str,
    pub message: String,
    /// Another try may help.
    pub retry: bool,
    /// It counts as a run that failed at once: the container's own fault.
    pub ran: bool,
    /// The image that was not pulled, where it is not the container's own.
    pub image: Option<String>,
}

impl StartFailure {
    pub fn new(reason: &'static str, message: impl ToString, retry: bool) -> StartFailure {
        StartFailure { reason, message: message.to_string(), retry, ran: false, image: None }
    }
}

/// Starts one attempt of a container: image, code, log, recipe, run.
pub async fn start(
    node: &Arc<Shared>,
    place: &Place,
    name: &str,
    attempt: i32,
    inbox: &Arc<Inbox>,
) -> Result<Started, StartFailure> {
    let Some(source) = find(&place.pod, name) else {
        return Err(StartFailure::new("CreateContainerError", "not in the pod's spec", false));
    };
    let source = &*source;
    let objects = fresh_objects(node, place).await?;
    image_volumes::settle(node, place, source, &objects).await?;
    let (artifact, image_id) = prepare(node, place, source, &objects).await?;
    check_grants(&place.pod, &*artifact)?;
    let tells_readiness = artifact.tells_readiness();
    let is_handler = artifact.kind() == ArtifactKind::Http;
    let (mut recipe, log, last_words) =
        write_files(node, place, (source, is_handler), attempt, objects).await?;
    if is_handler {
        bound_ports(node, &place.pod, name, &mut recipe.http_ports);
    }
    let id = container_id(uid(&place.pod), name, attempt);
    let serves = is_handler || listens(source);
    let text = format!("Created container: {name}");
    node.tell_step(&place.pod, name, "Created", text);
    let meta = &place.pod.metadata;
    let console = Console::new(log, source);
    let own = recipe.args.first().map(String::as_str).unwrap_or_default();
    let image = program_names::of_image(source.image.as_deref().unwrap_or_default());
    let programs = Arc::new(Programs::new(&place.pod, own, image));
    let mounts: Arc<[Mount]> = recipe.mounts.clone().into();
    let spec = ContainerSpec {
        id: id.clone(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        pod_name: meta.name.clone().unwrap_or_default(),
        pod_uid: uid(&place.pod).to_string(),
        container_name: name.to_string(),
        artifact,
        args: recipe.args,
        env: recipe.env,
        mounts: recipe.mounts,
        pod_ip: place.ip,
        http_ports: recipe.http_ports,
        // Validated when the pod was made.
        requests_per_instance: pod_grants::instance_reuse_count(meta.annotations.as_ref())
            .unwrap_or(1),
        memory_limit_bytes: recipe.memory_limit_bytes,
        cpu_limit_millicores: recipe.cpu_limit_millicores,
        cpu_request_millicores: recipe.cpu_request_millicores,
        logs: console.clone(),
        stdin: console.input.clone(),
        tty: console.tty,
        names: own_names::names(&place.pod, place.ip, &node.names),
        allowed_hosts: recipe.allowed_hosts,
        core_dumps: DumpPlace::of(
            &place.pod,
            &node.container_log_dir(&place.pod, name),
            &node.core_dumps,
        ),
        workload: workload::workload(node, &place.pod, source, recipe.config).into(),
    };
    node.pleg.register(&id, inbox);
    // Forgotten again if the start fails or is cancelled.
    let mut registered = Registered { node, id: &id, keep: false };
    match node.runtime.start(spec, node.runtime_events.clone()).await {
        Ok(container) => {
            registered.keep = true;
            drop(registered);
            Ok(Started {
                id,
                container: container.into(),
                image_id,
                console,
                programs,
                mounts,
                last_words,
                serves,
                tells_readiness,
            })
        }
        Err(StartError::Container(message)) => {
            console.close();
            Err(StartFailure { ran: true, ..StartFailure::new("StartError", message, true) })
        }
        Err(StartError::Internal(message)) => {
            console.close();
            Err(StartFailure::new("RunContainerError", message, true))
        }
    }
}

/// The link check of what a pod must grant. The API server made it for images that it knew when the
/// pod was applied.
fn check_grants(pod: &Pod, artifact: &dyn Prepared) -> Result<(), StartFailure> {
    let annotations = pod.metadata.annotations.as_ref();
    let given = |annotation: &str| !pod_grants::names(annotations, annotation).is_empty();
    let mut imports = artifact.special_imports().iter();
    match imports.find_map(|import| refusal(import, given)) {
        Some(text) => Err(StartFailure::new("InvalidModule", text, false)),
        None => Ok(()),
    }
}

/// Leaves out the ports that are too many, and tells of them.
fn bound_ports(node: &Shared, pod: &Pod, container: &str, ports: &mut Vec<u16>) {
    if ports.len() <= MAX_HTTP_PORTS {
        return;
    }
    let left_out = ports.split_off(MAX_HTTP_PORTS);
    let text = format!(
        "an HTTP handler is served on {MAX_HTTP_PORTS} TCP ports at most; these are not: {left_out:?}"
    );
    node.tell_of(pod, container, Severity::Warning, "PortsLeftOut", text);
}

/// Whether a process says that others call it: a port that it declares, or that it is probed on.
fn listens(source: &ContainerSource) -> bool {
    source.ports.as_ref().is_some_and(|ports| !ports.is_empty())
        || source.readiness_probe.is_some()
        || source.liveness_probe.is_some()
        || source.startup_probe.is_some()
}

struct Registered<'a> {
    node: &'a Shared,
    id: &'a str,
    keep: bool,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        if !self.keep {
            self.node.pleg.forget(self.id);
        }
    }
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<Cow<'a, ContainerSource>> {
    if let Some(found) = find_container(spec(pod), name) {
        return Some(Cow::Borrowed(found));
    }
    let mut debug = spec(pod).ephemeral_containers.iter().flatten();
    let one = debug.find(|one| one.name == name)?;
    let mut container = as_container(one);
    // What upstream's have by the target's processes: a look at its files.
    let target = one.target_container_name.as_deref().unwrap_or_default();
    let target = find_container(spec(pod), target).and_then(|c| c.volume_mounts.as_ref());
    let own = container.volume_mounts.get_or_insert_default();
    for mount in target.into_iter().flatten() {
        if own.iter().all(|one| one.mount_path != mount.mount_path) {
            own.push(mount.clone());
        }
    }
    Some(Cow::Owned(container))
}

/// The objects of the sandbox's setup, or newer ones where that is long ago.
async fn fresh_objects(node: &Shared, place: &Place) -> Result<Arc<Objects>, StartFailure> {
    let age = node.clock.now().duration_since(place.fetched_at);
    let needs = needs(&place.pod);
    let mut needs =
        needs.map_err(|error| StartFailure::new("CreateContainerConfigError", error, true))?;
    // What is mounted stays mounted, whatever becomes of its claim.
    needs.retain(|need| !matches!(need, Need::Claim(_) | Need::OwnClaim(_)));
    if needs.is_empty() || age < node.options.objects_fresh() {
        return Ok(place.objects.clone());
    }
    match sources::fetch(node, &place.pod, &needs, Freshness::Now).await {
        Ok(objects) => {
            let (claims, volumes) = (place.objects.claims.clone(), place.objects.volumes.clone());
            Ok(Arc::new(Objects { claims, volumes, ..objects }))
        }
        Err(error) if error.code < 500 => {
            Err(StartFailure::new("CreateContainerConfigError", error, true))
        }
        // The API is away: what is known is better than nothing.
        Err(_) => Ok(place.objects.clone()),
    }
}

/// Whose code is not there so soon, waits for a compiler: users are told. (A debug build needs seconds
/// for a program that a release build has in some hundredths.)
const TOLD_AFTER: Duration = Duration::from_secs(3);

/// Resolves the image and makes its code ready.
async fn prepare(
    node: &Shared,
    place: &Place,
    source: &ContainerSource,
    objects: &Objects,
) -> Result<(Arc<dyn Prepared>, String), StartFailure> {
    let docker_configs = container::docker_configs(&place.pod, objects);
    let request = PullRequest {
        image: source.image.as_deref().unwrap_or_default(),
        policy: PullPolicy::of(source.image_pull_policy.as_deref()),
        docker_configs: &docker_configs,
    };
    let tell = |reason, text| node.tell_step(&place.pod, &source.name, reason, text);
    let (name, began) = (request.image, node.clock.now());
    let pulling = || tell("Pulling", format!("Pulling image {name:?}"));
    if request.policy == PullPolicy::Always {
        pulling();
    }
    let image = node.images.resolve(&request).await.map_err(not_pulled)?;
    if request.policy == PullPolicy::IfNotPresent && !image.present {
        pulling();
    }
    if node.images_seen.add(name, &image) {
        node.node_changed.notify_one();
    }
    let artifact = {
        let mut making = pin!(code(node, place, &request, &image));
        tokio::select! {
            biased;
            made = &mut making => made?,
            () = node.clock.sleep(TOLD_AFTER) => {
                tell("Compiling", format!("Image {name:?} is compiled, or waits for its turn"));
                making.await?
            }
        }
    };
    if image.present {
        tell("Pulled", format!("Container image {name:?} already present on machine"));
    } else {
        let took = node.clock.now().duration_since(began).as_millis();
        let size = image.size_bytes;
        tell(
            "Pulled",
            format!(
                "Successfully pulled image {name:?} in {took}ms ({took}ms including waiting). \
                 Image size: {size} bytes."
            ),
        );
    }
    Ok((artifact, image.image_id))
}

pub(super) fn not_pulled(error: PullError) -> StartFailure {
    let (reason, retry) = error.reason();
    StartFailure::new(reason, error, retry)
}

/// The code of an image. Its bytes are only loaded where the runtime has no code of them, and only
/// once however many containers are waiting for it.
async fn code(
    node: &Shared,
    place: &Place,
    request: &PullRequest<'_>,
    image: &ResolvedImage,
) -> Result<Arc<dyn Prepared>, StartFailure> {
    let digest = &image.wasm_digest;
    if let Some(code) = node.runtime.prepared(digest).await {
        return Ok(code);
    }
    let _alone = node.preparing.lock(digest).await;
    if let Some(code) = node.runtime.prepared(digest).await {
        return Ok(code);
    }
    let meta = &place.pod.metadata;
    let runner = Runner {
        namespace: meta.namespace.clone().unwrap_or_default(),
        pod: meta.name.clone().unwrap_or_default(),
        image: image.image_id.clone(),
    };
    if let Some(code) = node.runtime.fetched(digest, &runner).await.map_err(not_prepared)? {
        return Ok(code);
    }
    let loaded = node.images.load(request, image).await.map_err(not_pulled)?;
    node.runtime.prepare(digest, loaded.bytes.clone()).await.map_err(not_prepared)
}

fn not_prepared(error: PrepareError) -> StartFailure {
    match error {
        PrepareError::InvalidModule(text) => StartFailure::new("InvalidModule", text, false),
        // A limit may be hit because the machine is short of memory now.
        PrepareError::CompileLimit(text) => StartFailure::new("CompileLimit", text, true),
        PrepareError::Internal(text) => StartFailure::new("CreateContainerError", text, true),
    }
}

/// The recipe, the attempt's log, and where its last words are.
async fn write_files(
    node: &Shared,
    place: &Place,
    (source, is_handler): (&ContainerSource, bool),
    attempt: i32,
    objects: Arc<Objects>,
) -> Result<(Recipe, Arc<AttemptLog>, LastWords), StartFailure> {
    let log_dir = node.container_log_dir(&place.pod, &source.name);
    let (facts, logs) = (node.facts.clone(), node.logs.clone());
    let (place, source) = (place.clone(), source.clone());
    let memory = node.options.default_memory_limit_bytes;
    // A static pod runs without the API: it is told of what is known (as by kubelet).
    let waits = !static_pod::is_static(&place.pod);
    if waits && tokio::time::timeout(SERVICES_WAIT, node.services.synced()).await.is_err() {
        let text = "services have not yet been read at least once, cannot construct envvars";
        return Err(StartFailure::new("CreateContainerConfigError", text, true));
    }
    let (links, left_out) = service_links::of(&place.pod, &*node.services);
    if left_out > 0 {
        let text = format!(
            "the namespace has so many Services that {left_out} of them are not in the environment; \
             set enableServiceLinks to false if that does not matter"
        );
        let reason = "ServiceLinksLeftOut";
        node.tell_of(&place.pod, &source.name, Severity::Warning, reason, text);
    }
    let guard = place.files.clone().lock_owned().await;
    let work = move || {
        let _guard = guard;
        let dir = Path::new(&place.dir);
        let recipe = {
            let context: Context = facts.context(&place.pod, place.ip, &objects);
            container::recipe(&context, &source, links, dir, memory)
        };
        let config = |error| StartFailure::new("CreateContainerConfigError", error, true);
        let mut recipe = recipe.map_err(config)?;
        let last_words = termination::prepare(&source, is_handler, &mut recipe.mounts, dir);
        let last_words = last_words.map_err(config)?;
        let log = logs.begin(&log_dir, attempt).map_err(|error| {
            let text = format!("the container's log in {}: {error}", log_dir.display());
            StartFailure::new("CreateContainerError", text, true)
        })?;
        Ok((recipe, log, last_words))
    };
    let failed = |error: &dyn std::fmt::Display| {
        StartFailure::new("CreateContainerError", error.to_string(), true)
    };
    let turn = node.volume_permits.acquire().await.map_err(|error| failed(&error))?;
    let joined = tokio::task::spawn_blocking(work).await;
    drop(turn);
    joined.map_err(|error| failed(&error))?
}

/// The end of a container that was begun and could not be started.
pub(super) fn start_error(
    id: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(format!("wasmtime://{id}")),
        exit_code: START_ERROR_CODE,
        reason: Some(reason.into()),
        message: Some(message),
        started_at: Some(Time(now)),
        finished_at: Some(Time(now)),
        signal: None,
    }
}
