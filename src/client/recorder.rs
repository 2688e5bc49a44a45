//! Writes notices as Kubernetes Events: repeats are counted in one Event, and so are notices of an
//! object that differ in their message alone, once there are many; each object may tell only so much,
//! and whoever records never waits. Used by controllers, the scheduler and node agents.
//!
//! The queue is bounded: when the API is slow the oldest notices are dropped and counted, because
//! Events are a help for people and never part of what makes the cluster work.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::event::{Notice, Severity};
use super::{Patch, SharedApi, Target, WriteOptions};
use crate::api::resource::Gvr;
use crate::api::{ApiError, Object};
use crate::base::{SharedClock, Tasks};

/// Notices that may wait.
const QUEUE_NOTICES: usize = 4_096;
/// Events whose repeats are counted.
const REMEMBERED_EVENTS: usize = 4_096;
/// Objects whose rate is limited.
const REMEMBERED_OBJECTS: usize = 4_096;
/// New events that one object may tell at once, warnings apart, so that what goes wrong is not lost
/// among what goes on; one more comes back each [`REFILL_SECONDS`].
/// Source: client-go tools/record/events_cache.go.
const BURST_EVENTS: f64 = 25.0;
const REFILL_SECONDS: f64 = 300.0;
/// Messages of one reason that an object tells one by one; further ones are one Event, until so many
/// seconds passed without one.
/// Source: client-go tools/record/events_cache.go (EventAggregator).
const MOST_SIMILAR: usize = 10;
const SIMILAR_SECONDS: f64 = 600.0;
/// Before the last of them.
const COMBINED: &str = "(combined from similar events): ";
/// Events being written at a time, so that a store's group commit fills.
const MOST_WRITES: usize = 16;
/// The longest message that an Event may carry, in characters (upstream's validation: 1 KiB).
const MESSAGE_CHARACTERS: usize = 1_000;

const EVENTS: Gvr = Gvr::new("", "v1", "events", true);

/// Records notices; cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Inner>,
}

struct Inner {
    api: SharedApi,
    component: &'static str,
    clock: SharedClock,
    queue: Mutex<VecDeque<Told>>,
    wake: Notify,
    dropped: AtomicU64,
}

/// A notice that waits: who told it, and when.
struct Told {
    component: Cow<'static, str>,
    notice: Notice,
    at: Timestamp,
}

/// What makes two notices the same.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Same {
    uid: String,
    kind: String,
    namespace: String,
    name: String,
    reason: Cow<'static, str>,
    is_warning: bool,
    message: String,
}

/// What a reason of an object was told with lately.
#[derive(Clone)]
struct Similar {
    /// Hashes of the last messages.
    messages: VecDeque<u64>,
    last: Timestamp,
}

/// An Event that was written.
#[derive(Clone)]
struct Written {
    namespace: String,
    name: String,
    count: u32,
    first: Timestamp,
}

/// What the writer remembers.
struct Memory {
    events: Lru<Same, Written>,
    /// By what is the same in similar notices: all but the message.
    similar: Lru<Same, Similar>,
    /// Tokens and when they were counted.
    rates: Lru<String, (f64, Timestamp)>,
}

/// One Event to write: what it says, how often it came and when last.
struct Due {
    component: Cow<'static, str>,
    notice: Notice,
    count: u32,
    first: Timestamp,
    last: Timestamp,
}

impl Recorder {
    /// `component` is shown as the Events' source. Nothing is written before [`Recorder::run`].
    pub fn new(api: SharedApi, component: &'static str, clock: SharedClock) -> Recorder {
        let inner = Inner {
            api,
            component,
            clock,
            queue: Mutex::default(),
            wake: Notify::new(),
            dropped: AtomicU64::new(0),
        };
        Recorder { inner: Arc::new(inner) }
    }

    /// Takes a notice; never waits. A full queue loses its oldest notice.
    pub fn record(&self, notice: Notice) {
        self.record_as(self.inner.component, notice);
    }

    /// The same for a part of the component that is known by a name of its own.
    pub fn record_as(&self, component: impl Into<Cow<'static, str>>, notice: Notice) {
        let component = component.into();
        let at = self.inner.clock.now();
        let mut queue = self.inner.queue.lock();
        if queue.len() >= QUEUE_NOTICES {
            queue.pop_front();
            self.inner.dropped.fetch_add(1, Ordering::Relaxed);
        }
        queue.push_back(Told { component, notice, at });
        drop(queue);
        self.inner.wake.notify_one();
    }

    /// Notices that were lost: the queue was full, an object told too much, or the API refused.
    pub fn dropped(&self) -> u64 {
        self.inner.dropped.load(Ordering::Relaxed)
    }

    /// Writes what is recorded until the tasks stop; returns at once. Call it once.
    pub fn run(&self, tasks: &Tasks) {
        let inner = self.inner.clone();
        tasks.spawn("events", async move {
            let mut memory = Memory::new();
            loop {
                inner.wake.notified().await;
                inner.turn(&mut memory).await;
            }
        });
    }
}

impl Inner {
    /// Takes all that waits and writes it, repeats together.
    async fn turn(&self, memory: &mut Memory) {
        let waiting = std::mem::take(&mut *self.queue.lock());
        let mut due: BTreeMap<Same, Due> = BTreeMap::new();
        let mut order = Vec::new();
        for Told { component, mut notice, at } in waiting {
            let same = memory.fold(&mut notice, at);
            if let Some(entry) = due.get_mut(&same) {
                (entry.count, entry.last) = (entry.count.saturating_add(1), at);
                entry.notice = notice;
                continue;
            }
            order.push(same.clone());
            due.insert(same, Due { component, notice, count: 1, first: at, last: at });
        }
        let mut jobs = Vec::new();
        for same in order {
            let Some(entry) = due.remove(&same) else { continue };
            let written = memory.events.get(&same).cloned();
            if written.is_none() && !memory.allows(&same, entry.notice.severity, entry.last) {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            jobs.push((same, entry, written));
        }
        let writes = jobs.into_iter().map(|(same, due, written)| self.write(same, due, written));
        let results: Vec<_> =
            futures::stream::iter(writes).buffer_unordered(MOST_WRITES).collect().await;
        for (same, result) in results {
            match result {
                Ok(written) => memory.events.put(same, written),
                Err(error) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%error, reason = &*same.reason, "an event was not written");
                }
            }
        }
    }

    /// Counts up an Event that is there, or creates one (also where it has expired).
    async fn write(
        &self,
        same: Same,
        due: Due,
        written: Option<Written>,
    ) -> (Same, Result<Written, ApiError>) {
        let options =
            WriteOptions { field_manager: self.component.into(), ..WriteOptions::default() };
        if let Some(written) = written {
            let count = written.count.saturating_add(due.count);
            let mut patch = json!({"count": count, "lastTimestamp": seconds(due.last)});
            if same.message == COMBINED {
                patch["message"] = message_of(&due.notice).into();
            }
            let target = events(&written.namespace, Some(&written.name));
            match self.api.patch(&target, Patch::Merge(patch), &options).await {
                Ok(_) => return (same, Ok(Written { count, ..written })),
                Err(error) if error.is_not_found() => {}
                Err(error) => return (same, Err(error)),
            }
        }
        let written = Written {
            namespace: namespace_of(&due.notice),
            name: event_name(&same, due.first),
            count: due.count,
            first: due.first,
        };
        let body = self.body(&due, &written);
        let result = match Object::from_value(body) {
            Ok(object) => {
                self.api.create(&events(&written.namespace, None), object, &options).await
            }
            Err(error) => Err(error),
        };
        (same, result.map(|_| written))
    }

    fn body(&self, due: &Due, written: &Written) -> Value {
        let notice = &due.notice;
        let severity = match notice.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": written.name, "namespace": written.namespace},
            "involvedObject": notice.regarding,
            "reason": notice.reason,
            "message": message_of(notice),
            "type": severity,
            "source": {"component": due.component},
            "reportingComponent": due.component,
            "reportingInstance": "",
            "firstTimestamp": seconds(written.first),
            "lastTimestamp": seconds(due.last),
            "count": written.count,
        })
    }
}

impl Memory {
    fn new() -> Memory {
        Memory {
            events: Lru::new(REMEMBERED_EVENTS),
            similar: Lru::new(REMEMBERED_EVENTS),
            rates: Lru::new(REMEMBERED_OBJECTS),
        }
    }

    /// Which Event a notice is of: its own, or the one that stands for all that are similar, whose
    /// message is the newest one's.
    fn fold(&mut self, notice: &mut Notice, now: Timestamp) -> Same {
        let same = Same::of(notice);
        let group = Same { message: String::new(), ..same.clone() };
        let message = hash(&same.message);
        let known = self.similar.get(&group).cloned();
        let known =
            known.filter(|known| now.duration_since(known.last).as_secs_f64() <= SIMILAR_SECONDS);
        let mut similar = known.unwrap_or_else(|| Similar { messages: VecDeque::new(), last: now });
        similar.last = now;
        if !similar.messages.contains(&message) {
            similar.messages.push_back(message);
        }
        let is_many = similar.messages.len() >= MOST_SIMILAR;
        if is_many {
            similar.messages.pop_front();
        }
        self.similar.put(group, similar);
        if !is_many {
            return same;
        }
        notice.message.insert_str(0, COMBINED);
        Same { message: COMBINED.into(), ..same }
    }

    /// Whether an object may tell something new: a token bucket by object.
    fn allows(&mut self, same: &Same, severity: Severity, now: Timestamp) -> bool {
        let Same { kind, namespace, name, uid, .. } = same;
        let object = format!("{severity:?}/{kind}/{namespace}/{name}/{uid}");
        let (tokens, at) = self.rates.get(&object).copied().unwrap_or((BURST_EVENTS, now));
        let passed = now.duration_since(at).as_secs_f64().max(0.0);
        let tokens = (tokens + passed / REFILL_SECONDS).min(BURST_EVENTS);
        let allowed = tokens >= 1.0;
        self.rates.put(object, (if allowed { tokens - 1.0 } else { tokens }, now));
        allowed
    }
}

impl Same {
    fn of(notice: &Notice) -> Same {
        let regarding = &notice.regarding;
        Same {
            uid: regarding.uid.clone().unwrap_or_default(),
            kind: regarding.kind.clone().unwrap_or_default(),
            namespace: regarding.namespace.clone().unwrap_or_default(),
            name: regarding.name.clone().unwrap_or_default(),
            reason: notice.reason.clone(),
            is_warning: notice.severity == Severity::Warning,
            message: notice.message.clone(),
        }
    }
}

/// Events about cluster-scoped objects live in `default`.
fn namespace_of(notice: &Notice) -> String {
    let namespace = notice.regarding.namespace.clone().unwrap_or_default();
    if namespace.is_empty() { "default".into() } else { namespace }
}

fn message_of(notice: &Notice) -> String {
    notice.message.chars().take(MESSAGE_CHARACTERS).collect()
}

fn events(namespace: &str, name: Option<&str>) -> Target {
    Target {
        resource: EVENTS,
        namespace: Some(namespace.into()),
        name: name.map(str::to_string),
        subresource: None,
    }
}

/// `<object>.<hexadecimal>`, as upstream's; here of the time and of what is told, so that two
/// notices of one instant do not collide.
fn event_name(same: &Same, at: Timestamp) -> String {
    // A subdomain has at most 253 characters.
    let name: String = same.name.chars().take(236).collect();
    format!("{name}.{:016x}", hash(&(same, at.as_nanosecond())))
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Times of Events have whole seconds.
fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// A map that forgets what was not used for long.
struct Lru<K, V> {
    most: usize,
    tick: u64,
    values: HashMap<K, (V, u64)>,
    by_use: BTreeMap<u64, K>,
}

impl<K: Hash + Eq + Clone, V> Lru<K, V> {
    fn new(most: usize) -> Lru<K, V> {
        Lru { most, tick: 0, values: HashMap::new(), by_use: BTreeMap::new() }
    }

    fn get(&mut self, key: &K) -> Option<&V> {
        self.tick += 1;
        let (value, used) = self.values.get_mut(key)?;
        self.by_use.remove(used);
        *used = self.tick;
        self.by_use.insert(self.tick, key.clone());
        Some(value)
    }

    fn put(&mut self, key: K, value: V) {
        self.tick += 1;
        if let Some((_, used)) = self.values.insert(key.clone(), (value, self.tick)) {
            self.by_use.remove(&used);
        }
        self.by_use.insert(self.tick, key);
        while self.values.len() > self.most {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.values.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan;
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn refusal(pod: usize) -> Notice {
        Notice {
            regarding: ObjectReference { name: Some("web-h1".into()), ..Default::default() },
            severity: Severity::Warning,
            reason: "FailedCreate".into(),
            message: format!("Error creating: pods \"web-h1-{pod}\" is forbidden"),
        }
    }

    /// Nine tell of themselves; whatever else comes within ten minutes of another is one Event.
    #[test]
    fn similar_notices_become_one_event() {
        let mut memory = Memory::new();
        let mut now = Timestamp::UNIX_EPOCH;
        let mut told = |pod: usize, now: Timestamp| {
            let mut notice = refusal(pod);
            let same = memory.fold(&mut notice, now);
            (same.message == COMBINED, notice.message)
        };
        for pod in 1..MOST_SIMILAR {
            assert!(!told(pod, now).0, "{pod}");
            // The same one again is none more.
            assert!(!told(pod, now).0, "{pod}");
        }
        for pod in MOST_SIMILAR..100 {
            now += 9.minutes();
            let (combined, message) = told(pod, now);
            let own = refusal(pod).message;
            assert!(combined && message == format!("{COMBINED}{own}"), "{message}");
        }
        now += 11.minutes();
        assert_eq!(told(7, now), (false, refusal(7).message));
    }

    #[test]
    fn other_reasons_and_objects_are_not_similar() {
        let mut memory = Memory::new();
        for n in 0..3 * MOST_SIMILAR {
            let mut notice = refusal(n);
            match n % 3 {
                0 => notice.reason = "FailedDelete".into(),
                1 => notice.severity = Severity::Normal,
                _ => notice.regarding.name = Some("other".into()),
            }
            let combined = memory.fold(&mut notice, Timestamp::UNIX_EPOCH).message == COMBINED;
            assert_eq!(combined, n >= 3 * MOST_SIMILAR - 3, "{n}");
        }
    }

    #[test]
    fn the_least_used_is_forgotten() {
        let mut lru = Lru::new(2);
        lru.put("a", 1);
        lru.put("b", 2);
        assert_eq!(lru.get(&"a"), Some(&1));
        lru.put("c", 3);
        assert_eq!(lru.get(&"b"), None);
        assert_eq!(lru.get(&"a"), Some(&1));
        assert_eq!(lru.by_use.len(), 2);
    }
}
