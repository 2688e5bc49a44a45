//! Kinds that are computed and not stored: the server makes their objects of what it knows, and they
//! are only read (get, list, watch).
//!
//! To add one: its kind with `computed` in its row, and what makes its objects in [`SOURCES`].
//! Objects have the revision at which the registry was last changed; a watch of an older version is
//! told to begin anew.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;

use super::filter::Filter;
use super::health;
use super::read::Listed;
use super::service::{ApiServer, Call, timestamp};
use super::watch::{BOOKMARK_INTERVAL, Sent, SentStream};
use crate::api::{ApiError, Object};
use crate::client::WatchOptions;
use crate::store::Revision;

/// What makes the objects of a kind: names and all but metadata.
type Source = fn(&ApiServer) -> Vec<(String, Value)>;

/// Group, resource, and what makes its objects.
const SOURCES: &[(&str, &str, Source)] = &[
    ("", "componentstatuses", component_statuses),
    ("apiregistration.k8s.io", "apiservices", api_services),
];

impl ApiServer {
    /// The objects of a kind in their bytes, by name.
    fn computed(&self, call: &Call) -> BTreeMap<String, Bytes> {
        let gvr = &call.info.gvr;
        let row = SOURCES.iter().find(|row| row.0 == gvr.group && row.1 == gvr.resource);
        let made = row.map(|(_, _, source)| source(self)).unwrap_or_default();
        let (revision, created) = (self.definitions.revision(), timestamp(self.started));
        made.into_iter()
            .filter_map(|(name, value)| {
                let mut object = Object::from_value(value).ok()?;
                object.set("apiVersion", gvr.api_version().into());
                object.set("kind", (*call.info.kind).into());
                object.set_meta("name", name.clone());
                object.set_meta("uid", uid(&gvr.qualified(), &name));
                object.set_meta("resourceVersion", revision.to_string());
                object.set_meta("creationTimestamp", created.clone());
                Some((name, object.to_json().into()))
            })
            .collect()
    }

    pub(super) fn get_computed(&self, call: &Call) -> Result<Bytes, ApiError> {
        let found = self.computed(call).remove(&call.name);
        found.ok_or_else(|| ApiError::not_found(&call.info.gvr, &call.name))
    }

    /// All of them: there are few, so there are no pages.
    pub(super) fn list_computed(&self, call: &Call, filter: &Filter) -> Result<Listed, ApiError> {
        let mut items = Vec::new();
        for raw in self.computed(call).into_values() {
            if filter.matches(&call.info, &self.memo, &raw)? {
                items.push(raw);
            }
        }
        Ok(Listed { revision: self.store.revision(), items, ..Listed::default() })
    }

    /// The present state, if it is asked for, then what changes with the registry.
    pub(super) fn watch_computed(
        self: &Arc<Self>,
        call: &Call,
        filter: Filter,
        options: &WatchOptions,
        from: Option<Revision>,
        initial_end: bool,
    ) -> Result<SentStream, ApiError> {
        let since = self.definitions.revision();
        if let Some(from) = from.filter(|from| *from < since) {
            let message = format!("too old resource version: {from} ({since})");
            return Err(ApiError::expired(message));
        }
        let now = Instant::now();
        let mut watcher = Watcher {
            changes: self.definitions.changes(),
            server: self.clone(),
            call: call.clone(),
            filter,
            shown: BTreeMap::new(),
            waiting: VecDeque::new(),
            bookmarks: options.bookmarks,
            next_bookmark: now + BOOKMARK_INTERVAL,
            deadline: now + self.watch_time(options.timeout),
            ended: false,
        };
        watcher.look()?;
        if from.is_some() {
            watcher.waiting.clear();
        } else if initial_end {
            watcher.waiting.push_back(watcher.bookmark(true));
        }
        Ok(futures::stream::unfold(watcher, |mut watcher| async move {
            watcher.next().await.map(|batch| (batch, watcher))
        })
        .boxed())
    }
}

struct Watcher {
    server: Arc<ApiServer>,
    call: Call,
    filter: Filter,
    /// What the client knows.
    shown: BTreeMap<String, Bytes>,
    waiting: VecDeque<Sent>,
    changes: Receiver<u64>,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    ended: bool,
}

impl Watcher {
    /// Compares what there is with what the client knows.
    fn look(&mut self) -> Result<(), ApiError> {
        let mut now = self.server.computed(&self.call);
        let mut wanted = BTreeMap::new();
        while let Some((name, raw)) = now.pop_first() {
            if self.filter.matches(&self.call.info, &self.server.memo, &raw)? {
                wanted.insert(name, raw);
            }
        }
        for (name, raw) in &wanted {
            match self.shown.get(name) {
                None => self.waiting.push_back(Sent::Added(raw.clone())),
                Some(before) if !same(before, raw) => {
                    self.waiting.push_back(Sent::Modified(raw.clone()));
                }
                Some(_) => {}
            }
        }
        for (name, raw) in &self.shown {
            if !wanted.contains_key(name) {
                self.waiting.push_back(Sent::Deleted(raw.clone()));
            }
        }
        self.shown = wanted;
        Ok(())
    }

    fn bookmark(&self, initial_end: bool) -> Sent {
        Sent::Bookmark { revision: self.server.store.revision(), initial_end }
    }

    async fn next(&mut self) -> Option<Result<Vec<Sent>, ApiError>> {
        loop {
            if !self.waiting.is_empty() {
                return Some(Ok(self.waiting.drain(..).collect()));
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                changed = self.changes.changed() => {
                    self.ended = changed.is_err();
                    if let Err(error) = self.look() {
                        self.ended = true;
                        return Some(Err(error));
                    }
                }
                () = tokio::time::sleep_until(self.next_bookmark.min(self.deadline)) => {
                    let now = Instant::now();
                    self.ended = now >= self.deadline;
                    self.next_bookmark = now + BOOKMARK_INTERVAL;
                    if self.bookmarks {
                        self.waiting.push_back(self.bookmark(false));
                    }
                }
            }
        }
    }
}

/// Whether two objects differ in no more than the revision.
fn same(one: &Bytes, other: &Bytes) -> bool {
    let without = |raw: &Bytes| {
        let mut object = crate::api::Raw(raw.clone()).object().ok()?;
        object.meta_mut().remove("resourceVersion");
        Some(object)
    };
    without(one) == without(other)
}

/// The same for the same object at every start.
fn uid(resource: &str, name: &str) -> String {
    let digest = hex::encode(Sha256::digest(format!("{resource}/{name}")));
    let part = |range: std::ops::Range<usize>| digest.get(range).unwrap_or_default();
    format!("{}-{}-5{}-8{}-{}", part(0..8), part(8..12), part(13..16), part(17..20), part(20..32))
}

/// The store, and the parts of the control plane that run in this process: the end of one of those
/// ends the process, so that each that is asked about is well.
fn component_statuses(server: &ApiServer) -> Vec<(String, Value)> {
    let condition = |result: Result<(), ApiError>| match result {
        Ok(()) => json!({"conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]}),
        Err(error) => json!({"conditions": [
            {"type": "Healthy", "status": "False", "message": error.message}]}),
    };
    let store = ("etcd-0".to_string(), condition(health::run(server, "store")));
    let parts = server.options.components.iter();
    parts.map(|part| (part.clone(), condition(Ok(())))).chain([store]).collect()
}

/// Priorities of groups among clients (kube-aggregator's table); others have less.
const GROUP_PRIORITIES: &[(&str, i32)] = &[
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("resource.k8s.io", 15_900),
    // As metrics-server registers itself.
    ("metrics.k8s.io", 100),
];
/// Of groups that definitions of custom resources bring, and of the rest.
const CUSTOM_PRIORITY: i32 = 1_000;
const OTHER_PRIORITY: i32 = 15_000;
/// Of the preferred version; others have one less each.
const VERSION_PRIORITY: i32 = 100;

/// One for each group version that is served; all of them by this server.
fn api_services(server: &ApiServer) -> Vec<(String, Value)> {
    let mut versions: Vec<(String, String, bool)> = Vec::new();
    for row in server.registry().rows() {
        let (group, version) = (row.gvr.group.to_string(), row.gvr.version.to_string());
        if !versions.iter().any(|(g, v, _)| *g == group && *v == version) {
            versions.push((group, version, row.custom.is_some()));
        }
    }
    let since = timestamp(server.started);
    let made = versions.iter().enumerate().map(|(index, (group, version, custom))| {
        let before = versions[..index].iter().filter(|(other, _, _)| other == group).count();
        let known = GROUP_PRIORITIES.iter().find(|(name, _)| name == group);
        let priority = match known {
            Some((_, priority)) => *priority,
            None if *custom => CUSTOM_PRIORITY,
            None => OTHER_PRIORITY,
        };
        let managed = if *custom { "true" } else { "onstart" };
        let label = "kube-aggregator.kubernetes.io/automanaged";
        let mut spec = json!({
            "version": version,
            "groupPriorityMinimum": priority,
            "versionPriority": VERSION_PRIORITY - i32::try_from(before).unwrap_or(0),
        });
        if !group.is_empty() {
            spec["group"] = group.clone().into();
        }
        let condition = json!({"type": "Available", "status": "True", "reason": "Local",
            "message": "Local APIServices are always available", "lastTransitionTime": since});
        let value = json!({"metadata": {"labels": {label: managed}}, "spec": spec,
            "status": {"conditions": [condition]}});
        (format!("{version}.{group}"), value)
    });
    made.collect()
}
