//! The table of kinds. Found by URL (group, version, plural), by kind, or by what a person types.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;

use super::kinds;
use super::resource::{Gvr, KindInfo};

/// The kinds that a server serves at one moment: a snapshot, which never changes.
#[derive(Clone)]
pub struct Registry {
    rows: Vec<Arc<KindInfo>>,
    by_url: HashMap<(String, String, String), usize>,
    by_kind: HashMap<(String, String, String), usize>,
}

impl Registry {
    /// All built-in kinds.
    pub fn builtin() -> Registry {
        Registry::of(kinds::all())
    }

    pub fn of(kinds: Vec<KindInfo>) -> Registry {
        Registry::index(kinds.into_iter().map(Arc::new).collect())
    }

    /// The same built-in kinds with these custom ones, in the order that discovery shows them.
    pub fn with_custom(&self, custom: Vec<Arc<KindInfo>>) -> Registry {
        let builtin = self.rows.iter().filter(|info| info.custom.is_none()).cloned();
        Registry::index(builtin.chain(custom).collect())
    }

    fn index(rows: Vec<Arc<KindInfo>>) -> Registry {
        let key = |i: &KindInfo, last: &str| {
            (i.gvr.group.to_string(), i.gvr.version.to_string(), last.to_string())
        };
        let by_url = rows.iter().enumerate().map(|(n, i)| (key(i, &i.gvr.resource), n)).collect();
        let by_kind = rows.iter().enumerate().map(|(n, i)| (key(i, &i.kind), n)).collect();
        Registry { rows, by_url, by_kind }
    }

    pub fn rows(&self) -> &[Arc<KindInfo>] {
        &self.rows
    }

    /// By the parts of a URL.
    pub fn by_url(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<KindInfo>> {
        let key = (group.to_string(), version.to_string(), resource.to_string());
        self.by_url.get(&key).map(|n| &self.rows[*n])
    }

    pub fn by_gvr(&self, gvr: &Gvr) -> Option<&Arc<KindInfo>> {
        self.by_url(&gvr.group, &gvr.version, &gvr.resource)
    }

    /// By an object's `apiVersion` and `kind`.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<KindInfo>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let key = (group.to_string(), version.to_string(), kind.to_string());
        self.by_kind.get(&key).map(|n| &self.rows[*n])
    }
}

/// The registry of a running server: readers take the present snapshot, definitions of custom
/// resources bring the next one.
pub struct SharedRegistry(RwLock<Arc<Registry>>);

impl SharedRegistry {
    pub fn new(first: Arc<Registry>) -> SharedRegistry {
        SharedRegistry(RwLock::new(first))
    }

    pub fn current(&self) -> Arc<Registry> {
        self.0.read().clone()
    }

    pub fn replace(&self, next: Registry) {
        *self.0.write() = Arc::new(next);
    }
}
