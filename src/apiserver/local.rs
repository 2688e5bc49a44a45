//! The API for callers in the same process: the pipeline without HTTP, not a second one.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;

use super::User;
use super::service::{Answer, ApiServer, Call};
use super::watch::{InitialEvents, Sent};
use super::write::{FieldValidation, Tracking, WriteParams};
use crate::api::{ApiError, Object, Raw};
use crate::client::{
    Api, DeleteOptions, ListOptions, Patch, RawList, Target, WatchEvent, WatchOptions, WatchStream,
    WriteOptions,
};

/// The API as one user sees it.
pub struct Local {
    server: Arc<ApiServer>,
    user: Arc<User>,
}

impl Local {
    pub fn new(server: Arc<ApiServer>, user: User) -> Local {
        Local { server, user: Arc::new(user) }
    }

    fn call(&self, target: &Target) -> Result<Call, ApiError> {
        let gvr = &target.resource;
        let registry = self.server.registry();
        let Some(info) = registry.by_gvr(gvr) else {
            let message = format!("the server could not find the requested resource {gvr}");
            return Err(ApiError::from_response(404, message.as_bytes()));
        };
        let namespaced = info.gvr.namespaced;
        let namespace = target.namespace.clone().filter(|_| namespaced).unwrap_or_default();
        let name = target.name.clone().unwrap_or_default();
        if namespaced && !name.is_empty() && namespace.is_empty() {
            return Err(ApiError::bad_request(format!(
                "{gvr} {name:?} is named without namespace"
            )));
        }
        let subresource = target.subresource.clone().unwrap_or_default();
        let (user, info) = (self.user.clone(), info.clone());
        Ok(Call { user, info, namespace, name, subresource, fence: None })
    }

    /// A call about one object.
    fn one(&self, target: &Target) -> Result<Call, ApiError> {
        let call = self.call(target)?;
        if call.name.is_empty() {
            let message = format!("a request about one of {} names none", call.info.gvr);
            return Err(ApiError::bad_request(message));
        }
        Ok(call)
    }
}

/// Callers in the process have typed objects: there are no unknown fields to tell them of.
fn params(options: &WriteOptions) -> WriteParams {
    WriteParams {
        dry_run: options.dry_run,
        field_validation: FieldValidation::Ignore,
        duplicates: Vec::new(),
        manager: options.field_manager.clone(),
        tracking: Tracking::System,
        ..WriteParams::default()
    }
}

fn raw(answer: Answer) -> Raw {
    Raw(answer.raw)
}

#[async_trait::async_trait]
impl Api for Local {
    async fn get(&self, target: &Target) -> Result<Raw, ApiError> {
        self.server.get_part(&self.one(target)?, "").await.map(raw)
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<RawList, ApiError> {
        let listed = self.server.list(&self.call(target)?, options).await?;
        Ok(RawList {
            resource_version: listed.revision.to_string(),
            continue_token: listed.continue_token,
            remaining: listed.remaining,
            items: listed.items.into_iter().map(Raw).collect(),
        })
    }

    async fn watch(
        &self,
        target: &Target,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        let initial = InitialEvents::default();
        let stream = self.server.watch(&self.call(target)?, options, &initial).await?;
        let events = stream.flat_map(|batch| {
            let events: Vec<Result<WatchEvent, ApiError>> = match batch {
                Ok(batch) => batch.into_iter().map(|sent| Ok(event(sent))).collect(),
                Err(error) => vec![Err(error)],
            };
            futures::stream::iter(events)
        });
        Ok(events.boxed())
    }

    async fn create(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        let mut call = self.call(target)?.fenced(&options.fence);
        if call.subresource.is_empty() {
            call.name.clear();
        }
        if call.info.gvr.namespaced && call.namespace.is_empty() {
            call.namespace = object.namespace().to_string();
        }
        self.server.post(&call, object.into_value(), &params(options)).await.map(raw)
    }

    async fn update(
        &self,
        target: &Target,
        object: Object,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        let call = self.one(target)?.fenced(&options.fence);
        self.server.put(&call, object.into_value(), &params(options)).await.map(raw)
    }

    async fn patch(
        &self,
        target: &Target,
        patch: Patch,
        options: &WriteOptions,
    ) -> Result<Raw, ApiError> {
        let call = self.one(target)?.fenced(&options.fence);
        self.server.patch(&call, &patch, &params(options)).await.map(raw)
    }

    async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<Raw, ApiError> {
        let call = self.one(target)?.fenced(&options.fence);
        self.server.delete(&call, options).await.map(raw)
    }

    async fn get_bytes(&self, path: &str) -> Result<Bytes, ApiError> {
        self.server.bytes(&self.user, path).await
    }
}

fn event(sent: Sent) -> WatchEvent {
    match sent {
        Sent::Added(raw) => WatchEvent::Added(Raw(raw)),
        Sent::Modified(raw) => WatchEvent::Modified(Raw(raw)),
        Sent::Deleted(raw) => WatchEvent::Deleted(Raw(raw)),
        Sent::Bookmark { revision, .. } => WatchEvent::Bookmark(revision.to_string()),
    }
}
