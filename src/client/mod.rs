//! How everyone talks to the API: the object-safe trait [`Api`], implemented by the API server
//! itself (in the same process: no HTTP) and by [`remote`] (over HTTPS), a thin typed [`Client`],
//! and [`cache`], which keeps what it watches.

pub mod around;
pub mod cache;
pub mod controller_status;
pub mod election;
pub mod event;
pub mod join;
pub mod node_paths;
pub mod recorder;
pub mod remote;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::BoxStream;
use serde_json::Value;

use crate::api::resource::{Gvr, Kind};
use crate::api::{ApiError, Object, Raw};
use election::Fence;

/// How often the API tells a quiet watch that asked for bookmarks how far it has come; a watch
/// that is silent for much longer has lost its server.
pub const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// What a request is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub resource: Gvr,
    /// `None` for cluster-scoped kinds, and for lists and watches over all namespaces.
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub subresource: Option<String>,
}

/// Options of lists and watches, as in the query of the HTTP API.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    pub label_selector: String,
    pub field_selector: String,
    /// 0: no limit.
    pub limit: usize,
    pub continue_token: String,
    pub resource_version: String,
    pub resource_version_match: String,
}

/// Options of a watch.
#[derive(Clone, Debug, Default)]
pub struct WatchOptions {
    pub label_selector: String,
    pub field_selector: String,
    pub resource_version: String,
    pub bookmarks: bool,
    pub timeout: Option<Duration>,
}

/// Options of writes.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_manager: String,
    /// The write is refused with a conflict unless this term lasts.
    pub fence: Option<Arc<Fence>>,
}

/// Options of a deletion (metav1.DeleteOptions).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation_policy: Option<Propagation>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
    /// As in [`WriteOptions`].
    pub fence: Option<Arc<Fence>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// The body of a PATCH by its content type.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own.
    Strategic(Value),
    /// Server-side apply (KEP-555); `force` takes fields from other managers.
    Apply { config: Value, force: bool },
}

/// A list as read: its items are in stored bytes.
#[derive(Clone, Debug)]
pub struct RawList {
    pub resource_version: String,
    /// Empty on the last page.
    pub continue_token: String,
    pub remaining: Option<u64>,
    pub items: Vec<Raw>,
}

/// One event of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    Added(Raw),
    Modified(Raw),
    Deleted(Raw),
    /// Everything up to this resource version was sent.
    Bookmark(String),
}

/// Events until the watch ends; an error is the last item.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, ApiError>>;

/// The Kubernetes API as a trait. Every implementation applies the whole pipeline (authorization,
/// defaulting, admission, validation); callers differ only by who they are.
#[async_trait::async_trait]
pub trait Api: Send + Sync + 'static {
    async fn get(&self, target: &Target) -> Result<Raw, ApiError>;
    async fn list(&self, target: &Target, options: &ListOptions) -> Result<RawList, ApiError>;
    async fn watch(&self, target: &Target, options: &WatchOptions)
    -> Result<WatchStream, ApiError>;
    /// Creates an object, or posts to a subresource (`binding`, `eviction`).
    async fn create(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError>;
    async fn update(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError>;
    async fn patch(
        &self,
        target: &Target,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError>;
    /// Answers with the object, or with a `Status`.
    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Raw, ApiError>;
    /// Bytes outside the resources: an artifact of the cluster's registry by a path such as
    /// `/v2/hello/blobs/sha256:…`.
    async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError>;
}

/// An [`Api`] that everyone in the process may hold.
pub type SharedApi = Arc<dyn Api>;

/// Typed calls over an [`Api`].
#[derive(Clone)]
pub struct Client {
    pub api: SharedApi,
    /// Sent as the field manager of writes.
    pub manager: &'static str,
}

impl Target {
    /// All objects of a type, or those of a namespace.
    pub fn all<T: Kind>(namespace: Option<&str>) -> Target {
        Target {
            resource: Gvr::of::<T>(),
            namespace: namespace.map(str::to_string),
            name: None,
            subresource: None,
        }
    }

    /// One object; `namespace` is ignored for cluster-scoped types.
    pub fn one<T: Kind>(namespace: &str, name: &str) -> Target {
        let resource = Gvr::of::<T>();
        let namespace = resource.namespaced.then(|| namespace.to_string());
        Target { resource, namespace, name: Some(name.to_string()), subresource: None }
    }

    /// The target of an object of a type: by its metadata.
    pub fn of<T: Kind>(object: &T) -> Target {
        let meta = object.metadata();
        let name = meta.name.as_deref().unwrap_or_default();
        Target::one::<T>(meta.namespace.as_deref().unwrap_or_default(), name)
    }

    pub fn subresource(mut self, subresource: &str) -> Target {
        self.subresource = Some(subresource.to_string());
        self
    }

    /// The collection that the target is in.
    pub fn collection(&self) -> Target {
        Target { name: None, subresource: None, ..self.clone() }
    }

    pub fn path(&self) -> String {
        let (namespace, name) = (self.namespace.as_deref(), self.name.as_deref());
        self.resource.path(namespace, name, self.subresource.as_deref())
    }
}

impl Client {
    pub fn new(api: SharedApi, manager: &'static str) -> Client {
        Client { api, manager }
    }

    fn write_options(&self) -> WriteOptions {
        WriteOptions { field_manager: self.manager.into(), ..WriteOptions::default() }
    }

    pub async fn get<T: Kind>(&self, namespace: &str, name: &str) -> Result<T, ApiError> {
        self.api.get(&Target::one::<T>(namespace, name)).await?.decode()
    }

    /// Every object, read in pages.
    pub async fn list<T: Kind>(
        &self,
        namespace: Option<&str>,
        options: &ListOptions,
    ) -> Result<Vec<T>, ApiError> {
        let target = Target::all::<T>(namespace);
        let mut options = ListOptions { limit: 500, ..options.clone() };
        let mut items = Vec::new();
        loop {
            let page = self.api.list(&target, &options).await?;
            for raw in &page.items {
                items.push(raw.decode()?);
            }
            if page.continue_token.is_empty() {
                return Ok(items);
            }
            options.continue_token = page.continue_token;
        }
    }

    pub async fn create<T: Kind>(&self, object: &T) -> Result<T, ApiError> {
        let target = Target::of(object).collection();
        self.api.create(&target, Object::from_typed(object), &self.write_options()).await?.decode()
    }

    pub async fn update<T: Kind>(&self, object: &T) -> Result<T, ApiError> {
        let target = Target::of(object);
        self.api.update(&target, Object::from_typed(object), &self.write_options()).await?.decode()
    }

    pub async fn update_status<T: Kind>(&self, object: &T) -> Result<T, ApiError> {
        let target = Target::of(object).subresource("status");
        self.api.update(&target, Object::from_typed(object), &self.write_options()).await?.decode()
    }

    pub async fn patch<T: Kind>(
        &self,
        namespace: &str,
        name: &str,
        patch: Patch,
    ) -> Result<T, ApiError> {
        let target = Target::one::<T>(namespace, name);
        self.api.patch(&target, patch, &self.write_options()).await?.decode()
    }

    pub async fn delete<T: Kind>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        self.api.delete(&Target::one::<T>(namespace, name), options).await.map(|_| ())
    }
}

impl WatchEvent {
    pub fn raw(&self) -> Option<&Raw> {
        match self {
            WatchEvent::Added(raw) | WatchEvent::Modified(raw) | WatchEvent::Deleted(raw) => {
                Some(raw)
            }
            WatchEvent::Bookmark(_) => None,
        }
    }
}
