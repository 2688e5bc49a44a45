//! Kinds of which only the metadata is kept: what owners and dependents are found by. They come and
//! go with the definitions of custom resources.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::reflect::Sink;
use super::table::{AnyTable, Row, Table};
use super::{AnyObject, Cache};
use crate::api::resource::Gvr;
use crate::api::{ApiError, Object, ObjectKey, Raw};
use crate::base::Tasks;
use crate::client::SharedApi;

/// For the first list of a resource.
const LIST_PATIENCE: Duration = Duration::from_secs(30);

/// For so long it is remembered that a resource was served.
const REMEMBERED: Duration = Duration::from_secs(60);

/// A resource whose metadata is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// In the version that it is read in.
    pub gvr: Gvr,
    pub kind: String,
    /// Every `apiVersion` that owner references may name it by; that of `gvr` comes first.
    pub api_versions: Vec<String>,
}

impl Described {
    /// Whether an owner reference with these means this resource.
    pub(super) fn is(&self, api_version: &str, kind: &str) -> bool {
        self.kind == kind && self.api_versions.iter().any(|known| known == api_version)
    }
}

/// Tells the resources whose metadata is to be kept, as they are served at the moment of asking.
pub type Describe = Arc<dyn Fn() -> Vec<Described> + Send + Sync>;

/// Of an object's metadata what tells it from others, its owners, and how it is deleted: neither
/// labels nor annotations nor who wrote it.
pub struct Metadata {
    of: Arc<Described>,
    meta: ObjectMeta,
}

/// What is read of the stored JSON.
#[derive(Deserialize)]
struct Head {
    metadata: HeadMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

/// The objects of one resource.
pub(super) struct MetadataTable {
    of: Arc<Described>,
    table: Table<Metadata>,
    since: Instant,
}

impl MetadataTable {
    /// Whether it was listed, or could not be for so long that nobody waits for it any more.
    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.table.synced.is_some() || now.saturating_duration_since(self.since) > LIST_PATIENCE
    }
}

impl Cache {
    /// Keeps the metadata of the resources that `describe` tells, now and after each of `changes`,
    /// until the tasks stop. Call before waiting for [`Cache::wait_synced`].
    pub fn keep_metadata(
        self: &Arc<Self>,
        api: SharedApi,
        describe: Describe,
        mut changes: watch::Receiver<u64>,
        tasks: &Tasks,
    ) {
        changes.mark_unchanged();
        let mut kept = Keeper { cache: self.clone(), api, running: HashMap::new() };
        let mut tables = kept.settle(describe());
        tasks.spawn("metadata", async move {
            let mut reflectors = JoinSet::new();
            loop {
                for of in tables {
                    kept.start(of, &mut reflectors);
                }
                if changes.changed().await.is_err() {
                    // The registry is gone, and with it whoever could be watched.
                    std::future::pending::<()>().await;
                }
                tables = kept.settle(describe());
                while reflectors.try_join_next().is_some() {}
            }
        });
    }
}

/// Which reflectors run.
struct Keeper {
    cache: Arc<Cache>,
    api: SharedApi,
    running: HashMap<Gvr, (Arc<Described>, Option<AbortHandle>)>,
}

impl Keeper {
    /// Adds the tables of resources that are new, drops those of others; the new ones are answered.
    fn settle(&mut self, wanted: Vec<Described>) -> Vec<Arc<Described>> {
        let now = Instant::now();
        let mut dropped = Vec::new();
        let mut new = Vec::new();
        let mut tables = self.cache.tables.write();
        let is_recent = |at: Instant| now.saturating_duration_since(at) < REMEMBERED;
        tables.retired.retain(|(_, at)| is_recent(*at));
        self.running.retain(|gvr, (of, reflector)| {
            let stays = wanted.contains(of);
            if !stays {
                dropped.extend(tables.metadata.remove(gvr));
                tables.retired.push((of.clone(), now));
                reflector.iter().for_each(AbortHandle::abort);
            }
            stays
        });
        for of in wanted.into_iter().map(Arc::new) {
            if self.running.contains_key(&of.gvr) {
                continue;
            }
            let (table, since) = (Table::default(), now);
            let table = MetadataTable { of: of.clone(), table, since };
            tables.metadata.insert(of.gvr.clone(), table);
            self.running.insert(of.gvr.clone(), (of.clone(), None));
            new.push(of);
        }
        drop(tables);
        // What was deleted last may not have been seen: its watch ended with the resource.
        for mut table in dropped {
            let changes = table.table.replace(Vec::new(), u64::MAX, now);
            self.cache.tell_all(&table.of.gvr, changes);
        }
        new
    }

    fn start(&mut self, of: Arc<Described>, reflectors: &mut JoinSet<()>) {
        let reflecting = self.cache.reflect(Untyped(of.clone()), self.api.clone(), "");
        let handle = reflectors.spawn(reflecting);
        if let Some((_, reflector)) = self.running.get_mut(&of.gvr) {
            *reflector = Some(handle);
        }
    }
}

/// Feeds the table of one resource.
struct Untyped(Arc<Described>);

impl Sink for Untyped {
    type Item = Metadata;

    fn resource(&self) -> Gvr {
        self.0.gvr.clone()
    }

    fn decode(&self, raw: &Raw) -> Result<Metadata, ApiError> {
        let Head { metadata: head } = serde_json::from_slice(&raw.0)
            .map_err(|e| ApiError::internal(format!("an object cannot be read: {e}")))?;
        let meta = ObjectMeta {
            name: head.name,
            namespace: head.namespace,
            uid: head.uid,
            resource_version: head.resource_version,
            deletion_timestamp: head.deletion_timestamp,
            finalizers: head.finalizers,
            owner_references: head.owner_references,
            ..ObjectMeta::default()
        };
        Ok(Metadata { of: self.0.clone(), meta })
    }

    /// It is small, and made of a part of them.
    fn bytes(&self, _: &Cache, _: &Raw) -> Option<Raw> {
        None
    }

    fn with<R>(&self, cache: &Cache, work: impl FnOnce(&mut Table<Metadata>) -> R) -> Option<R> {
        let mut tables = cache.tables.write();
        let found = tables.metadata.get_mut(&self.0.gvr);
        // One of the same name that was defined anew is another's.
        let found = found.filter(|table| Arc::ptr_eq(&table.of, &self.0));
        found.map(|found| work(&mut found.table))
    }
}

impl Row for Metadata {
    fn row_tags(&self) -> Vec<String> {
        Vec::new()
    }

    fn has_row_tags_of(&self, _: &Self) -> bool {
        true
    }

    fn row_index(&self) -> Option<String> {
        None
    }

    fn revive(_: &Raw) -> Option<Metadata> {
        None
    }

    fn is_adopted() -> bool {
        false
    }
}

impl AnyObject for Metadata {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn resource(&self) -> Gvr {
        self.of.gvr.clone()
    }

    fn kind(&self) -> &str {
        &self.of.kind
    }

    fn api_version(&self) -> &str {
        self.of.api_versions.first().map_or("", String::as_str)
    }

    /// Its type and metadata; nothing else is known of it.
    fn erased(&self) -> Object {
        let (kind, api_version) = (self.kind(), self.api_version());
        let value = json!({"kind": kind, "apiVersion": api_version, "metadata": self.meta});
        Object::from_value(value).unwrap_or_else(|_| unreachable!("made of braces"))
    }
}

impl AnyTable for MetadataTable {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn resource(&self) -> Gvr {
        self.of.gvr.clone()
    }

    fn is(&self, api_version: &str, kind: &str) -> bool {
        self.of.is(api_version, kind)
    }

    fn revision(&self) -> u64 {
        self.table.revision
    }

    fn synced(&self) -> bool {
        self.table.synced.is_some()
    }

    fn owned_by(&self, uid: &str) -> Vec<Arc<dyn AnyObject>> {
        self.table.owned(uid).map(|o| o.clone() as Arc<dyn AnyObject>).collect()
    }

    fn object(&self, key: &ObjectKey) -> Option<Arc<dyn AnyObject>> {
        self.table.get(key).map(|o| o.clone() as Arc<dyn AnyObject>)
    }

    fn peek(&self, key: &ObjectKey) -> Option<Arc<dyn AnyObject>> {
        self.object(key)
    }

    fn in_namespace(&self, namespace: &str) -> Vec<Arc<dyn AnyObject>> {
        self.table.range(namespace).map(|o| o.clone() as Arc<dyn AnyObject>).collect()
    }

    fn count_in(&self, namespace: &str) -> usize {
        self.table.count_in(namespace)
    }

    fn keys(&self) -> Vec<ObjectKey> {
        self.table.keys()
    }
}
