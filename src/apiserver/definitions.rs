//! CustomResourceDefinitions at work: their status, the registry's next snapshot, and the end of
//! their objects.
//!
//! ```text
//!   definition written ─▶ names decided ─▶ registry swapped ─▶ status written (Established)
//!   definition deleted ─▶ marked ─▶ objects deleted ─▶ none left ─▶ gone ─▶ registry swapped
//! ```
//!
//! All of it is one function of what is stored, run after every write that may change its outcome
//! (so that a client who was answered finds the kind served), at the start and once a minute.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::service::{Answer, ApiServer, Call, Stored, read_error};
use super::webhooks::Asking;
use super::write::spliced;
use super::{User, delete, keys, versions};
use crate::api::custom::definition::{self, Rows};
use crate::api::custom::{CLEANUP_FINALIZER, names};
use crate::api::registry::Registry;
use crate::api::resource::{Gvr, KindInfo};
use crate::api::{ApiError, Raw};
use crate::client::DeleteOptions;
use crate::store::{Expect, Op, Revision};

/// How often writes of others may come between before the rest waits for the next occasion.
const MAX_ROUNDS: usize = 64;
/// How many objects of a definition are deleted between two looks.
const CLEANUP_PAGE: usize = 500;
/// How many of them at the same time (they share disk commits).
const CLEANUP_CONCURRENCY: usize = 32;

/// What the server remembers of its definitions.
pub struct Definitions {
    /// Held while definitions are settled: one at a time.
    made: tokio::sync::Mutex<HashMap<String, Made>>,
    /// Counts snapshots of the registry.
    changed: watch::Sender<u64>,
    /// The store's revision at the last of them.
    revision: AtomicU64,
}

/// The rows of a definition, and what they were made of.
struct Made {
    from: Value,
    rows: Rows,
}

/// A definition, stored and typed.
struct One {
    stored: Stored,
    /// As [`names::decide`] wants it.
    typed: CustomResourceDefinition,
}

impl Default for Definitions {
    fn default() -> Definitions {
        Definitions {
            made: Default::default(),
            changed: watch::Sender::new(0),
            revision: AtomicU64::new(1),
        }
    }
}

impl Definitions {
    /// The revision at which the registry was last changed.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Relaxed)
    }

    /// Tells of snapshots of the registry that come after now.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

/// Whether a row is that of definitions.
pub fn is_definition(info: &KindInfo) -> bool {
    info.gvr == Gvr::of::<CustomResourceDefinition>()
}

impl ApiServer {
    /// Whether a row is still in the registry.
    pub(super) fn serves(&self, info: &Arc<KindInfo>) -> bool {
        self.registry().by_gvr(&info.gvr).is_some_and(|now| Arc::ptr_eq(now, info))
    }

    /// A write's answer, after what follows from the write.
    pub(super) async fn settled(
        &self,
        call: &Call,
        answer: Result<Answer, ApiError>,
    ) -> Result<Answer, ApiError> {
        let mut answer = answer?;
        if answer.is_resource {
            let raw = self.converted_raw(&call.info, answer.raw).await?;
            answer.raw = versions::shown_raw(&call.info, raw);
        }
        self.after_write(call).await;
        Ok(answer)
    }

    /// Does what follows from a write of a definition, or of an object that one waits for.
    pub(super) async fn after_write(&self, call: &Call) {
        let waits =
            call.info.custom.as_ref().is_some_and(|c| c.terminating.load(Ordering::Relaxed));
        if !waits && !is_definition(&call.info) {
            return;
        }
        // The write itself is done; what is left is tried again within a minute.
        if let Err(error) = Box::pin(self.settle_definitions()).await {
            tracing::warn!(%error, "definitions of custom resources are not settled");
        }
    }

    /// Brings statuses and registry to what the stored definitions ask for, and ends definitions
    /// that are deleted.
    pub async fn settle_definitions(&self) -> Result<(), ApiError> {
        let builtin = self.registry();
        let Some(info) = builtin.by_gvr(&Gvr::of::<CustomResourceDefinition>()).cloned() else {
            return Ok(());
        };
        let mut made = self.definitions.made.lock().await;
        for _ in 0..MAX_ROUNDS {
            let all = self.decided(&info).await?;
            self.publish(&mut made, &all, &builtin);
            let mut again = false;
            for one in &all {
                again |= self.write_status(one).await?;
            }
            for one in &all {
                let rows = made.get(one.stored.object.name()).map(|made| &made.rows);
                again |= self.end(&info, one, rows).await?;
            }
            if !again {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Every definition with the status that it should have, oldest first.
    async fn decided(&self, info: &Arc<KindInfo>) -> Result<Vec<One>, ApiError> {
        let page = self.entries(&keys::collection(info, ""), None, 0, None).await;
        let mut all: Vec<(Stored, CustomResourceDefinition)> = Vec::new();
        for entry in page.map_err(read_error)?.entries {
            let object = Raw(entry.value.clone()).object()?;
            let typed = object.typed::<CustomResourceDefinition>()?;
            all.push((Stored { entry, object }, typed));
        }
        // Who was first has the names.
        let age = |typed: &CustomResourceDefinition| {
            typed.metadata.creation_timestamp.as_ref().map(|time| time.0)
        };
        all.sort_by_key(|(stored, typed)| (age(typed), stored.entry.revision));
        let (stored, mut typed): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        let (registry, now) = (self.registry(), self.clock.now());
        for index in 0..typed.len() {
            names::decide(&mut typed, index, &registry, now);
        }
        Ok(stored.into_iter().zip(typed).map(|(stored, typed)| One { stored, typed }).collect())
    }

    /// Swaps the registry if the rows of the definitions are others than before. Rows of what did
    /// not change stay the same: caches and watches hold on to them.
    fn publish(&self, made: &mut HashMap<String, Made>, all: &[One], builtin: &Registry) {
        let mut kept: HashMap<String, Made> = HashMap::new();
        let mut served: Vec<Arc<KindInfo>> = Vec::new();
        for One { stored, typed } in all.iter().filter(|one| names::is_established(&one.typed)) {
            let name = stored.object.name().to_string();
            let accepted = typed.status.as_ref().and_then(|status| status.accepted_names.clone());
            let from = json!([stored.object.uid(), stored.object.get("spec"), accepted]);
            let same = made.remove(&name).filter(|old| old.from == from);
            let one = match same {
                Some(old) => old,
                None => match definition::rows(typed) {
                    Some(rows) => Made { from, rows },
                    None => continue,
                },
            };
            let terminating = typed.metadata.deletion_timestamp.is_some();
            for info in one.rows.served.iter().chain([&one.rows.stored]) {
                if let Some(custom) = &info.custom {
                    custom.terminating.store(terminating, Ordering::Relaxed);
                }
            }
            served.extend(one.rows.served.iter().cloned());
            kept.insert(name, one);
        }
        *made = kept;
        served.sort_by_key(|info| {
            (info.gvr.group.to_string(), definition::preference(&info.gvr.version))
        });
        let registry = self.registry();
        let before = registry.rows().iter().filter(|info| info.custom.is_some());
        if !before.map(Arc::as_ptr).eq(served.iter().map(Arc::as_ptr)) {
            self.registry.replace(builtin.with_custom(served));
            self.conversions.keep(&self.registry());
            self.definitions.revision.store(self.store.revision().max(1), Ordering::Relaxed);
            self.definitions.changed.send_modify(|count| *count += 1);
        }
    }

    /// Writes the status that was decided, if it is another; says whether to look again.
    async fn write_status(&self, one: &One) -> Result<bool, ApiError> {
        let status = serde_json::to_value(&one.typed.status).map_err(ApiError::internal)?;
        if one.stored.object.get("status") == Some(&status) {
            return Ok(false);
        }
        let mut object = one.stored.object.clone();
        object.set("status", status);
        let expect = Expect::Revision(one.stored.entry.revision);
        let put = Op::Put { key: one.stored.entry.key.clone(), value: spliced(&object), expect };
        // Written, or somebody else was faster: both ask for another look.
        let _ = self.commit(vec![put]).await?;
        Ok(true)
    }

    /// Deletes the objects of a definition that is being deleted, then lets it go; says whether to
    /// look again.
    async fn end(
        &self,
        info: &Arc<KindInfo>,
        one: &One,
        rows: Option<&Rows>,
    ) -> Result<bool, ApiError> {
        let object = &one.stored.object;
        if object.deletion_timestamp().is_none()
            || !object.finalizers().contains(&CLEANUP_FINALIZER)
        {
            return Ok(false);
        }
        if let Some(rows) = rows
            && !self.delete_objects(&rows.stored).await?
        {
            // Finalizers of others: their removal comes back here.
            return Ok(false);
        }
        let mut last = object.clone();
        let left: Vec<&str> =
            object.finalizers().into_iter().filter(|name| *name != CLEANUP_FINALIZER).collect();
        match left.is_empty() {
            true => last.meta_mut().remove("finalizers"),
            false => last.meta_mut().insert("finalizers".into(), json!(left)),
        };
        let call = self.cleaner(info, "", object.name());
        let ops = if delete::is_blocked(info, &last) {
            let expect = Expect::Revision(one.stored.entry.revision);
            vec![Op::Put { key: one.stored.entry.key.clone(), value: spliced(&last), expect }]
        } else {
            self.deletion_ops(&call, &one.stored, spliced(&last))
        };
        let _ = self.commit(ops).await?;
        Ok(true)
    }

    /// Deletes all objects of a kind; whether none is left.
    async fn delete_objects(&self, info: &Arc<KindInfo>) -> Result<bool, ApiError> {
        use futures::{StreamExt, TryStreamExt};
        let prefix = keys::collection(info, "");
        let mut after = None;
        loop {
            let page = self.entries(&prefix, after.as_ref(), CLEANUP_PAGE, None).await;
            let page = page.map_err(read_error)?;
            after = page.entries.last().map(|entry| entry.key.clone());
            let found = page.entries.iter().filter_map(|entry| keys::names(&entry.key));
            let calls: Vec<Call> =
                found.map(|key| self.cleaner(info, &key.namespace, &key.name)).collect();
            let options = DeleteOptions::default();
            futures::stream::iter(
                calls.into_iter().map(|call| self.delete_one(call, &options, Asking::Skip)),
            )
            .buffer_unordered(CLEANUP_CONCURRENCY)
            .try_collect::<Vec<()>>()
            .await?;
            if !page.more {
                break;
            }
        }
        let left = self.store.list(&prefix, None, 1, None).map_err(read_error)?;
        Ok(left.entries.is_empty())
    }

    fn cleaner(&self, info: &Arc<KindInfo>, namespace: &str, name: &str) -> Call {
        Call {
            user: Arc::new(User::system("apiserver")),
            info: info.clone(),
            namespace: namespace.into(),
            name: name.into(),
            subresource: String::new(),
            fence: None,
        }
    }
}
