//! One kind's objects and their indexes; knows nothing of watches or listeners.

use std::any::Any;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::time::Instant;

use super::AnyObject;
use super::kept::Kept;
use super::objects::Objects;
use crate::api::resource::{Gvr, Kind};
use crate::api::{ApiError, ObjectKey, Raw};

/// Reads an object without what is dropped.
type Read<T> = fn(&Raw) -> Result<T, ApiError>;

/// One kind's objects and indexes.
pub(super) struct Table<T> {
    objects: Objects<Kept<T>>,
    /// Owner's uid → dependents.
    owned: HashMap<String, BTreeSet<ObjectKey>>,
    /// The objects without a controlling owner, of the kinds that are adopted.
    orphans: BTreeSet<ObjectKey>,
    /// [`Kind::index`] → objects.
    indexed: HashMap<String, BTreeSet<ObjectKey>>,
    /// [`Kind::tags`] → objects.
    tagged: HashMap<String, BTreeSet<ObjectKey>>,
    /// Drops what nobody reads.
    pub(super) slim: fn(&mut T),
    /// Reads the rest only.
    pub(super) read: Option<Read<T>>,
    /// The newest revision seen.
    pub(super) revision: u64,
    /// When it was listed first.
    pub(super) synced: Option<Instant>,
    /// Objects that went, and when; the latest ones only.
    gone: HashMap<ObjectKey, Instant>,
    /// The same in the order of time; entries of objects that came back are stale.
    gone_order: VecDeque<(ObjectKey, Instant)>,
}

/// The kinds that controllers adopt: of all others, nobody asks for orphans.
const ADOPTED: &[&str] =
    &["Pod", "ReplicaSet", "ControllerRevision", "Job", "PersistentVolumeClaim"];

/// What a table needs of an object beyond [`AnyObject`].
pub(super) trait Row: AnyObject + Sized {
    /// [`Kind::index`].
    fn row_index(&self) -> Option<String>;

    /// [`Kind::tags`].
    fn row_tags(&self) -> Vec<String>;

    fn has_row_tags_of(&self, old: &Self) -> bool;

    /// Decodes an object again from the bytes that it came in.
    fn revive(raw: &Raw) -> Option<Self>;

    fn is_adopted() -> bool;
}

impl<T: Kind> Row for T {
    fn row_index(&self) -> Option<String> {
        self.index()
    }

    fn row_tags(&self) -> Vec<String> {
        self.tags()
    }

    fn has_row_tags_of(&self, old: &Self) -> bool {
        self.has_tags_of(old)
    }

    fn revive(raw: &Raw) -> Option<T> {
        raw.decode().ok()
    }

    fn is_adopted() -> bool {
        ADOPTED.contains(&T::KIND)
    }
}

/// What became of one key.
pub(super) struct Change<T> {
    pub(super) key: ObjectKey,
    pub(super) old: Option<Arc<T>>,
    pub(super) new: Option<Arc<T>>,
}

/// Objects that went are remembered up to this number.
const MOST_GONE: usize = 1024;

/// A table without its type.
pub(super) trait AnyTable: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn resource(&self) -> Gvr;
    /// Whether an owner reference with these means this resource.
    fn is(&self, api_version: &str, kind: &str) -> bool;
    fn revision(&self) -> u64;
    fn synced(&self) -> bool;
    fn owned_by(&self, uid: &str) -> Vec<Arc<dyn AnyObject>>;
    fn object(&self, key: &ObjectKey) -> Option<Arc<dyn AnyObject>>;
    fn peek(&self, key: &ObjectKey) -> Option<Arc<dyn AnyObject>>;
    fn in_namespace(&self, namespace: &str) -> Vec<Arc<dyn AnyObject>>;
    fn count_in(&self, namespace: &str) -> usize;
    fn keys(&self) -> Vec<ObjectKey>;
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table {
            objects: Objects::default(),
            owned: HashMap::new(),
            orphans: BTreeSet::new(),
            indexed: HashMap::new(),
            tagged: HashMap::new(),
            slim: |_| {},
            read: None,
            revision: 0,
            synced: None,
            gone: HashMap::new(),
            gone_order: VecDeque::new(),
        }
    }
}

impl<T: Row> Table<T> {
    /// Applies a change; `None` for one that is older than what was seen. Equal is applied: one
    /// commit may change several objects.
    pub(super) fn change(
        &mut self,
        key: ObjectKey,
        (new, raw): (Option<Arc<T>>, Option<Raw>),
        revision: u64,
        now: Instant,
    ) -> Option<Change<T>> {
        if revision < self.revision {
            return None;
        }
        self.revision = revision;
        let old = self.put(key.clone(), new.clone(), raw, now);
        Some(Change { key, old, new })
    }

    /// Sets the whole content; what differs is answered.
    pub(super) fn replace(
        &mut self,
        items: Vec<(T, Option<Raw>)>,
        revision: u64,
        now: Instant,
    ) -> Vec<Change<T>> {
        let mut gone: BTreeSet<ObjectKey> = self.objects.keys().collect();
        let mut changes = Vec::new();
        for (mut item, raw) in items {
            (self.slim)(&mut item);
            let key = ObjectKey::of(item.meta());
            gone.remove(&key);
            let kept = self.objects.get(&key).map(|kept| kept.peek(self.slim));
            let same = kept.is_some_and(|old| {
                old.meta().resource_version == item.meta().resource_version
                    && old.meta().uid == item.meta().uid
            });
            if !same {
                let new = Some(Arc::new(item));
                let old = self.put(key.clone(), new.clone(), raw, now);
                changes.push(Change { key, old, new });
            }
        }
        for key in gone {
            let old = self.put(key.clone(), None, None, now);
            changes.push(Change { key, old, new: None });
        }
        self.revision = revision;
        self.synced.get_or_insert(now);
        changes
    }

    pub(super) fn keys(&self) -> Vec<ObjectKey> {
        self.objects.keys().collect()
    }

    /// Sets or removes an object and answers with the one before. With the bytes that it was decoded
    /// from, it need not stay decoded.
    pub(super) fn put(
        &mut self,
        key: ObjectKey,
        object: Option<Arc<T>>,
        raw: Option<Raw>,
        now: Instant,
    ) -> Option<Arc<T>> {
        let old = match &object {
            Some(new) => self.insert(key.clone(), Kept::new(new.clone(), raw, now)),
            None => self.remove(&key, now),
        };
        if let (Some(old), Some(new)) = (&old, &object)
            && old.meta().owner_references == new.meta().owner_references
            && old.row_index() == new.row_index()
            && new.has_row_tags_of(old)
        {
            // All indexes have it already, as after most updates.
        } else {
            self.reindex(key, old.as_deref(), object.as_deref());
        }
        old
    }

    fn reindex(&mut self, key: ObjectKey, old: Option<&T>, new: Option<&T>) {
        if let Some(old) = old {
            for uid in owner_uids(old.meta()) {
                unindex(&mut self.owned, uid, &key);
            }
            if T::is_adopted() {
                self.orphans.remove(&key);
            }
            if let Some(value) = old.row_index() {
                unindex(&mut self.indexed, &value, &key);
            }
            for tag in old.row_tags() {
                unindex(&mut self.tagged, &tag, &key);
            }
        }
        if let Some(new) = new {
            for uid in owner_uids(new.meta()) {
                self.owned.entry(uid.to_string()).or_default().insert(key.clone());
            }
            if T::is_adopted() && is_orphan(new.meta()) {
                self.orphans.insert(key.clone());
            }
            for tag in new.row_tags() {
                self.tagged.entry(tag).or_default().insert(key.clone());
            }
            if let Some(value) = new.row_index() {
                self.indexed.entry(value).or_default().insert(key);
            }
        }
    }

    /// A duplicate of the version held keeps its time of arrival: it tells nothing new.
    fn insert(&mut self, key: ObjectKey, mut new: Kept<T>) -> Option<Arc<T>> {
        let slim = self.slim;
        let mut before = None;
        self.objects.replace(key, |kept| {
            if let Some(kept) = kept {
                let old = kept.peek(slim);
                if old.meta().resource_version == new.object(slim).meta().resource_version {
                    new.since = kept.since;
                }
                before = Some(old);
            }
            new
        });
        before
    }

    fn remove(&mut self, key: &ObjectKey, now: Instant) -> Option<Arc<T>> {
        let kept = self.objects.remove(key)?;
        self.gone.insert(key.clone(), now);
        self.gone_order.push_back((key.clone(), now));
        if self.gone_order.len() > MOST_GONE
            && let Some((key, went)) = self.gone_order.pop_front()
            && self.gone.get(&key) == Some(&went)
        {
            self.gone.remove(&key);
        }
        Some(kept.peek(self.slim))
    }

    /// Lets go of what nobody asked for since the last time, among so many objects after a key.
    /// Answers with the key to go on after, if there are more, and with what is let go: to drop it
    /// takes a while.
    pub(super) fn cool(
        &mut self,
        after: Option<&ObjectKey>,
        most: usize,
    ) -> (Option<ObjectKey>, Vec<Arc<T>>) {
        let mut gone = Vec::new();
        let next = self.objects.visit(after, most, |kept| gone.extend(kept.cool()));
        (next, gone)
    }

    /// Since when an object is not here.
    pub(super) fn missing_since(&self, key: &ObjectKey) -> Option<Instant> {
        if self.objects.contains(key) {
            return None;
        }
        self.gone.get(key).copied().or(self.synced)
    }

    pub(super) fn get(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.objects.get(key).map(|kept| kept.object(self.slim))
    }

    pub(super) fn raw(&self, key: &ObjectKey) -> Option<&Raw> {
        self.objects.get(key)?.raw()
    }

    pub(super) fn since(&self, key: &ObjectKey) -> Option<Instant> {
        self.objects.get(key).map(|kept| kept.since)
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.objects.values().map(|kept| kept.object(self.slim))
    }

    pub(super) fn owned<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.pick(self.owned.get(uid))
    }

    pub(super) fn indexed<'a>(
        &'a self,
        value: &str,
    ) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.pick(self.indexed.get(value))
    }

    pub(super) fn tagged<'a>(&'a self, tag: &str) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.pick(self.tagged.get(tag))
    }

    pub(super) fn count_tagged(&self, tag: &str) -> usize {
        self.tagged.get(tag).map_or(0, BTreeSet::len)
    }

    pub(super) fn orphans<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<T>> {
        assert!(T::is_adopted(), "a kind is missing in ADOPTED");
        let keys = self.orphans.range(ObjectKey::new(namespace, "")..);
        keys.take_while(move |key| key.namespace == namespace).filter_map(|key| self.get(key))
    }

    fn pick<'a>(
        &'a self,
        keys: Option<&'a BTreeSet<ObjectKey>>,
    ) -> impl Iterator<Item = &'a Arc<T>> {
        keys.into_iter().flatten().filter_map(|key| self.get(key))
    }

    pub(super) fn range<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<T>> + use<'a, T> {
        self.objects.in_namespace(namespace).map(|kept| kept.object(self.slim))
    }

    pub(super) fn count_in(&self, namespace: &str) -> usize {
        self.objects.count_in(namespace)
    }
}

fn owner_uids(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    meta.owner_references.iter().flatten().map(|owner| owner.uid.as_str())
}

fn is_orphan(meta: &ObjectMeta) -> bool {
    !meta.owner_references.iter().flatten().any(|owner| owner.controller == Some(true))
}

fn unindex(index: &mut HashMap<String, BTreeSet<ObjectKey>>, value: &str, key: &ObjectKey) {
    if let Some(keys) = index.get_mut(value) {
        keys.remove(key);
        if keys.is_empty() {
            index.remove(value);
        }
    }
}

impl<T: Kind> AnyTable for Table<T> {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn resource(&self) -> Gvr {
        Gvr::of::<T>()
    }

    fn is(&self, api_version: &str, kind: &str) -> bool {
        kind == T::KIND && api_version == T::API_VERSION
    }

    fn revision(&self) -> u64 {
        self.revision
    }

    fn synced(&self) -> bool {
        self.synced.is_some()
    }

    fn owned_by(&self, uid: &str) -> Vec<Arc<dyn AnyObject>> {
        self.owned(uid).map(|o| o.clone() as Arc<dyn AnyObject>).collect()
    }

    fn object(&self, key: &ObjectKey) -> Option<Arc<dyn AnyObject>> {
        self.get(key).map(|o| o.clone() as Arc<dyn AnyObject>)
    }

    fn peek(&self, key: &ObjectKey) -> Option<Arc<dyn AnyObject>> {
        self.objects.get(key).map(|kept| kept.peek(self.slim) as Arc<dyn AnyObject>)
    }

    fn in_namespace(&self, namespace: &str) -> Vec<Arc<dyn AnyObject>> {
        self.range(namespace).map(|o| o.clone() as Arc<dyn AnyObject>).collect()
    }

    fn count_in(&self, namespace: &str) -> usize {
        Table::count_in(self, namespace)
    }

    fn keys(&self) -> Vec<ObjectKey> {
        Table::keys(self)
    }
}
