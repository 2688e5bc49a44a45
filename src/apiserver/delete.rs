//! DELETE: grace, propagation, finalizers, preconditions (k8s.io/apiserver's registry/rest/delete.go
//! and registry/generic/registry/store.go).
//!
//! ```text
//!   stored --delete--> gone                        nothing to wait for
//!   stored --delete--> deletionTimestamp set       grace, or finalizers, or a Namespace's content
//!          --shorter grace, last finalizer removed--> gone
//! ```

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::admission::resource_quota::Change;
use super::admission::{self, Attributes, Verb};
use super::definitions::is_definition;
use super::filter::Filter;
use super::service::{Answer, ApiServer, Call, Stored, timestamp};
use super::webhooks::{self, Asking, Operation, Question, Rounds};
use super::write::{MAX_UPDATE_ATTEMPTS, check_uid, first};
use crate::api::custom::CLEANUP_FINALIZER;
use crate::api::meta::{FOREGROUND, ORPHAN};
use crate::api::resource::KindInfo;
use crate::api::{ApiError, Object, Raw};
use crate::client::{DeleteOptions, ListOptions, Propagation};
use crate::store::{Expect, Op, Value as StoreValue};

/// How many objects a deletion of a collection reads at once.
const COLLECTION_PAGE: usize = 500;
/// How many deletions of a collection run at the same time (they share disk commits).
const COLLECTION_CONCURRENCY: usize = 32;
/// A Pod's grace if it does not say (core/v1's default).
const POD_GRACE_SECONDS: i64 = 30;

/// What one attempt at a deletion came to.
enum Deleted {
    Done(Answer),
    Conflict,
}

/// What is to be done with an object.
enum Step {
    /// It stays as it is.
    Nothing,
    /// It stays, marked.
    Mark(Object),
    Remove(Object),
}

impl ApiServer {
    pub async fn delete(&self, call: &Call, options: &DeleteOptions) -> Result<Answer, ApiError> {
        self.authorize(call, "delete")?;
        let answer = self.delete_authorized(call, options, Asking::Ask).await;
        self.settled(call, answer).await
    }

    /// Like [`ApiServer::delete`], for evictions and collections.
    pub(super) async fn delete_authorized(
        &self,
        call: &Call,
        options: &DeleteOptions,
        asking: Asking,
    ) -> Result<Answer, ApiError> {
        for _ in 0..MAX_UPDATE_ATTEMPTS {
            let old = self.stored_as_asked(call).await?;
            self.check_node_write(call, &old.object)?;
            let mut warnings = Vec::new();
            check_options(call, &old, options)?;
            let attributes = Attributes::new(self, call, Verb::Delete, Some(&old.object));
            admission::validate(&attributes, &old.object, &mut warnings)?;
            if asking == Asking::Ask {
                self.ask_about_deletion(call, &old, options, &mut warnings).await?;
            }
            if let Deleted::Done(answer) = self.try_delete(call, &old, options).await? {
                return Ok(answer.warn(warnings));
            }
        }
        Err(ApiError::modified(&call.info.gvr, &call.name))
    }

    async fn try_delete(
        &self,
        call: &Call,
        old: &Stored,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let expect = Expect::Revision(old.entry.revision);
        match next_step(&call.info, &old.object, options, self.clock.now()) {
            Step::Nothing => Ok(done(old.entry.value.clone())),
            Step::Mark(object) if options.dry_run => Ok(done(object.to_json().into())),
            Step::Mark(object) => {
                let key = old.entry.key.clone();
                let value = self.stored_form(&call.info, &object).await?;
                let put = Op::Put { key, value, expect };
                Ok(match self.commit_for(call, vec![put]).await? {
                    Ok(committed) => done(first(committed)),
                    Err(_) => Deleted::Conflict,
                })
            }
            Step::Remove(object) if options.dry_run => {
                Ok(Deleted::Done(removed(call, &object, object.to_json().into())))
            }
            Step::Remove(object) => {
                let attributes = Attributes::new(self, call, Verb::Delete, Some(&old.object));
                let _turn = self.quota_turn(&Change::of(&attributes, None)).await?;
                let last = self.stored_form(&call.info, &object).await?;
                let ops = self.deletion_ops(call, old, last);
                Ok(match self.commit_for(call, ops).await? {
                    Ok(committed) => Deleted::Done(removed(call, &object, first(committed))),
                    Err(_) => Deleted::Conflict,
                })
            }
        }
    }

    /// What webhooks and policies say of a deletion.
    async fn ask_about_deletion(
        &self,
        call: &Call,
        old: &Stored,
        options: &DeleteOptions,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let question = Question {
            call,
            operation: Operation::Delete,
            part: None,
            old: Some(&old.object),
            dry_run: options.dry_run,
            options: webhooks::delete_options(options),
        };
        let table = self.hooks.of(call);
        if let Some(table) = &table {
            let mut rounds = Rounds::default();
            self.ask_mutating(table, &question, None, &Ok, &mut rounds, warnings).await?;
        }
        self.ask_policies(&question, None, warnings)?;
        match table {
            Some(table) => self.ask_validating(&table, &question, None, warnings).await,
            None => Ok(()),
        }
    }

    /// The deletion of an object and of what goes with it; watchers are shown `last`.
    pub(super) fn deletion_ops(&self, call: &Call, old: &Stored, last: StoreValue) -> Vec<Op> {
        let delete = Op::Delete {
            key: old.entry.key.clone(),
            expect: Expect::Revision(old.entry.revision),
            last: Some(last),
        };
        let attributes = Attributes::new(self, call, Verb::Delete, Some(&old.object));
        std::iter::once(delete).chain(admission::release(&attributes, &old.object)).collect()
    }

    /// Deletes one of many; one that is gone is no failure.
    pub(super) async fn delete_one(
        &self,
        call: Call,
        options: &DeleteOptions,
        asking: Asking,
    ) -> Result<(), ApiError> {
        match self.delete_authorized(&call, options, asking).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Deletes what the selectors find, page by page, and answers with the list of it.
    pub async fn delete_collection(
        &self,
        call: &Call,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<Answer, ApiError> {
        use futures::{StreamExt, TryStreamExt};
        self.authorize(call, "deletecollection")?;
        let filter = Filter::parse(&call.info, &list.label_selector, &list.field_selector)?;
        // With a limit only one page goes, as the caller asked.
        let one_page = list.limit > 0;
        let mut page_options = list.clone();
        page_options.limit = if one_page { list.limit } else { COLLECTION_PAGE };
        let mut items: Vec<Bytes> = Vec::new();
        let revision = loop {
            let page = self.list_filtered(call, &page_options, &filter).await?;
            let calls: Vec<Call> = page.items.iter().filter_map(|raw| one_of(call, raw)).collect();
            futures::stream::iter(
                calls.into_iter().map(|one| self.delete_one(one, options, Asking::Ask)),
            )
            .buffer_unordered(COLLECTION_CONCURRENCY)
            .try_collect::<Vec<()>>()
            .await?;
            items.extend(page.items);
            if page.continue_token.is_empty() || one_page {
                break page.revision;
            }
            page_options.resource_version.clear();
            page_options.resource_version_match.clear();
            page_options.continue_token = page.continue_token;
        };
        let listed = super::read::Listed { revision, items, ..Default::default() };
        self.after_write(call).await;
        Ok(Answer::other(200, super::respond::list_json(&call.info, &listed)))
    }
}

fn check_options(call: &Call, old: &Stored, options: &DeleteOptions) -> Result<(), ApiError> {
    check_uid(call, options.uid.as_deref().unwrap_or_default(), &old.object)?;
    let now = old.object.resource_version();
    if let Some(version) = options.resource_version.as_deref().filter(|version| *version != now) {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in \
             object meta: {now}"
        );
        return Err(ApiError::conflict(&call.info.gvr, &call.name, why));
    }
    Ok(())
}

fn one_of(call: &Call, raw: &Bytes) -> Option<Call> {
    let object = Raw(raw.clone()).object().ok()?;
    let namespace = object.namespace().to_string();
    Some(Call { namespace, name: object.name().to_string(), ..call.clone() })
}

fn done(raw: Bytes) -> Deleted {
    Deleted::Done(Answer::object(200, raw))
}

/// The answer for an object that is gone.
fn removed(call: &Call, object: &Object, raw: Bytes) -> Answer {
    let info = &call.info;
    if info.meta.delete_returns_object {
        return Answer::object(200, raw);
    }
    let mut details = format!("{{\"name\":{}", Value::from(object.name()));
    if !info.gvr.group.is_empty() {
        details.push_str(&format!(",\"group\":{}", Value::from(&*info.gvr.group)));
    }
    details.push_str(&format!(",\"kind\":{}", Value::from(&*info.gvr.resource)));
    details.push_str(&format!(",\"uid\":{}}}", Value::from(object.uid())));
    let text = format!(
        "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{{}},\"status\":\"Success\",\
         \"details\":{details}}}"
    );
    Answer::other(200, text)
}

/// Pure: what a deletion does with an object now.
fn next_step(info: &KindInfo, old: &Object, options: &DeleteOptions, now: Timestamp) -> Step {
    let mut object = old.clone();
    let finalizers = propagate(&mut object, options.propagation_policy);
    let grace = grace_seconds(info, &object, options);
    if old.deletion_timestamp().is_some() {
        let before = remaining_grace_seconds(old);
        let shorter = grace.filter(|_| options.grace_period_seconds.is_some());
        match shorter.filter(|g| *g < before) {
            Some(grace) => shorten(&mut object, before, grace),
            None if before > 0 || is_blocked(info, &object) => {
                return if finalizers { Step::Mark(object) } else { Step::Nothing };
            }
            None => {}
        }
    } else {
        mark(info, &mut object, grace.unwrap_or_default(), now);
    }
    if remaining_grace_seconds(&object) > 0 || is_blocked(info, &object) {
        Step::Mark(object)
    } else {
        Step::Remove(object)
    }
}

fn mark(info: &KindInfo, object: &mut Object, grace: i64, now: Timestamp) {
    let at = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
    object.set_meta("deletionTimestamp", timestamp(at));
    object.set_meta("deletionGracePeriodSeconds", grace);
    if object.generation() > 0 {
        object.set_meta("generation", object.generation() + 1);
    }
    if is_namespace(info) {
        let status = object.fields_mut().entry("status").or_insert_with(|| json!({}));
        status["phase"] = "Terminating".into();
    }
    if is_definition(info) {
        // Its objects go first.
        let mut finalizers: Vec<String> =
            object.finalizers().iter().map(ToString::to_string).collect();
        if !finalizers.iter().any(|name| name == CLEANUP_FINALIZER) {
            finalizers.push(CLEANUP_FINALIZER.into());
        }
        object.set_meta("finalizers", finalizers);
    }
}

/// A second deletion may only shorten the grace.
fn shorten(object: &mut Object, before: i64, grace: i64) {
    let at: Option<Timestamp> = object.deletion_timestamp().and_then(|text| text.parse().ok());
    let earlier = SignedDuration::from_secs(before - grace);
    if let Some(at) = at.and_then(|at| at.checked_sub(earlier).ok()) {
        object.set_meta("deletionTimestamp", timestamp(at));
    }
    object.set_meta("deletionGracePeriodSeconds", grace);
    if object.generation() > 0 {
        object.set_meta("generation", object.generation() + 1);
    }
}

/// Sets the garbage collector's finalizers as the policy asks; says whether they changed.
fn propagate(object: &mut Object, policy: Option<Propagation>) -> bool {
    let Some(policy) = policy else { return false };
    let before: Vec<String> = object.finalizers().iter().map(|f| f.to_string()).collect();
    let mut after = before.clone();
    after.retain(|f| f != ORPHAN && f != FOREGROUND);
    match policy {
        Propagation::Background => {}
        Propagation::Foreground => after.push(FOREGROUND.into()),
        Propagation::Orphan => after.push(ORPHAN.into()),
    }
    if after.is_empty() {
        object.meta_mut().remove("finalizers");
    } else {
        object.set_meta("finalizers", after.clone());
    }
    before != after
}

/// Grace by kind: only Pods have any, and only while something may run.
fn grace_seconds(info: &KindInfo, object: &Object, options: &DeleteOptions) -> Option<i64> {
    if !(info.gvr.group.is_empty() && info.gvr.resource == "pods") {
        return None;
    }
    let text = |path: &[&str]| object.at(path).and_then(Value::as_str).unwrap_or_default();
    let finished = matches!(text(&["status", "phase"]), "Succeeded" | "Failed");
    if text(&["spec", "nodeName"]).is_empty() || finished {
        return Some(0);
    }
    let default = object.at(&["spec", "terminationGracePeriodSeconds"]).and_then(Value::as_i64);
    let asked = options.grace_period_seconds.or(default).unwrap_or(POD_GRACE_SECONDS);
    // Negative values mean one second (pod strategy's CheckGracefulDelete).
    Some(if asked < 0 { 1 } else { asked })
}

/// The grace that a marked object was given.
pub(super) fn remaining_grace_seconds(object: &Object) -> i64 {
    object.meta().get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or_default()
}

/// Whether something must happen before a deleted object may go.
pub(super) fn is_blocked(info: &KindInfo, object: &Object) -> bool {
    let content = object.at(&["spec", "finalizers"]).and_then(Value::as_array);
    !object.finalizers().is_empty() || is_namespace(info) && content.is_some_and(|f| !f.is_empty())
}

fn is_namespace(info: &KindInfo) -> bool {
    info.gvr.group.is_empty() && info.gvr.resource == "namespaces"
}
