//! The newest events of a store, bounded by count and by bytes: what a watch from a recent revision
//! is replayed, and what makes lists at recent revisions exact.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::hub::{EVENT_OVERHEAD_BYTES, HubOptions};
use super::{Change, Event, Key, Revision};

/// The newest events, oldest first. Holds every event with a revision above `floor`.
pub(super) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    floor: Revision,
    max_events: usize,
    max_bytes: usize,
}

impl Ring {
    pub(super) fn new(options: &HubOptions, floor: Revision) -> Ring {
        Ring {
            events: VecDeque::new(),
            bytes: 0,
            floor,
            max_events: options.ring_events,
            max_bytes: options.ring_bytes,
        }
    }

    /// The revision above which every event is held: the oldest one a watch may begin from.
    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.bytes += kept_alive(&event);
        self.events.push_back(event);
    }

    pub(super) fn is_over_bounds(&self) -> bool {
        self.events.len() > self.max_events || self.bytes > self.max_bytes
    }

    /// Takes out the oldest event if it belongs to a revision up to `revision`, and raises the
    /// floor to it. The caller takes all events of a commit or none.
    pub(super) fn pop_through(&mut self, revision: Revision) -> Option<Arc<Event>> {
        if self.events.front()?.revision > revision {
            return None;
        }
        let event = self.events.pop_front()?;
        self.bytes -= kept_alive(&event);
        self.floor = self.floor.max(event.revision);
        Some(event)
    }

    pub(super) fn oldest(&self) -> Option<Revision> {
        self.events.front().map(|event| event.revision)
    }

    /// Declares that nothing up to `revision` can be read any more; the events must be gone.
    pub(super) fn raise_floor(&mut self, revision: Revision) {
        self.floor = self.floor.max(revision);
    }

    /// The events on `prefix` with `from < revision ≤ through`, in order.
    pub(super) fn between(
        &self,
        prefix: &Key,
        from: Revision,
        through: Revision,
    ) -> Vec<Arc<Event>> {
        let first = self.events.partition_point(|event| event.revision <= from);
        let rest = self.events.range(first..).take_while(|event| event.revision <= through);
        rest.filter(|event| event.key.starts_with(prefix)).cloned().collect()
    }
}

/// The bytes that live only because the event does: a put value is alive in the present state until
/// the event that replaces it, which is then charged for it as its `previous`.
fn kept_alive(event: &Event) -> usize {
    let values = match &event.change {
        Change::Put { previous, .. } => previous.as_ref().map_or(0, Bytes::len),
        Change::Delete { last, previous } => last.len() + previous.len(),
    };
    EVENT_OVERHEAD_BYTES + event.key.0.len() + values
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(revision: Revision, parts: &[&str]) -> Arc<Event> {
        let change = Change::Put { value: Bytes::from_static(b"v"), previous: None };
        Arc::new(Event { revision, key: Key::new(parts), change })
    }

    #[test]
    fn the_ring_counts_what_it_keeps_alive() {
        let options = HubOptions { ring_events: 2, ..HubOptions::default() };
        let mut ring = Ring::new(&options, 0);
        for revision in 1..=3 {
            ring.push(put(revision, &["a"]));
        }
        assert!(ring.is_over_bounds());
        assert!(ring.pop_through(1).is_some());
        assert!(ring.pop_through(1).is_none());
        assert_eq!((ring.floor(), ring.is_over_bounds()), (1, false));
        assert_eq!(ring.between(&Key::everything(), 1, 2).len(), 1);
        while ring.pop_through(3).is_some() {}
        assert_eq!(ring.bytes, 0);
    }
}
