//! A read-only snapshot of several kinds at once, which pure decisions are made on.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLockReadGuard;
use tokio::time::Instant;

use super::AnyObject;
use super::metadata::{Described, MetadataTable};
use super::table::{AnyTable, Table};
use crate::api::resource::{Gvr, Kind};
use crate::api::{ObjectKey, Raw};

/// The tables of a cache: by their type, and those that hold metadata only. In an order, so that what
/// is planned about all of them is planned alike each time.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) by_type: BTreeMap<TypeId, Box<dyn AnyTable>>,
    pub(super) metadata: BTreeMap<Gvr, MetadataTable>,
    /// Resources whose metadata was kept until then.
    pub(super) retired: Vec<(Arc<Described>, Instant)>,
}

impl Tables {
    pub(super) fn all(&self) -> impl Iterator<Item = &dyn AnyTable> {
        let typed = self.by_type.values().map(|table| &**table);
        typed.chain(self.metadata.values().map(|table| table as &dyn AnyTable))
    }
}

/// A read of every table. It keeps writers out, so hold it only as long as a pure decision takes
/// (it cannot be held across an await). Each table is exact at its own revision; tables may be at
/// different revisions, as each kind has its own watch.
pub struct View<'a> {
    tables: RwLockReadGuard<'a, Tables>,
    taken: Instant,
}

impl<'a> View<'a> {
    pub(super) fn new(tables: RwLockReadGuard<'a, Tables>) -> View<'a> {
        View { tables, taken: Instant::now() }
    }

    fn table<T: Kind>(&self) -> Option<&Table<T>> {
        self.tables.by_type.get(&TypeId::of::<T>())?.as_any().downcast_ref()
    }

    fn by_resource(&self, resource: &Gvr) -> Option<&dyn AnyTable> {
        let typed = self.tables.by_type.values().find(|t| t.resource() == *resource);
        let metadata = || self.tables.metadata.get(resource).map(|table| table as &dyn AnyTable);
        typed.map(|table| &**table).or_else(metadata)
    }

    pub fn get<T: Kind>(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    pub fn get_key<T: Kind>(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.table::<T>()?.get(key)
    }

    /// The bytes that an object came in, where they are kept ([`Cache::lean`](super::Cache::lean)).
    pub fn raw<T: Kind>(&self, key: &ObjectKey) -> Option<&Raw> {
        self.table::<T>()?.raw(key)
    }

    /// All objects of a type in the order of their keys.
    pub fn all<T: Kind>(&self) -> impl Iterator<Item = &Arc<T>> {
        self.table::<T>().into_iter().flat_map(|table| table.all())
    }

    pub fn in_namespace<'v, T: Kind>(
        &'v self,
        namespace: &'v str,
    ) -> impl Iterator<Item = &'v Arc<T>> {
        self.table::<T>().into_iter().flat_map(move |table| table.range(namespace))
    }

    /// The objects with an owner reference to `uid`.
    pub fn owned_by<'v, T: Kind>(
        &'v self,
        uid: &str,
    ) -> impl Iterator<Item = &'v Arc<T>> + use<'v, 'a, T> {
        self.table::<T>().map(|table| table.owned(uid)).into_iter().flatten()
    }

    /// The objects of a namespace that no owner controls.
    pub fn orphans<'v, T: Kind>(&'v self, namespace: &'v str) -> impl Iterator<Item = &'v Arc<T>> {
        self.table::<T>().into_iter().flat_map(move |table| table.orphans(namespace))
    }

    /// The objects whose [`Kind::index`] is `value`.
    pub fn indexed<'v, T: Kind>(
        &'v self,
        value: &str,
    ) -> impl Iterator<Item = &'v Arc<T>> + use<'v, 'a, T> {
        self.table::<T>().map(|table| table.indexed(value)).into_iter().flatten()
    }

    /// The objects with a text among their [`Kind::tags`].
    pub fn tagged<'v, T: Kind>(
        &'v self,
        tag: &str,
    ) -> impl Iterator<Item = &'v Arc<T>> + use<'v, 'a, T> {
        self.table::<T>().map(|table| table.tagged(tag)).into_iter().flatten()
    }

    pub fn count_tagged<T: Kind>(&self, tag: &str) -> usize {
        self.table::<T>().map_or(0, |table| table.count_tagged(tag))
    }

    /// How many objects of a type there are.
    pub fn count<T: Kind>(&self) -> usize {
        self.table::<T>().map_or(0, |table| table.len())
    }

    /// How many objects of a resource a namespace has.
    pub fn count_in(&self, resource: &Gvr, namespace: &str) -> usize {
        self.by_resource(resource).map_or(0, |table| table.count_in(namespace))
    }

    /// For how long the present version of an object has been here, on the monotonic clock: what a
    /// heartbeat is judged by, so that neither a node's clock nor a jump of ours matters.
    pub fn unchanged_for<T: Kind>(&self, namespace: &str, name: &str) -> Option<Duration> {
        let since = self.table::<T>()?.since(&ObjectKey::new(namespace, name))?;
        Some(self.taken.saturating_duration_since(since))
    }

    /// For how long an object has not been here, on the monotonic clock: since it went, or since the
    /// first list did not have it. `None` for one that is here, and before the first list.
    pub fn missing_for<T: Kind>(&self, namespace: &str, name: &str) -> Option<Duration> {
        let since = self.table::<T>()?.missing_since(&ObjectKey::new(namespace, name))?;
        Some(self.taken.saturating_duration_since(since))
    }

    /// The dependents of an owner, of every kind kept here.
    pub fn dependents(&self, uid: &str) -> Vec<Arc<dyn AnyObject>> {
        self.tables.all().flat_map(|table| table.owned_by(uid)).collect()
    }

    /// The dependents of an owner that are of one resource.
    pub fn dependents_of(&self, resource: &Gvr, uid: &str) -> Vec<Arc<dyn AnyObject>> {
        self.by_resource(resource).map(|table| table.owned_by(uid)).unwrap_or_default()
    }

    /// Everything in a namespace, of every kind kept here.
    pub fn contents(&self, namespace: &str) -> Vec<Arc<dyn AnyObject>> {
        self.tables.all().flat_map(|table| table.in_namespace(namespace)).collect()
    }

    /// An object by its resource; `None` also where the kind is not kept here.
    pub fn object(&self, resource: &Gvr, key: &ObjectKey) -> Option<Arc<dyn AnyObject>> {
        self.by_resource(resource)?.object(key)
    }

    /// [`View::object`] for one look at each of many: what is not decoded stays so.
    pub fn peek(&self, resource: &Gvr, key: &ObjectKey) -> Option<Arc<dyn AnyObject>> {
        self.by_resource(resource)?.peek(key)
    }

    /// Every key of a resource; nothing where the kind is not kept here.
    pub fn keys(&self, resource: &Gvr) -> Vec<ObjectKey> {
        self.by_resource(resource).map(|table| table.keys()).unwrap_or_default()
    }

    /// The resource that an object's `apiVersion` and `kind` name; `None` where it is not kept here.
    pub fn resource(&self, api_version: &str, kind: &str) -> Option<Gvr> {
        self.tables.all().find(|table| table.is(api_version, kind)).map(|table| table.resource())
    }

    /// The resources kept here.
    pub fn resources(&self) -> Vec<Gvr> {
        self.tables.all().map(|table| table.resource()).collect()
    }

    /// The resources of which metadata alone is kept.
    pub fn metadata_resources(&self) -> impl Iterator<Item = &Gvr> {
        self.tables.metadata.keys()
    }

    /// The dependents of an owner of which metadata alone is kept.
    pub fn metadata_dependents(&self, uid: &str) -> Vec<Arc<dyn AnyObject>> {
        self.tables.metadata.values().flat_map(|table| table.owned_by(uid)).collect()
    }

    pub fn is_metadata_only(&self, resource: &Gvr) -> bool {
        self.tables.metadata.contains_key(resource)
    }

    /// The same for one that is served no more, for a minute.
    pub fn retired(&self, api_version: &str, kind: &str) -> Option<Gvr> {
        let mut retired = self.tables.retired.iter();
        let found = retired.find(|(of, _)| of.is(api_version, kind));
        found.map(|(of, _)| of.gvr.clone())
    }

    /// Whether the table of a resource was listed, if it is one of metadata: only such may be read
    /// before.
    pub fn is_settled(&self, resource: &Gvr) -> bool {
        self.tables.metadata.get(resource).is_none_or(|table| table.is_settled(self.taken))
    }

    /// Whether all tables of metadata were listed.
    pub fn is_complete(&self) -> bool {
        self.tables.metadata.values().all(|table| table.is_settled(self.taken))
    }

    /// The newest revision that the table of a resource has seen; 0 where it is not kept.
    pub fn revision(&self, resource: &Gvr) -> u64 {
        self.by_resource(resource).map_or(0, |table| table.revision())
    }
}
