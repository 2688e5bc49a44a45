//! What is watched, kept: list and watch into shared objects with indexes, and [`View`], a
//! read-only snapshot of several kinds at once that pure decisions are made on.
//!
//! Every kind has its table and its own watch; [`View::revision`] tells how far a table has come,
//! which is what the read-your-writes barrier of the controllers' driver compares. Events that are
//! older than what a table has seen are ignored, so duplicate and late events cannot bring back
//! what is gone.

mod kept;
mod metadata;
mod objects;
mod reflect;
mod table;
mod view;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

use self::reflect::{Reflector, Sink, Typed};
use self::table::{Change, Table};
use self::view::Tables;
use super::{SharedApi, WatchEvent};
use crate::api::resource::{Gvr, Kind};
use crate::api::{ApiError, ObjectKey, Raw};
use crate::base::Tasks;

pub use self::metadata::{Describe, Described, Metadata};
pub use self::view::View;

/// Tables of several kinds, filled by watches. Cheap to share by `Arc`.
#[derive(Default)]
pub struct Cache {
    tables: RwLock<Tables>,
    listeners: RwLock<Vec<Listener>>,
    progress: RwLock<Vec<ProgressListener>>,
    progressed: Notify,
    /// Tells a table's reflector that its content is doubted.
    relist: RwLock<HashMap<Gvr, Arc<Notify>>>,
    /// Set to true when the table of every type was listed once.
    synced: SyncedFlag,
    /// See [`Cache::lean`].
    lean: AtomicBool,
}

/// How many objects are looked at for what can be let go, before others may look at the table.
const COOL_STRIDE: usize = 1024;

#[derive(Default)]
struct SyncedFlag {
    is_set: AtomicBool,
    /// Wakes those who wait in the order in which they began: a simulation runs the same each time.
    told: Notify,
}

/// Called after each change, in the order of changes, without the lock: must not block.
pub type Listener = Box<dyn Fn(&Changed) + Send + Sync>;

/// Called after a table's revision moved, by a change (after its [`Listener`]s), a bookmark or a
/// list; without the lock: must not block.
pub type ProgressListener = Box<dyn Fn(&Gvr) + Send + Sync>;

/// A change of one object in the cache; `old` and `new` are of the type that `resource` names.
pub struct Changed {
    pub resource: Gvr,
    pub key: ObjectKey,
    pub old: Option<Arc<dyn AnyObject>>,
    pub new: Option<Arc<dyn AnyObject>>,
}

/// A typed object behind a common face.
pub trait AnyObject: Send + Sync + 'static {
    fn meta(&self) -> &ObjectMeta;
    fn as_any(&self) -> &dyn Any;
    fn resource(&self) -> Gvr;
    fn kind(&self) -> &str;
    fn api_version(&self) -> &str;
    /// The object without its type, for writing it back.
    fn erased(&self) -> crate::api::Object;
}

impl<T: Kind> AnyObject for T {
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn resource(&self) -> Gvr {
        Gvr::of::<T>()
    }

    fn kind(&self) -> &str {
        T::KIND
    }

    fn api_version(&self) -> &str {
        T::API_VERSION
    }

    fn erased(&self) -> crate::api::Object {
        crate::api::Object::from_typed(self)
    }
}

impl Changed {
    /// The new object, or the last one of a deleted key.
    pub fn object(&self) -> Option<&Arc<dyn AnyObject>> {
        self.new.as_ref().or(self.old.as_ref())
    }

    /// Old and new as a type.
    pub fn typed<T: Kind>(&self) -> (Option<&T>, Option<&T>) {
        (
            self.old.as_ref().and_then(|o| o.as_any().downcast_ref()),
            self.new.as_ref().and_then(|o| o.as_any().downcast_ref()),
        )
    }
}

impl Cache {
    pub fn new() -> Arc<Cache> {
        Arc::new(Cache::default())
    }

    pub fn view(&self) -> View<'_> {
        View::new(self.tables.read())
    }

    /// Adds a listener; it sees what changes from now on.
    pub fn listen(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    /// Adds a listener to the progress of tables.
    pub fn listen_progress(&self, listener: ProgressListener) {
        self.progress.write().push(listener);
    }

    /// Adds a type and keeps it by list and watch until the tasks stop. Call for every type before
    /// waiting for [`Cache::wait_synced`]. `field_selector` narrows what is kept
    /// (`spec.nodeName=n` for a node's pods); empty keeps all.
    pub fn keep<T: Kind>(self: &Arc<Self>, api: SharedApi, field_selector: &str, tasks: &Tasks) {
        self.add::<T>();
        let reflecting = self.reflect(Typed::<T>::default(), api, field_selector);
        tasks.spawn("cache", reflecting);
    }

    /// Lists and watches for ever.
    fn reflect<S: Sink>(
        self: &Arc<Self>,
        sink: S,
        api: SharedApi,
        selector: &str,
    ) -> impl Future<Output = ()> + Send + use<S> {
        let relist = self.relist.write().entry(sink.resource()).or_default().clone();
        let (cache, selector) = (self.clone(), selector.to_string());
        async move {
            let (api, selector) = (&api, selector.as_str());
            Reflector { cache: &cache, api, sink: &sink, selector, relist: &relist }.run().await
        }
    }

    /// Adds a type without a watch; the caller feeds it ([`Cache::apply`]).
    pub fn add<T: Kind>(&self) {
        self.tables
            .write()
            .by_type
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Box::new(Table::<T>::default()));
    }

    /// Sets what is dropped of every object of a type before it is kept: what none of the cache's
    /// readers reads. Who writes an object back must not write what was dropped.
    pub fn slim<T: Kind>(&self, slim: fn(&mut T)) {
        self.with_table::<T, _>(|table| table.slim = slim);
    }

    /// Sets how the objects of a type are read without what [`Cache::slim`] drops, where to skip it
    /// costs much less than to decode it.
    pub fn read_slim<T: Kind>(&self, read: fn(&Raw) -> Result<T, ApiError>) {
        self.with_table::<T, _>(|table| table.read = Some(read));
    }

    /// Keeps objects, from now on, as the bytes that they came in, beside what was asked for in the
    /// last minute or two. Bytes from a store in the same process cost nothing, and from elsewhere a
    /// fraction of a typed object.
    pub fn lean(&self) {
        self.lean.store(true, Ordering::Relaxed);
    }

    /// Lets go of what nobody asked for since the last time.
    async fn cool<S: Sink>(&self, sink: &S) {
        let mut after = None;
        loop {
            let cooled = sink.with(self, |table| table.cool(after.as_ref(), COOL_STRIDE));
            let (next, gone) = cooled.unwrap_or_default();
            drop(gone);
            if next.is_none() {
                return;
            }
            after = next;
            tokio::task::yield_now().await;
        }
    }

    fn raw_of(&self, raw: &Raw) -> Option<Raw> {
        self.lean.load(Ordering::Relaxed).then(|| raw.clone())
    }

    /// Doubts a table: its reflector drops its watch and lists again.
    pub fn relist(&self, resource: &Gvr) {
        if let Some(notify) = self.relist.read().get(resource) {
            notify.notify_one();
        }
    }

    /// Whether every type's table shows all that was committed up to a revision. With `ask`, those
    /// that do not are listed again.
    pub fn has_reached(&self, revision: u64, ask: bool) -> bool {
        let tables = self.tables.read();
        let late = tables.by_type.values().filter(|table| table.revision() < revision);
        let late: Vec<(Gvr, bool)> = late.map(|one| (one.resource(), one.synced())).collect();
        drop(tables);
        // One that was never listed is on its way.
        let listed = late.iter().filter(|(_, synced)| *synced && ask);
        listed.for_each(|(resource, _)| self.relist(resource));
        late.is_empty()
    }

    /// Resolves at the next progress of any table after this call (not after the first poll).
    pub fn progressed(&self) -> Notified<'_> {
        self.progressed.notified()
    }

    /// Waits until every type was listed once.
    pub async fn wait_synced(&self) {
        // Whoever asked before `notify_waiters` is told, polled or not.
        let told = self.synced.told.notified();
        if !self.synced.is_set.load(Ordering::SeqCst) {
            told.await;
        }
    }

    /// Applies one event; answers with its resource version, or `None` for an object that cannot be
    /// read (which is told and left out).
    pub fn apply<T: Kind>(&self, event: &WatchEvent) -> Option<String> {
        self.apply_to(&Typed::<T>::default(), event)
    }

    fn apply_to<S: Sink>(&self, sink: &S, event: &WatchEvent) -> Option<String> {
        let (raw, is_there): (&Raw, bool) = match event {
            WatchEvent::Bookmark(text) => {
                let revision = parse_revision(text);
                sink.with(self, |table| table.revision = table.revision.max(revision));
                self.tell_progress(&sink.resource());
                return Some(text.clone());
            }
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) => (raw, true),
            WatchEvent::Deleted(raw) => (raw, false),
        };
        let object = match self.decode(sink, raw) {
            Ok(object) => Arc::new(object),
            Err(error) => {
                tracing::error!(resource = %sink.resource(), %error, "an event was left out");
                return None;
            }
        };
        let text = object.meta().resource_version.clone().unwrap_or_default();
        let (key, revision) = (ObjectKey::of(object.meta()), parse_revision(&text));
        let (new, bytes) = (is_there.then_some(object), sink.bytes(self, raw));
        let now = Instant::now();
        let change = sink.with(self, |table| table.change(key, (new, bytes), revision, now));
        if let Some(Some(change)) = change {
            self.tell_all(&sink.resource(), vec![change]);
        }
        Some(text)
    }

    /// An object as it is kept.
    fn decode<S: Sink>(&self, sink: &S, raw: &Raw) -> Result<S::Item, ApiError> {
        let Some((read, slim)) = sink.with(self, |table| (table.read, table.slim)) else {
            return sink.decode(raw);
        };
        let mut object = read.map_or_else(|| sink.decode(raw), |read| read(raw))?;
        slim(&mut object);
        Ok(object)
    }

    /// Sets the whole content of a table; listeners see only what differs. A list is authoritative:
    /// where its revision is lower than what was seen, the store was restored from a backup, and
    /// the table follows.
    pub fn replace<T: Kind>(&self, items: Vec<T>, revision: u64) {
        let items = items.into_iter().map(|item| (item, None)).collect();
        self.replace_in(&Typed::<T>::default(), items, revision);
    }

    /// [`Cache::replace`] with the bytes of each object.
    fn replace_in<S: Sink>(&self, sink: &S, items: Vec<(S::Item, Option<Raw>)>, revision: u64) {
        let now = Instant::now();
        let changes = sink.with(self, |table| {
            if revision < table.revision {
                tracing::warn!(resource = %sink.resource(), "the store went back in time");
            }
            table.replace(items, revision, now)
        });
        self.tell_all(&sink.resource(), changes.unwrap_or_default());
        if self.tables.read().by_type.values().all(|table| table.synced()) {
            self.synced.is_set.store(true, Ordering::SeqCst);
            self.synced.told.notify_waiters();
        }
    }

    fn tell_all<T: AnyObject>(&self, resource: &Gvr, changes: Vec<Change<T>>) {
        let erase = |object: Arc<T>| object as Arc<dyn AnyObject>;
        for Change { key, old, new } in changes {
            if old.is_some() || new.is_some() {
                let (old, new) = (old.map(erase), new.map(erase));
                self.tell(&Changed { resource: resource.clone(), key, old, new });
            }
        }
        self.tell_progress(resource);
    }

    fn with_table<T: Kind, R>(&self, work: impl FnOnce(&mut Table<T>) -> R) -> R {
        let mut tables = self.tables.write();
        let table = tables
            .by_type
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Box::new(Table::<T>::default()));
        match table.as_any_mut().downcast_mut() {
            Some(table) => work(table),
            None => unreachable!("tables are kept by their own type"),
        }
    }

    fn tell(&self, change: &Changed) {
        for listener in self.listeners.read().iter() {
            listener(change);
        }
    }

    fn tell_progress(&self, resource: &Gvr) {
        for listener in self.progress.read().iter() {
            listener(resource);
        }
        self.progressed.notify_waiters();
    }
}

/// A resource version as the store's counter; 0 for what is not a number.
pub fn parse_revision(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}
