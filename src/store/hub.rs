//! Recent events of the store, handed to watchers.
//!
//! Owns the watchers with their backlogs. It does not know where events come from, what the present
//! state is, or what a key or a value means. Watchers are indexed by the prefix they watch, and by
//! the tag if they named one, so that a commit costs what its interested watchers cost: an event's
//! key is looked up once for each distinct prefix *length* in use, and a tag once for each such
//! prefix, however many watchers there are. A watcher that does not keep up is ended with
//! [`WatchEnd::TooSlow`]; it never loses an event in silence and never holds up the writer.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Event, Key, ReadError, Revision, TagsOf, Watch, WatchEnd};

/// How many events the ring keeps.
pub const RING_EVENTS: usize = 100_000;
/// How many bytes the ring keeps alive beyond the present state.
pub const RING_BYTES: usize = 64 * 1024 * 1024;
/// How many events may wait for one watcher.
pub const BACKLOG_EVENTS: usize = 10_000;
/// How many bytes of events may wait for one watcher.
pub const BACKLOG_BYTES: usize = 32 * 1024 * 1024;
/// What an event costs besides its values: the event, its links and its share of the indexes.
pub(super) const EVENT_OVERHEAD_BYTES: usize = 256;

/// The bounds of the ring and of every watcher's backlog.
#[derive(Clone, Debug)]
pub struct HubOptions {
    pub ring_events: usize,
    pub ring_bytes: usize,
    pub backlog_events: usize,
    pub backlog_bytes: usize,
}

impl Default for HubOptions {
    fn default() -> HubOptions {
        HubOptions {
            ring_events: RING_EVENTS,
            ring_bytes: RING_BYTES,
            backlog_events: BACKLOG_EVENTS,
            backlog_bytes: BACKLOG_BYTES,
        }
    }
}

/// What fault injection does to one delivery to one watcher.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Deliver,
    /// The watcher is handed nothing until it was polled this often.
    Late(u32),
    /// The watch ends as if it had been too slow.
    End,
}

type FateOf = Box<dyn FnMut() -> Fate + Send>;

/// All watchers of one store.
pub(super) struct Hub {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    backlog_events: usize,
    backlog_bytes: usize,
    /// Every event up to here was handed to the watchers.
    published: Revision,
    next_id: u64,
    by_prefix: HashMap<Bytes, Group>,
    /// The lengths of the prefixes in `by_prefix`, with the number of prefixes of each.
    lengths: BTreeMap<usize, usize>,
    closed: bool,
    /// Tells an event's tags; without it tagged watchers are handed every event.
    tags_of: Option<TagsOf>,
    fate: Option<FateOf>,
}

/// The watchers of one prefix, by birth.
#[derive(Default)]
struct Group {
    /// Those without a tag.
    all: BTreeMap<u64, Arc<Slot>>,
    tagged: HashMap<Bytes, BTreeMap<u64, Arc<Slot>>>,
}

/// The shared part of one watcher.
struct Slot {
    id: u64,
    prefix: Bytes,
    tag: Option<Bytes>,
    /// Live events up to this revision are not for this watcher.
    from: Revision,
    queue: Mutex<Queue>,
    notify: Notify,
}

#[derive(Default)]
struct Queue {
    events: Vec<Arc<Event>>,
    bytes: usize,
    late_polls: u32,
    end: Option<WatchEnd>,
}

impl Hub {
    pub(super) fn new(options: &HubOptions, published: Revision) -> Hub {
        let inner = Inner {
            backlog_events: options.backlog_events,
            backlog_bytes: options.backlog_bytes,
            published,
            next_id: 0,
            by_prefix: HashMap::new(),
            lengths: BTreeMap::new(),
            closed: false,
            tags_of: None,
            fate: None,
        };
        Hub { inner: Arc::new(Mutex::new(inner)) }
    }

    pub(super) fn set_tags_of(&self, tags_of: TagsOf) {
        self.inner.lock().tags_of = Some(tags_of);
    }

    /// Sets what decides over each delivery, in the order of the watchers' birth.
    pub(super) fn set_fate(&self, fate: Option<FateOf>) {
        self.inner.lock().fate = fate;
    }

    /// Hands the events of whole commits, up to `revision`, to the watchers concerned. Readers
    /// must be able to see the commits already.
    pub(super) fn publish(&self, events: &[Arc<Event>], revision: Revision) {
        let mut inner = self.inner.lock();
        inner.published = revision;
        if inner.by_prefix.is_empty() {
            return;
        }
        if let [event] = events
            && inner.fate.is_none()
        {
            for slot in inner.publish_one(event) {
                inner.remove(&slot);
            }
            return;
        }
        // A watcher gets its part of the batch in one piece: a commit is never torn in two, and a
        // batch wakes a watcher once.
        let mut parts: BTreeMap<u64, (Arc<Slot>, Vec<Arc<Event>>)> = BTreeMap::new();
        for event in events {
            for slot in inner.interested(event) {
                let part = parts.entry(slot.id).or_insert_with(|| (slot.clone(), Vec::new()));
                part.1.push(event.clone());
            }
        }
        for (slot, part) in parts.into_values() {
            let fate = inner.fate.as_mut().map_or(Fate::Deliver, |fate| fate());
            if !inner.deliver(&slot, &part, fate) {
                inner.remove(&slot);
            }
        }
    }

    /// Begins a watch. `replay` is asked for the events in (`from`, published], while nothing can
    /// be published; everything later comes from [`Hub::publish`].
    pub(super) fn subscribe(
        &self,
        prefix: &Key,
        tag: Option<&Bytes>,
        from: Revision,
        replay: impl FnOnce(Revision) -> Result<Vec<Arc<Event>>, ReadError>,
    ) -> Result<Watch, ReadError> {
        let mut inner = self.inner.lock();
        let replay = replay(inner.published)?;
        let id = inner.next_id;
        inner.next_id += 1;
        let slot = Arc::new(Slot {
            id,
            prefix: Bytes::copy_from_slice(&prefix.0),
            tag: tag.cloned(),
            from: from.max(inner.published),
            queue: Mutex::default(),
            notify: Notify::new(),
        });
        if inner.closed {
            slot.end(WatchEnd::Closed);
        } else {
            inner.add(slot.clone());
        }
        Ok(Watch { receiver: Receiver { hub: self.inner.clone(), slot, replay } })
    }

    /// Ends every watch; with [`WatchEnd::Closed`] for good.
    pub(super) fn end_all(&self, end: WatchEnd) {
        let mut inner = self.inner.lock();
        inner.closed |= end == WatchEnd::Closed;
        inner.lengths.clear();
        let groups = std::mem::take(&mut inner.by_prefix);
        // In the order in which they began, as events go, so that runs can be repeated.
        let mut slots: Vec<&Arc<Slot>> = groups.values().flat_map(Group::slots).collect();
        slots.sort_unstable_by_key(|slot| slot.id);
        slots.into_iter().for_each(|slot| slot.end(end.clone()));
    }

    #[cfg(test)]
    fn watchers(&self) -> usize {
        self.inner.lock().by_prefix.values().map(|group| group.slots().count()).sum()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.end_all(WatchEnd::Closed);
    }
}

impl Group {
    fn slots(&self) -> impl Iterator<Item = &Arc<Slot>> {
        self.all.values().chain(self.tagged.values().flat_map(BTreeMap::values))
    }

    /// Those without a tag, and those with one of the event's.
    fn interested(
        &self,
        event: &Event,
        tags_of: Option<&TagsOf>,
    ) -> impl Iterator<Item = &Arc<Slot>> {
        let tags = tags_of.filter(|_| !self.tagged.is_empty()).and_then(|of| of(event));
        let (known, unknown) = match tags {
            Some(mut tags) => {
                // A watcher of a tag that is named twice sees the event once.
                tags.sort_unstable();
                tags.dedup();
                (tags, None)
            }
            None => (Vec::new(), Some(self.tagged.values())),
        };
        let tagged = known.into_iter().filter_map(|tag| self.tagged.get(&tag));
        let tagged = tagged.chain(unknown.into_iter().flatten());
        self.all.values().chain(tagged.flat_map(BTreeMap::values))
    }

    fn is_empty(&self) -> bool {
        self.all.is_empty() && self.tagged.is_empty()
    }

    fn add(&mut self, slot: Arc<Slot>) {
        let slots = match &slot.tag {
            Some(tag) => self.tagged.entry(tag.clone()).or_default(),
            None => &mut self.all,
        };
        slots.insert(slot.id, slot);
    }

    /// Whether it was there.
    fn remove(&mut self, slot: &Slot) -> bool {
        let Some(tag) = &slot.tag else { return self.all.remove(&slot.id).is_some() };
        let Some(slots) = self.tagged.get_mut(tag) else { return false };
        let removed = slots.remove(&slot.id).is_some();
        if slots.is_empty() {
            self.tagged.remove(tag);
        }
        removed
    }
}

impl Inner {
    fn add(&mut self, slot: Arc<Slot>) {
        let length = slot.prefix.len();
        let group = self.by_prefix.entry(slot.prefix.clone()).or_default();
        if group.is_empty() {
            *self.lengths.entry(length).or_default() += 1;
        }
        group.add(slot);
    }

    fn remove(&mut self, slot: &Slot) {
        let Some(group) = self.by_prefix.get_mut(&slot.prefix) else { return };
        if !group.remove(slot) || !group.is_empty() {
            return;
        }
        self.by_prefix.remove(&slot.prefix);
        let length = slot.prefix.len();
        if let Some(prefixes) = self.lengths.get_mut(&length) {
            *prefixes -= 1;
            if *prefixes == 0 {
                self.lengths.remove(&length);
            }
        }
    }

    /// The watchers that an event is for.
    fn interested<'a>(&'a self, event: &'a Event) -> impl Iterator<Item = &'a Arc<Slot>> {
        let key = &event.key.0;
        let lengths = self.lengths.range(..=key.len()).map(|(length, _)| *length);
        let groups = lengths.filter_map(|length| self.by_prefix.get(&key[..length]));
        let slots = groups.flat_map(|group| group.interested(event, self.tags_of.as_ref()));
        slots.filter(|slot| slot.from < event.revision)
    }

    /// Hands out a single event, as most batches are, and answers with the watchers that this ended.
    fn publish_one(&self, event: &Arc<Event>) -> Vec<Arc<Slot>> {
        let part = std::slice::from_ref(event);
        let ended = |slot: &&Arc<Slot>| !self.deliver(slot, part, Fate::Deliver);
        self.interested(event).filter(ended).cloned().collect()
    }

    /// Appends to the watcher's backlog; `false` if that ended the watch.
    fn deliver(&self, slot: &Slot, part: &[Arc<Event>], fate: Fate) -> bool {
        let bytes: usize = part.iter().map(|event| backlog_bytes(event)).sum();
        let mut queue = slot.queue.lock();
        // One batch always fits an empty backlog: a watcher that kept up is never cut off.
        let too_slow = !queue.events.is_empty()
            && (queue.events.len() + part.len() > self.backlog_events
                || queue.bytes + bytes > self.backlog_bytes);
        if too_slow || fate == Fate::End {
            drop(queue);
            slot.end(WatchEnd::TooSlow);
            return false;
        }
        if let Fate::Late(polls) = fate {
            queue.late_polls = polls;
        }
        queue.bytes += bytes;
        queue.events.extend_from_slice(part);
        drop(queue);
        slot.notify.notify_one();
        true
    }
}

fn backlog_bytes(event: &Event) -> usize {
    EVENT_OVERHEAD_BYTES + event.value().len()
}

impl Slot {
    fn end(&self, end: WatchEnd) {
        let mut queue = self.queue.lock();
        if end == WatchEnd::TooSlow {
            // The watcher begins again from the last revision it saw: what waits is of no use.
            queue.events = Vec::new();
            queue.bytes = 0;
        }
        queue.late_polls = 0;
        queue.end.get_or_insert(end);
        drop(queue);
        self.notify.notify_one();
    }

    /// What a poll finds: waiting events, then the end, else nothing yet.
    fn take(&self) -> Poll {
        let mut queue = self.queue.lock();
        if queue.late_polls > 0 {
            queue.late_polls -= 1;
            return Poll::Late;
        }
        if !queue.events.is_empty() {
            queue.bytes = 0;
            return Poll::Events(std::mem::take(&mut queue.events));
        }
        queue.end.clone().map_or(Poll::Nothing, Poll::End)
    }
}

enum Poll {
    Events(Vec<Arc<Event>>),
    End(WatchEnd),
    Late,
    Nothing,
}

/// A watcher's end of its backlog. Dropping it ends the watch.
pub struct Receiver {
    hub: Arc<Mutex<Inner>>,
    slot: Arc<Slot>,
    /// Events from before the watch began; bounded by the ring, so not part of the backlog.
    replay: Vec<Arc<Event>>,
}

impl Receiver {
    /// All waiting events, whole commits only, or why the watch ended. Cancel-safe: events leave
    /// the backlog only when they are returned.
    pub async fn next(&mut self) -> Result<Vec<Event>, WatchEnd> {
        if !self.replay.is_empty() {
            return Ok(owned(std::mem::take(&mut self.replay)));
        }
        loop {
            match self.slot.take() {
                Poll::Events(events) => return Ok(owned(events)),
                Poll::End(end) => return Err(end),
                Poll::Late => tokio::task::yield_now().await,
                Poll::Nothing => self.slot.notify.notified().await,
            }
        }
    }

    /// Nothing is published while the hub is locked, so an empty backlog means that everything up
    /// to `published` was taken.
    pub(super) fn caught_up(&self) -> Option<Revision> {
        let hub = self.hub.lock();
        let queue = self.slot.queue.lock();
        let waits = !self.replay.is_empty() || !queue.events.is_empty() || queue.late_polls > 0;
        (!waits && queue.end.is_none()).then_some(hub.published)
    }
}

fn owned(events: Vec<Arc<Event>>) -> Vec<Event> {
    events.into_iter().map(Arc::unwrap_or_clone).collect()
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.hub.lock().remove(&self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Change;

    fn put(revision: Revision, parts: &[&str]) -> Arc<Event> {
        let change = Change::Put { value: Bytes::from_static(b"v"), previous: None };
        Arc::new(Event { revision, key: Key::new(parts), change })
    }

    fn nothing(_: Revision) -> Result<Vec<Arc<Event>>, ReadError> {
        Ok(Vec::new())
    }

    #[tokio::test]
    async fn only_interested_watchers_are_touched_and_forgotten_when_dropped() {
        let hub = Hub::new(&HubOptions::default(), 0);
        let mut pods = hub.subscribe(&Key::new(&["pods"]), None, 0, nothing).unwrap();
        let mut all = hub.subscribe(&Key::everything(), None, 0, nothing).unwrap();
        let nodes = hub.subscribe(&Key::new(&["nodes"]), None, 0, nothing).unwrap();
        hub.publish(&[put(1, &["pods", "a"]), put(2, &["podsx", "a"])], 2);
        assert_eq!((pods.caught_up(), nodes.caught_up()), (None, Some(2)));
        assert_eq!(pods.next().await.unwrap().len(), 1);
        assert_eq!(pods.caught_up(), Some(2));
        assert_eq!(all.next().await.unwrap().len(), 2);
        assert!(nodes.receiver.slot.queue.lock().events.is_empty());
        drop((pods, all, nodes));
        assert_eq!(hub.watchers(), 0);
        assert!(hub.inner.lock().lengths.is_empty());
    }

    #[tokio::test]
    async fn a_tagged_watcher_is_touched_by_its_tag_only() {
        let hub = Hub::new(&HubOptions::default(), 0);
        let (pods, tag) = (Key::new(&["pods"]), Bytes::from_static(b"n1"));
        let mut one = hub.subscribe(&pods, Some(&tag), 0, nothing).unwrap();
        let mut all = hub.subscribe(&pods, None, 0, nothing).unwrap();
        hub.publish(&[put(1, &["pods", "a"])], 1);
        assert_eq!(one.next().await.unwrap().len(), 1, "nobody tells tags");
        hub.set_tags_of(Box::new(|event| {
            let name = event.key.parts()?.pop()?;
            (name != "odd").then(|| vec![Bytes::from(name), Bytes::from_static(b"n2")])
        }));
        hub.publish(
            &[put(2, &["pods", "n1"]), put(3, &["pods", "a"]), put(4, &["pods", "odd"])],
            4,
        );
        let seen: Vec<_> = one.next().await.unwrap().iter().map(|e| e.revision).collect();
        assert_eq!((seen, one.caught_up()), (vec![2, 4], Some(4)));
        assert_eq!(all.next().await.unwrap().len(), 4);
        drop(one);
        assert_eq!(hub.watchers(), 1);
        drop(all);
        assert!(hub.inner.lock().by_prefix.is_empty() && hub.inner.lock().lengths.is_empty());
    }

    #[tokio::test]
    async fn a_slow_watcher_is_ended_and_a_quick_one_is_not() {
        let options = HubOptions { backlog_events: 2, ..HubOptions::default() };
        let hub = Hub::new(&options, 0);
        let mut slow = hub.subscribe(&Key::everything(), None, 0, nothing).unwrap();
        let mut quick = hub.subscribe(&Key::everything(), None, 0, nothing).unwrap();
        for revision in 1..=3 {
            hub.publish(&[put(revision, &["a"])], revision);
            assert_eq!(quick.next().await.unwrap()[0].revision, revision);
        }
        assert_eq!(slow.next().await, Err(WatchEnd::TooSlow));
        assert_eq!(hub.watchers(), 1);
        hub.end_all(WatchEnd::Closed);
        assert_eq!(quick.next().await, Err(WatchEnd::Closed));
        assert_eq!(quick.caught_up(), None);
    }
}
