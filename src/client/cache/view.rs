//! A read-only snapshot of several kinds at once, which pure decisions are made on.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLockReadGuard;
use tokio::time::Instant;

use super::AnyObject;
use super::table::{AnyTable, Table};
use crate::api::ObjectKey;
use crate::api::resource::{Gvr, Kind};

/// The tables of a cache by their type.
#[derive(Default)]
pub(super) struct Tables {
    pub(super) by_type: HashMap<TypeId, Box<dyn AnyTable>>,
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

    /// What is dropped of objects of a type before they are kept.
    pub(super) fn slim<T: Kind>(&self) -> fn(&mut T) {
        self.table::<T>().map_or(|_| {}, |table| table.slim)
    }

    fn by_resource(&self, resource: &Gvr) -> Option<&dyn AnyTable> {
        self.tables.by_type.values().find(|t| t.resource() == *resource).map(|table| &**table)
    }

    pub fn get<T: Kind>(&self, namespace: &str, name: &str) -> Option<&Arc<T>> {
        self.get_key(&ObjectKey::new(namespace, name))
    }

    pub fn get_key<T: Kind>(&self, key: &ObjectKey) -> Option<&Arc<T>> {
        self.table::<T>()?.get(key)
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
        self.tables.by_type.values().flat_map(|table| table.owned_by(uid)).collect()
    }

    /// The dependents of an owner that are of one resource.
    pub fn dependents_of(&self, resource: &Gvr, uid: &str) -> Vec<Arc<dyn AnyObject>> {
        self.by_resource(resource).map(|table| table.owned_by(uid)).unwrap_or_default()
    }

    /// Everything in a namespace, of every kind kept here.
    pub fn contents(&self, namespace: &str) -> Vec<Arc<dyn AnyObject>> {
        self.tables.by_type.values().flat_map(|table| table.in_namespace(namespace)).collect()
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
        let mut tables = self.tables.by_type.values();
        let table = tables.find(|t| t.kind() == kind && t.api_version() == api_version)?;
        Some(table.resource())
    }

    /// The resources kept here.
    pub fn resources(&self) -> Vec<Gvr> {
        self.tables.by_type.values().map(|table| table.resource()).collect()
    }

    /// The newest revision that the table of a resource has seen; 0 where it is not kept.
    pub fn revision(&self, resource: &Gvr) -> u64 {
        self.by_resource(resource).map_or(0, |table| table.revision())
    }
}
