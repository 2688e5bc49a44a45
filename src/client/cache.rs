//! What is watched, kept: list and watch into shared objects with indexes, and [`View`], a
//! read-only snapshot of several kinds at once that pure decisions are made on.
//!
//! Every kind has its table and its own watch; [`View::revision`] tells how far a table has come,
//! which is what the read-your-writes barrier of the controllers' driver compares.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{RwLock, RwLockReadGuard};
use tokio::sync::watch;

use super::{ListOptions, SharedApi, Target, WatchEvent, WatchOptions};
use crate::api::resource::{Gvr, Kind};
use crate::api::{ApiError, ObjectKey, Raw};
use crate::base::Tasks;

/// The wait after a failed list or watch, doubling to the most.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const MOST_RETRY: Duration = Duration::from_secs(5);
/// The size of a page of the first list.
const PAGE_ITEMS: usize = 500;

/// Tables of several kinds, filled by watches. Cheap to share by `Arc`.
#[derive(Default)]
pub struct Cache {
    tables: RwLock<Tables>,
    listeners: RwLock<Vec<Listener>>,
    /// Set to true when every table was listed once.
    synced: SyncedFlag,
}

struct SyncedFlag(watch::Sender<bool>);

impl Default for SyncedFlag {
    fn default() -> Self {
        SyncedFlag(watch::channel(false).0)
    }
}

/// Called after each change, in the order of changes, without the lock: must not block.
pub type Listener = Box<dyn Fn(&Changed) + Send + Sync>;

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
    fn kind(&self) -> &'static str;
    fn api_version(&self) -> &'static str;
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

    fn kind(&self) -> &'static str {
        T::KIND
    }

    fn api_version(&self) -> &'static str {
        T::API_VERSION
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

#[derive(Default)]
struct Tables {
    by_type: HashMap<TypeId, Box<dyn AnyTable>>,
}

/// One kind's objects and indexes.
struct Table<T> {
    objects: BTreeMap<ObjectKey, Arc<T>>,
    /// Owner's uid → dependents.
    owned: HashMap<String, BTreeSet<ObjectKey>>,
    /// [`Kind::index`] → objects.
    indexed: HashMap<String, BTreeSet<ObjectKey>>,
    revision: u64,
    synced: bool,
}

trait AnyTable: Send + Sync {
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn resource(&self) -> Gvr;
    fn revision(&self) -> u64;
    fn synced(&self) -> bool;
    fn owned_by(&self, uid: &str) -> Vec<Arc<dyn AnyObject>>;
    fn object(&self, key: &ObjectKey) -> Option<Arc<dyn AnyObject>>;
    fn in_namespace(&self, namespace: &str) -> Vec<Arc<dyn AnyObject>>;
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table {
            objects: BTreeMap::new(),
            owned: HashMap::new(),
            indexed: HashMap::new(),
            revision: 0,
            synced: false,
        }
    }
}

impl<T: Kind> Table<T> {
    fn put(&mut self, key: ObjectKey, object: Option<Arc<T>>) -> Option<Arc<T>> {
        let old = match &object {
            Some(new) => self.objects.insert(key.clone(), new.clone()),
            None => self.objects.remove(&key),
        };
        if let Some(old) = &old {
            for uid in owner_uids(old.metadata()) {
                unindex(&mut self.owned, uid, &key);
            }
            if let Some(value) = old.index() {
                unindex(&mut self.indexed, &value, &key);
            }
        }
        if let Some(new) = &object {
            for uid in owner_uids(new.metadata()) {
                self.owned.entry(uid.to_string()).or_default().insert(key.clone());
            }
            if let Some(value) = new.index() {
                self.indexed.entry(value).or_default().insert(key);
            }
        }
        old
    }

    fn pick<'a>(
        &'a self,
        keys: Option<&'a BTreeSet<ObjectKey>>,
    ) -> impl Iterator<Item = &'a Arc<T>> {
        keys.into_iter().flatten().filter_map(|key| self.objects.get(key))
    }

    fn range<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<T>> {
        let first = ObjectKey::new(namespace, "");
        let all = self.objects.range(first..);
        all.take_while(move |(key, _)| key.namespace == namespace).map(|(_, object)| object)
    }
}

fn owner_uids(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    meta.owner_references.iter().flatten().map(|owner| owner.uid.as_str())
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

    fn revision(&self) -> u64 {
        self.revision
    }

    fn synced(&self) -> bool {
        self.synced
    }

    fn owned_by(&self, uid: &str) -> Vec<Arc<dyn AnyObject>> {
        self.pick(self.owned.get(uid)).map(|o| o.clone() as Arc<dyn AnyObject>).collect()
    }

    fn object(&self, key: &ObjectKey) -> Option<Arc<dyn AnyObject>> {
        self.objects.get(key).map(|o| o.clone() as Arc<dyn AnyObject>)
    }

    fn in_namespace(&self, namespace: &str) -> Vec<Arc<dyn AnyObject>> {
        self.range(namespace).map(|o| o.clone() as Arc<dyn AnyObject>).collect()
    }
}

/// A consistent read of every table; hold it only as long as a pure decision takes.
pub struct View<'a> {
    tables: RwLockReadGuard<'a, Tables>,
}

impl View<'_> {
    fn table<T: Kind>(&self) -> Option<&Table<T>> {
        self.tables.by_type.get(&TypeId::of::<T>())?.as_any().downcast_ref()
    }

    pub fn get<T: Kind>(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.table::<T>()?.objects.get(&ObjectKey::new(namespace, name))
    }

    pub fn get_key<T: Kind>(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.table::<T>()?.objects.get(key)
    }

    /// All objects of a type in the order of their keys.
    pub fn all<T: Kind>(&self) -> impl Iterator<Item = &Arc<T>> {
        self.table::<T>().into_iter().flat_map(|table| table.objects.values())
    }

    pub fn in_namespace<'a, T: Kind>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Arc<T>> {
        self.table::<T>().into_iter().flat_map(move |table| table.range(namespace))
    }

    /// The objects with an owner reference to `uid`.
    pub fn owned_by<'a, T: Kind>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Arc<T>> {
        self.table::<T>().into_iter().flat_map(move |table| table.pick(table.owned.get(uid)))
    }

    /// The objects whose [`Kind::index`] is `value`.
    pub fn indexed<'a, T: Kind>(&'a self, value: &'a str) -> impl Iterator<Item = &'a Arc<T>> {
        self.table::<T>().into_iter().flat_map(move |table| table.pick(table.indexed.get(value)))
    }

    /// How many objects of a type there are.
    pub fn count<T: Kind>(&self) -> usize {
        self.table::<T>().map_or(0, |table| table.objects.len())
    }

    /// The dependents of an owner, of every kind kept here.
    pub fn dependents(&self, uid: &str) -> Vec<Arc<dyn AnyObject>> {
        self.tables.by_type.values().flat_map(|table| table.owned_by(uid)).collect()
    }

    /// Everything in a namespace, of every kind kept here.
    pub fn contents(&self, namespace: &str) -> Vec<Arc<dyn AnyObject>> {
        self.tables.by_type.values().flat_map(|table| table.in_namespace(namespace)).collect()
    }

    /// An object by its resource; `None` also where the kind is not kept here.
    pub fn object(&self, resource: &Gvr, key: &ObjectKey) -> Option<Arc<dyn AnyObject>> {
        self.tables.by_type.values().find(|t| t.resource() == *resource)?.object(key)
    }

    /// The resources kept here.
    pub fn resources(&self) -> Vec<Gvr> {
        self.tables.by_type.values().map(|table| table.resource()).collect()
    }

    /// The newest revision that the table of a resource has seen; 0 where it is not kept.
    pub fn revision(&self, resource: &Gvr) -> u64 {
        let table = self.tables.by_type.values().find(|table| table.resource() == *resource);
        table.map_or(0, |table| table.revision())
    }
}

impl Cache {
    pub fn new() -> Arc<Cache> {
        Arc::new(Cache::default())
    }

    pub fn view(&self) -> View<'_> {
        View { tables: self.tables.read() }
    }

    /// Adds a listener; it sees what changes from now on.
    pub fn listen(&self, listener: Listener) {
        self.listeners.write().push(listener);
    }

    /// Adds a type and keeps it by list and watch until the tasks stop. Call for every type before
    /// waiting for [`Cache::wait_synced`]. `field_selector` narrows what is kept
    /// (`spec.nodeName=n` for a node's pods); empty keeps all.
    pub fn keep<T: Kind>(self: &Arc<Self>, api: SharedApi, field_selector: &str, tasks: &Tasks) {
        self.add::<T>();
        let (cache, selector) = (self.clone(), field_selector.to_string());
        tasks.spawn("cache", async move { cache.reflect::<T>(&api, &selector).await });
    }

    /// Adds a type without a watch; the caller feeds it ([`Cache::apply`]).
    pub fn add<T: Kind>(&self) {
        self.tables
            .write()
            .by_type
            .entry(TypeId::of::<T>())
            .or_insert_with(|| Box::new(Table::<T>::default()));
    }

    /// Waits until every type was listed once.
    pub async fn wait_synced(&self) {
        let mut synced = self.synced.0.subscribe();
        // The sender lives as long as self.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    async fn reflect<T: Kind>(&self, api: &SharedApi, selector: &str) {
        let mut wait = FIRST_RETRY;
        let mut revision = None;
        loop {
            match self.reflect_once::<T>(api, selector, &mut revision).await {
                Ok(()) => wait = FIRST_RETRY,
                Err(error) => {
                    if error.is_expired() {
                        revision = None;
                    }
                    tracing::debug!(resource = %Gvr::of::<T>(), %error, "the watch ended");
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(MOST_RETRY);
                }
            }
        }
    }

    /// Lists unless a revision to go on from is known, then watches until the stream ends.
    async fn reflect_once<T: Kind>(
        &self,
        api: &SharedApi,
        selector: &str,
        revision: &mut Option<String>,
    ) -> Result<(), ApiError> {
        let target = Target::all::<T>(None);
        if revision.is_none() {
            let (listed, items) = list_all::<T>(api, &target, selector).await?;
            self.replace::<T>(items, parse_revision(&listed));
            *revision = Some(listed);
        }
        let options = WatchOptions {
            field_selector: selector.into(),
            resource_version: revision.clone().unwrap_or_default(),
            bookmarks: true,
            ..WatchOptions::default()
        };
        let mut stream = api.watch(&target, &options).await?;
        while let Some(event) = stream.next().await {
            *revision = Some(self.apply::<T>(&event?)?);
        }
        Ok(())
    }

    /// Applies one event; answers with its resource version.
    pub fn apply<T: Kind>(&self, event: &WatchEvent) -> Result<String, ApiError> {
        let raw = match event {
            WatchEvent::Bookmark(revision) => {
                self.advance::<T>(parse_revision(revision));
                return Ok(revision.clone());
            }
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) | WatchEvent::Deleted(raw) => raw,
        };
        let object: Arc<T> = Arc::new(raw.decode()?);
        let revision = object.metadata().resource_version.clone().unwrap_or_default();
        let new = (!matches!(event, WatchEvent::Deleted(_))).then(|| object.clone());
        self.change(ObjectKey::of(object.metadata()), new, parse_revision(&revision));
        Ok(revision)
    }

    fn change<T: Kind>(&self, key: ObjectKey, new: Option<Arc<T>>, revision: u64) {
        let old = self.with_table::<T, _>(|table| {
            table.revision = table.revision.max(revision);
            table.put(key.clone(), new.clone())
        });
        self.tell(&changed(key, old, new));
    }

    fn advance<T: Kind>(&self, revision: u64) {
        self.with_table::<T, _>(|table| table.revision = table.revision.max(revision));
        // Waiting barriers look again when anything changes; a bookmark is no change of an object,
        // and a write always comes as an event of its own.
    }

    /// Sets the whole content of a table; listeners see only what differs.
    pub fn replace<T: Kind>(&self, items: Vec<T>, revision: u64) {
        let changes = self.with_table::<T, _>(|table| {
            let mut gone: BTreeSet<ObjectKey> = table.objects.keys().cloned().collect();
            let mut changes = Vec::new();
            for item in items {
                let key = ObjectKey::of(item.metadata());
                gone.remove(&key);
                let same = table.objects.get(&key).is_some_and(|old| {
                    old.metadata().resource_version == item.metadata().resource_version
                });
                if !same {
                    let new = Arc::new(item);
                    let old = table.put(key.clone(), Some(new.clone()));
                    changes.push(changed(key, old, Some(new)));
                }
            }
            for key in gone {
                let old = table.put(key.clone(), None);
                changes.push(changed::<T>(key, old, None));
            }
            table.revision = table.revision.max(revision);
            table.synced = true;
            changes
        });
        for change in &changes {
            self.tell(change);
        }
        if self.tables.read().by_type.values().all(|table| table.synced()) {
            self.synced.0.send_replace(true);
        }
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
}

fn changed<T: Kind>(key: ObjectKey, old: Option<Arc<T>>, new: Option<Arc<T>>) -> Changed {
    let erase = |o: Arc<T>| o as Arc<dyn AnyObject>;
    Changed { resource: Gvr::of::<T>(), key, old: old.map(erase), new: new.map(erase) }
}

/// A resource version as the store's counter; 0 for what is not a number.
pub fn parse_revision(text: &str) -> u64 {
    text.parse().unwrap_or_default()
}

async fn list_all<T: Kind>(
    api: &SharedApi,
    target: &Target,
    selector: &str,
) -> Result<(String, Vec<T>), ApiError> {
    let mut options = ListOptions {
        field_selector: selector.into(),
        limit: PAGE_ITEMS,
        ..ListOptions::default()
    };
    let mut items = Vec::new();
    loop {
        let page = api.list(target, &options).await?;
        for raw in &page.items {
            items.push(Raw::decode(raw)?);
        }
        if page.continue_token.is_empty() {
            return Ok((page.resource_version, items));
        }
        options.continue_token = page.continue_token;
    }
}
