//! Sets a pod's sandbox up, in ordered steps that each have an undo, and starts its containers.
//! Every undo is safe when its step never ran, so tearing down after a crash is the same as after
//! a failure half-way. What to do and when is decided by the state machine, not here.

use std::borrow::Cow;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSource, Pod, Volume};

use super::Shared;
use super::container::{self, Recipe};
use super::env;
use super::image_volumes;
use super::images::{PullError, PullPolicy, PullRequest, ResolvedImage};
use super::inbox::Inbox;
use super::inspect::DumpPlace;
use super::ip::PodIp;
use super::local_volumes;
use super::logs::AttemptLog;
use super::pod_state::{container_id, find_container, spec};
use super::sources;
use super::streams::{Console, Programs};
use super::workload;
use crate::api::kinds::ephemeral_containers::as_container;
use crate::api::kinds::pod_grants;
use crate::client::event::Notice;
use crate::runtime::{
    ArtifactKind, Container, ContainerSpec, Mount, PrepareError, Prepared, Runner, StartError,
    refusal,
};
use crate::volumes::{self, Context, Need, Objects, VolumeError, empty_dir};

/// What all starts of a pod share.
#[derive(Clone)]
pub struct Place {
    pub pod: Arc<Pod>,
    pub dir: PathBuf,
    pub ip: IpAddr,
    /// The objects that volumes and environments are made from, and when they were fetched.
    pub objects: Arc<Objects>,
    pub fetched_at: Timestamp,
}

/// Why the sandbox is not there; a Waiting reason and its message.
#[derive(Debug)]
pub struct SetupError {
    pub reason: &'static str,
    pub message: String,
}

/// A container that runs.
pub struct Started {
    pub id: String,
    pub container: Arc<dyn Container>,
    pub image_id: String,
    pub console: Arc<Console>,
    pub programs: Arc<Programs>,
    pub mounts: Arc<[Mount]>,
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

/// The steps of a sandbox in their order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Address,
    Objects,
    Volumes,
}

const STEPS: [Step; 3] = [Step::Address, Step::Objects, Step::Volumes];

/// What the steps have made so far. Dropping it frees the address.
struct Sandbox<'a> {
    node: &'a Shared,
    pod: &'a Arc<Pod>,
    ip: Option<PodIp>,
    objects: Objects,
    files: Arc<tokio::sync::Mutex<()>>,
}

/// What a pod needs from the API before it can start.
pub fn needs(pod: &Pod) -> Result<Vec<Need>, VolumeError> {
    let mut needs = volumes::needs(volume_list(pod))?;
    needs.extend(env::needs(pod));
    needs.extend(workload::needs(pod));
    let pull_secrets = spec(pod).image_pull_secrets.iter().flatten();
    needs.extend(pull_secrets.map(|reference| Need::Secret(reference.name.clone())));
    needs.sort();
    needs.dedup();
    Ok(needs)
}

fn volume_list(pod: &Pod) -> &[Volume] {
    spec(pod).volumes.as_deref().unwrap_or_default()
}

/// Runs the steps; a failure undoes those before it. `files` is held while the pod's directory is
/// written, so that tearing down waits for a write that can no longer be cancelled.
pub async fn set_up(
    node: &Shared,
    pod: &Arc<Pod>,
    preferred_ip: Option<IpAddr>,
    files: Arc<tokio::sync::Mutex<()>>,
) -> Result<(PodIp, Objects), SetupError> {
    let mut sandbox =
        Sandbox { node, pod, ip: None, objects: Objects::default(), files: files.clone() };
    for step in STEPS {
        if let Err(error) = sandbox.perform(step, preferred_ip).await {
            tear_down(node, pod, files).await;
            return Err(error);
        }
    }
    match sandbox.ip.take() {
        Some(ip) => Ok((ip, sandbox.objects)),
        None => Err(SetupError { reason: "FailedCreatePodSandBox", message: "no address".into() }),
    }
}

/// Undoes what the steps made on disk; the address goes with its [`PodIp`]. Logs stay.
pub async fn tear_down(node: &Shared, pod: &Arc<Pod>, files: Arc<tokio::sync::Mutex<()>>) {
    node.tokens.forget(uid(pod));
    let dir = node.pod_dir(uid(pod));
    let (facts, of) = (node.facts.clone(), uid(pod).to_string());
    let guard = files.lock_owned().await;
    let result = tokio::task::spawn_blocking(move || {
        let _guard = guard;
        let in_memory = facts.host.memory_dir.as_ref().map_or(Ok(()), |memory| memory.remove(&of));
        let on_disk = volumes::writer::remove(&dir);
        in_memory.map_err(|error| error.to_string())?;
        on_disk.map_err(|error| error.to_string())
    });
    if let Ok(Err(error)) = result.await {
        tracing::warn!(uid = uid(pod), %error, "a pod's directory is left behind");
    }
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

impl Sandbox<'_> {
    async fn perform(&mut self, step: Step, preferred: Option<IpAddr>) -> Result<(), SetupError> {
        match step {
            Step::Address => self.take_address(preferred).await,
            Step::Objects => self.fetch_objects().await,
            Step::Volumes => self.make_volumes().await,
        }
    }

    async fn take_address(&mut self, preferred: Option<IpAddr>) -> Result<(), SetupError> {
        if spec(self.pod).host_network == Some(true) {
            self.ip = Some(PodIp::of_host(self.node.options.host_ip));
            return Ok(());
        }
        let ip = self.node.ips.allocate(preferred).await;
        let ip = ip.map_err(|error| SetupError {
            reason: "FailedCreatePodSandBox",
            message: error.to_string(),
        })?;
        self.ip = Some(ip);
        Ok(())
    }

    async fn fetch_objects(&mut self) -> Result<(), SetupError> {
        let needs = needs(self.pod).map_err(failed_mount)?;
        if !needs.is_empty() {
            let objects = sources::fetch(self.node, self.pod, &needs).await;
            self.objects = objects.map_err(failed_mount)?;
            local_volumes::hold(self.node, &self.objects).await.map_err(failed_mount)?;
        }
        Ok(())
    }

    async fn make_volumes(&mut self) -> Result<(), SetupError> {
        let Some(ip) = self.ip.as_ref().map(|ip| ip.ip) else { return Ok(()) };
        self.tell_of_missing_memory();
        let what = (Arc::new(self.objects.clone()), Volumes::All);
        write_volumes(self.node, self.pod, ip, what, self.files.clone()).await.map_err(failed_mount)
    }

    /// A volume that is not what its pod asks for is told of.
    fn tell_of_missing_memory(&self) {
        if self.node.facts.host.memory_dir.is_some() {
            return;
        }
        let list = volume_list(self.pod).iter().filter(|volume| empty_dir::wants_memory(volume));
        let names: Vec<&str> = list.map(|volume| &*volume.name).collect();
        if !names.is_empty() {
            let text = format!(
                "This node has no tmpfs that it may write to: volumes of medium Memory are directories \
                 on its disk ({})",
                names.join(", ")
            );
            self.node.tell(Notice::warning(&**self.pod, "NoMemoryMedium", text));
        }
    }
}

fn failed_mount(error: impl ToString) -> SetupError {
    SetupError { reason: "FailedMount", message: error.to_string() }
}

/// Which volumes are made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Volumes {
    All,
    /// Those whose content follows what it is made of.
    Refreshed,
}

/// Makes or refreshes the volumes of a pod.
pub async fn write_volumes(
    node: &Shared,
    pod: &Arc<Pod>,
    ip: IpAddr,
    (objects, which): (Arc<Objects>, Volumes),
    files: Arc<tokio::sync::Mutex<()>>,
) -> Result<(), String> {
    if volume_list(pod).is_empty() {
        return Ok(());
    }
    let (facts, pod) = (node.facts.clone(), pod.clone());
    let dir = node.pod_dir(uid(&pod));
    let guard = files.lock_owned().await;
    let turn = node.volume_permits.clone().acquire_owned().await.map_err(|e| e.to_string())?;
    let work = move || -> Result<(), String> {
        let _guards = (guard, turn);
        let context = facts.context(&pod, ip, &objects);
        volumes::writer::make_dir(&dir, 0o700).map_err(|e| e.to_string())?;
        for volume in volume_list(&pod) {
            let refreshes = volumes::kind_of(volume).is_ok_and(|kind| kind.refreshes);
            if which == Volumes::Refreshed && !refreshes {
                continue;
            }
            volumes::set_up(&dir, volume, &context)
                .map_err(|error| mount_failure(&volume.name, &error))?;
        }
        Ok(())
    };
    tokio::task::spawn_blocking(work).await.map_err(|e| e.to_string())?
}

/// Kubelet's words: of a claim that is not there to be mounted yet, and of all else.
fn mount_failure(volume: &str, error: &VolumeError) -> String {
    match error {
        VolumeError::Claim(_) => format!(
            "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], \
             failed to process volumes=[{volume}]: {error}"
        ),
        _ => format!("MountVolume.SetUp failed for volume {volume:?} : {error}"),
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
    let (recipe, log) = write_files(node, place, source, attempt, objects).await?;
    let id = container_id(uid(&place.pod), name, attempt);
    let serves = artifact.kind() == ArtifactKind::Http || listens(source);
    let text = format!("Created container: {name}");
    node.tell_step(&place.pod, name, "Created", text);
    let meta = &place.pod.metadata;
    let console = Console::new(log, source);
    let own = recipe.args.first().map(String::as_str).unwrap_or_default();
    let image = container::image_name(source.image.as_deref().unwrap_or_default());
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
        http_port: recipe.http_port,
        // Validated when the pod was made.
        requests_per_instance: pod_grants::instance_reuse_count(meta.annotations.as_ref())
            .unwrap_or(1),
        memory_limit_bytes: recipe.memory_limit_bytes,
        cpu_limit_millicores: recipe.cpu_limit_millicores,
        logs: console.clone(),
        stdin: console.input.clone(),
        tty: console.tty,
        names: node.names.clone(),
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
    match sources::fetch(node, &place.pod, &needs).await {
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
    let artifact = code(node, place, &request, &image).await?;
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

/// The recipe and the attempt's log.
async fn write_files(
    node: &Shared,
    place: &Place,
    source: &ContainerSource,
    attempt: i32,
    objects: Arc<Objects>,
) -> Result<(Recipe, Arc<AttemptLog>), StartFailure> {
    let log_dir = node.container_log_dir(&place.pod, &source.name);
    let (facts, logs) = (node.facts.clone(), node.logs.clone());
    let (place, source) = (place.clone(), source.clone());
    let memory = node.options.default_memory_limit_bytes;
    let work = move || {
        let recipe = {
            let context: Context = facts.context(&place.pod, place.ip, &objects);
            container::recipe(&context, &source, Path::new(&place.dir), memory)
        };
        let recipe =
            recipe.map_err(|error| StartFailure::new("CreateContainerConfigError", error, true))?;
        let log = logs.begin(&log_dir, attempt).map_err(|error| {
            let text = format!("the container's log in {}: {error}", log_dir.display());
            StartFailure::new("CreateContainerError", text, true)
        })?;
        Ok((recipe, log))
    };
    let failed = |error: &dyn std::fmt::Display| {
        StartFailure::new("CreateContainerError", error.to_string(), true)
    };
    let turn = node.volume_permits.acquire().await.map_err(|error| failed(&error))?;
    let joined = tokio::task::spawn_blocking(work).await;
    drop(turn);
    joined.map_err(|error| failed(&error))?
}
