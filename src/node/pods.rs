//! The pods of the node as readers of logs and streams see them: states and running containers by
//! namespace and name.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;

use super::inbox::Inbox;
use super::local_storage;
use super::logs::AttemptLog;
use super::streams::{Console, Programs};
use super::usage::Looks;
use crate::api::kinds::pod_room;
use crate::api::{ObjectKey, Raw};
use crate::runtime::{Container, Mount};

/// Every pod that has a worker.
#[derive(Default)]
pub struct PodTable {
    entries: Mutex<HashMap<ObjectKey, Arc<PodEntry>>>,
    /// Processor time of containers that ended, in microseconds.
    ended_cpu_micros: Arc<AtomicU64>,
}

/// One pod.
pub struct PodEntry {
    pub uid: String,
    /// Its worker's.
    pub inbox: Arc<Inbox>,
    object: Mutex<Object>,
    /// Whether what it writes has a limit of its own, or is in memory.
    watched: AtomicBool,
    ended_cpu_micros: Arc<AtomicU64>,
    statuses: Mutex<Statuses>,
    running: Mutex<HashMap<String, Running>>,
}

/// The newest object: decoded while the pod's worker is busy, else the bytes that it came in. A pod
/// rests for hours, and a typed one takes ten times its bytes.
#[derive(Clone)]
pub struct Object {
    /// `None` only where there are bytes.
    pod: Option<Arc<Pod>>,
    raw: Option<Raw>,
}

impl Object {
    /// With the bytes that it was decoded from, where they are known.
    pub fn new(pod: Arc<Pod>, raw: Option<Raw>) -> Object {
        Object { pod: Some(pod), raw }
    }

    pub fn pod(&self) -> Arc<Pod> {
        self.pod.clone().unwrap_or_else(|| {
            let decoded = self.raw.as_ref().and_then(|raw| raw.decode::<Pod>().ok());
            // It was decoded from the same bytes when it came.
            let mut pod = decoded.unwrap_or_else(|| unreachable!("a pod of bad bytes"));
            pod_room::give_back(&mut pod);
            Arc::new(pod)
        })
    }

    /// Whether it was decoded from these very bytes.
    pub fn is_of(&self, raw: &Raw) -> bool {
        self.raw.as_ref().is_some_and(|own| own.0.as_ptr() == raw.0.as_ptr())
    }
}

/// What readers ask of the pod's status: a whole one takes kilobytes.
#[derive(Default)]
struct Statuses {
    ip: Option<IpAddr>,
    start_time: Option<Time>,
    containers: Box<[Summary]>,
}

struct Summary {
    name: String,
    /// The number of the newest attempt.
    restart_count: i32,
    /// That attempt runs or ran.
    has_run: bool,
    /// One before it ended.
    ended_before: bool,
    /// Why it waits.
    waiting: Option<String>,
}

impl Summary {
    fn of(status: &ContainerStatus) -> Summary {
        let (state, last) = (status.state.as_ref(), status.last_state.as_ref());
        let waiting = state.and_then(|s| s.waiting.as_ref());
        Summary {
            name: status.name.clone(),
            restart_count: status.restart_count,
            has_run: state.is_some_and(|s| s.running.is_some() || s.terminated.is_some()),
            ended_before: last.is_some_and(|s| s.terminated.is_some()),
            waiting: waiting.and_then(|w| w.reason.clone()),
        }
    }
}

/// A container that runs, for those who reach into it. It does not keep it alive.
#[derive(Clone)]
pub struct Running {
    pub console: Arc<Console>,
    pub container: Weak<dyn Container>,
    pub programs: Arc<Programs>,
    pub mounts: Arc<[Mount]>,
    /// Earlier looks at its processor time.
    pub looks: Arc<Looks>,
}

/// Which attempts of a container have a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempts {
    pub current: Option<i32>,
    pub previous: Option<i32>,
    /// Why the container is waiting, where it is.
    pub waiting: Option<String>,
}

impl PodTable {
    /// Adds a pod; one of the same name that is still being removed gives way.
    pub fn insert(&self, object: Object, inbox: &Arc<Inbox>) -> Arc<PodEntry> {
        let pod = object.pod();
        let entry = Arc::new(PodEntry {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            inbox: inbox.clone(),
            watched: AtomicBool::new(local_storage::is_watched(&pod)),
            object: Mutex::new(object),
            ended_cpu_micros: self.ended_cpu_micros.clone(),
            statuses: Mutex::default(),
            running: Mutex::default(),
        });
        self.entries.lock().insert(ObjectKey::of(&pod.metadata), entry.clone());
        entry
    }

    pub fn remove(&self, pod: &Pod) {
        let mut entries = self.entries.lock();
        let key = ObjectKey::of(&pod.metadata);
        if entries.get(&key).is_some_and(|e| Some(&e.uid) == pod.metadata.uid.as_ref()) {
            entries.remove(&key);
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<PodEntry>> {
        self.entries.lock().get(&ObjectKey::new(namespace, name)).cloned()
    }

    /// All of them, in the order of their names.
    pub fn all(&self) -> Vec<(ObjectKey, Arc<PodEntry>)> {
        let entries = self.entries.lock();
        let mut all: Vec<_> = entries.iter().map(|(key, one)| (key.clone(), one.clone())).collect();
        drop(entries);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// Processor time of containers that ended, in microseconds.
    pub fn ended_cpu_micros(&self) -> u64 {
        self.ended_cpu_micros.load(Ordering::Relaxed)
    }
}

impl PodEntry {
    pub fn set_statuses(&self, status: &PodStatus) {
        let inits = status.init_container_statuses.iter().flatten();
        let all = inits.chain(status.container_statuses.iter().flatten());
        let all = all.chain(status.ephemeral_container_statuses.iter().flatten());
        let ip = status.pod_ip.as_ref().and_then(|ip| ip.parse().ok());
        let start_time = status.start_time.clone();
        let containers = all.map(Summary::of).collect();
        *self.statuses.lock() = Statuses { ip, start_time, containers };
    }

    /// When the node first saw the pod.
    pub fn start_time(&self) -> Option<Time> {
        self.statuses.lock().start_time.clone()
    }

    /// The pod's address, while it has one.
    pub fn ip(&self) -> Option<IpAddr> {
        self.statuses.lock().ip
    }

    /// The newest object that the node knows; decoded anew for each look at a pod that rests.
    pub fn pod(&self) -> Arc<Pod> {
        let object = self.object.lock().clone();
        object.pod()
    }

    pub fn set_object(&self, object: Object) {
        self.watched.store(local_storage::is_watched(&object.pod()), Ordering::Relaxed);
        *self.object.lock() = object;
    }

    /// Whether somebody has to look at what the pod writes.
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    /// Whether the newest object that the pod's worker took came in these very bytes.
    pub fn is_of(&self, raw: &Raw) -> bool {
        self.object.lock().is_of(raw)
    }

    /// Lets go of the decoded object; `false` where nothing but it is known.
    pub fn rest(&self) -> bool {
        let mut object = self.object.lock();
        let rests = object.raw.is_some();
        if rests {
            object.pod = None;
        }
        rests
    }

    /// The decoded object, kept until the next rest.
    pub fn wake(&self) -> Arc<Pod> {
        let mut object = self.object.lock();
        let pod = object.pod();
        object.pod = Some(pod.clone());
        pod
    }

    /// Whether the pod has such a container.
    pub fn has(&self, container: &str) -> bool {
        let pod = self.pod();
        let spec = pod.spec.as_ref();
        let inits = spec.and_then(|s| s.init_containers.as_ref()).into_iter().flatten();
        let mains = spec.map(|s| &s.containers).into_iter().flatten();
        let debug = spec.and_then(|s| s.ephemeral_containers.as_ref()).into_iter().flatten();
        let mut names = inits.chain(mains).map(|one| &one.name).chain(debug.map(|one| &one.name));
        names.any(|name| name == container)
    }

    pub fn started(&self, container: &str, running: Running) {
        self.running.lock().insert(container.to_string(), running);
    }

    /// Drops what was known of an attempt that ended; a newer one stays.
    pub fn ended(&self, container: &str, console: &Arc<Console>) {
        let mut running = self.running.lock();
        if running.get(container).is_some_and(|one| Arc::ptr_eq(&one.console, console)) {
            let ended = running.remove(container).and_then(|one| one.container.upgrade());
            let used = ended.map_or(0, |container| container.usage().cpu_micros);
            self.ended_cpu_micros.fetch_add(used, Ordering::Relaxed);
        }
    }

    pub fn running(&self, container: &str) -> Option<Running> {
        self.running.lock().get(container).cloned()
    }

    /// What runs now, by container, in the order of names.
    pub fn all_running(&self) -> Vec<(String, Running)> {
        let running = self.running.lock();
        let mut all: Vec<_> =
            running.iter().map(|(name, one)| (name.clone(), one.clone())).collect();
        drop(running);
        all.sort_by(|a, b| a.0.cmp(&b.0));
        all
    }

    /// How often each container was started again.
    pub fn restarts(&self) -> Vec<(String, i32)> {
        let statuses = self.statuses.lock();
        statuses.containers.iter().map(|one| (one.name.clone(), one.restart_count)).collect()
    }

    pub fn live_log(&self, container: &str, attempt: i32) -> Option<Arc<AttemptLog>> {
        let log = self.running.lock().get(container)?.console.log.clone();
        (log.attempt == attempt).then_some(log)
    }

    /// What of a container can be read (kubelet's validateContainerLogStatus).
    pub fn attempts(&self, container: &str) -> Attempts {
        let statuses = self.statuses.lock();
        let status = statuses.containers.iter().find(|status| status.name == container);
        let ended_before = status.is_some_and(|status| status.ended_before);
        let number = status.map(|status| status.restart_count).unwrap_or_default();
        let waiting = status.and_then(|status| status.waiting.clone());
        if status.is_some_and(|status| status.has_run) {
            let previous = ended_before.then_some(number - 1);
            return Attempts { current: Some(number), previous, waiting };
        }
        // Waiting for a restart: the attempt that ended is both.
        let last = ended_before.then_some(number);
        Attempts { current: last, previous: last, waiting }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_of_a_status_is_kept() {
        let pod: Pod = serde_json::from_value(json!({
            "kind": "Pod", "apiVersion": "v1",
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
        }))
        .expect("a pod");
        let object = Object::new(Arc::new(pod), None);
        let entry = PodTable::default().insert(object, &Arc::default());
        let exit = json!({"terminated": {"exitCode": 1}});
        let waits = json!({"waiting": {"reason": "CrashLoopBackOff"}});
        let set = |state: &serde_json::Value, last: &serde_json::Value, restarts: i32| {
            let status = json!({"podIP": "127.64.0.9", "containerStatuses": [{"name": "c",
                "image": "i", "imageID": "", "ready": false, "restartCount": restarts,
                "state": state, "lastState": last}]});
            entry.set_statuses(&serde_json::from_value(status).expect("a status"));
            entry.attempts("c")
        };
        let attempts = |current, previous, waiting: Option<&str>| Attempts {
            current,
            previous,
            waiting: waiting.map(str::to_string),
        };
        let nothing = json!({});
        assert_eq!(set(&json!({"running": {}}), &nothing, 0), attempts(Some(0), None, None));
        assert_eq!(set(&exit, &exit, 2), attempts(Some(2), Some(1), None));
        let again = attempts(Some(2), Some(2), Some("CrashLoopBackOff"));
        assert_eq!(set(&waits, &exit, 2), again);
        assert_eq!(entry.restarts(), [("c".to_string(), 2)]);
        assert_eq!(entry.attempts("other"), attempts(None, None, None));
        assert!(!entry.rest(), "there are no bytes to decode it from");
        assert_eq!(entry.ip(), "127.64.0.9".parse().ok());
    }

    #[test]
    fn a_pod_at_rest_is_decoded_when_somebody_asks() {
        let text = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","uid":"u"},
            "spec":{"containers":[{"name":"c","image":"i"}]}}"#;
        let raw = Raw(text.into());
        let pod: Arc<Pod> = Arc::new(raw.decode().expect("a pod"));
        let object = Object::new(pod.clone(), Some(raw.clone()));
        let entry = PodTable::default().insert(object, &Arc::default());
        assert!(Arc::ptr_eq(&entry.pod(), &pod));
        assert!(entry.is_of(&raw) && !entry.is_of(&Raw(text.to_string().into())));
        assert!(entry.rest());
        assert_eq!(Arc::strong_count(&pod), 1, "nobody holds it");
        assert_eq!(entry.pod(), pod);
        assert!(!Arc::ptr_eq(&entry.pod(), &entry.pod()), "a look keeps nothing");
        let woken = entry.wake();
        assert_eq!(woken, pod);
        assert!(Arc::ptr_eq(&woken, &entry.pod()));
    }
}
