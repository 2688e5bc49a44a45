//! ResourceQuotas: what is created in a namespace, grows, shrinks or goes is charged to its quotas
//! or given back, in the very commit, so that a quota is never exceeded however many write at once,
//! and never lags behind (upstream's ResourceQuota admission,
//! k8s.io/apiserver/pkg/admission/plugin/resourcequota; upstream gives back later, by its
//! controller).
//!
//! Only names that the quota's status has are held against it: the quota controller puts them there
//! once it has counted what exists.

use std::fmt::Display;

use k8s_openapi::api::core::v1::ResourceQuota as Quota;
use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::kinds::quota_usage::{
    self, Counted, PERSISTENT_VOLUME_CLAIMS, PODS, SERVICES, Usage,
};
use crate::api::kinds::resources::{self, Sums};
use crate::api::quantity::Quantity;
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::keys;
use crate::apiserver::service::{ApiServer, Call};
use crate::apiserver::write::spliced;
use crate::base::keyed_locks::KeyedGuard;
use crate::store::{Entry, Expect, Op};

/// Whose usage depends on what they are, and not only on that they are.
const SIZED: &[Counted] = &[PODS, SERVICES, PERSISTENT_VOLUME_CLAIMS];

pub struct ResourceQuota;

impl Admitter for ResourceQuota {
    fn charge(
        &self,
        attributes: &Attributes,
        object: &Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let change = Change { call: attributes.call, old: attributes.old, new: Some(object) };
        outcome.ops.extend(attributes.server.charges(&change)?);
        Ok(())
    }

    fn release(&self, attributes: &Attributes, object: &Object) -> Vec<Op> {
        let change = Change { call: attributes.call, old: Some(object), new: None };
        attributes.server.charges(&change).unwrap_or_else(|error| {
            // The controller counts anew now and then.
            tracing::warn!(%error, "what was deleted is not given back to a quota");
            Vec::new()
        })
    }
}

/// One write, as quotas see it.
pub(in crate::apiserver) struct Change<'a> {
    pub call: &'a Call,
    pub old: Option<&'a Object>,
    pub new: Option<&'a Object>,
}

impl<'a> Change<'a> {
    /// The write that these attributes are about, of an object that is to become `new`.
    pub fn of(attributes: &Attributes<'a>, new: Option<&'a Object>) -> Change<'a> {
        let old = attributes.old.filter(|_| attributes.verb != Verb::Create);
        Change { call: attributes.call, old, new }
    }

    fn resource(&self) -> Counted<'a> {
        let gvr = self.call.info.stored_gvr();
        (&gvr.group, &gvr.resource)
    }

    /// Whether the write can change what is used at all.
    fn matters(&self) -> bool {
        if self.call.namespace.is_empty() {
            return false;
        }
        match (self.old, self.new) {
            (Some(old), Some(new)) => {
                SIZED.contains(&self.resource())
                    && (is_finished(old) != is_finished(new) || is_resized(old, new))
            }
            (None, Some(_)) => self.call.subresource.is_empty(),
            _ => true,
        }
    }

    /// The quotas that may have to do with it, undecoded: most objects are none that a quota names.
    fn quotas(&self, server: &ApiServer) -> Result<Vec<Entry>, ApiError> {
        if !self.matters() {
            return Ok(Vec::new());
        }
        let mut entries = server.entries_in::<Quota>(&self.call.namespace)?;
        if entries.is_empty() {
            return Ok(entries);
        }
        let own = keys::object(&self.call.info, &self.call.namespace, &self.call.name);
        let resource = self.resource();
        let sized = SIZED.contains(&resource);
        let names = quota_usage::of_any(resource).into_keys();
        let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
        let named = |json: &[u8]| {
            names.iter().any(|name| json.windows(name.len()).any(|part| part == name.as_bytes()))
        };
        entries.retain(|entry| entry.key != own && (sized || named(&entry.value)));
        Ok(entries)
    }
}

/// Whether a part of the spec differs that quotas look at. Others change often: a Pod's node.
fn is_resized(old: &Object, new: &Object) -> bool {
    const PARTS: &[&str] = &[
        "containers",
        "initContainers",
        "overhead",
        "resources",
        "activeDeadlineSeconds",
        "priorityClassName",
        "type",
        "ports",
        "allocateLoadBalancerNodePorts",
        "storageClassName",
        "volumeAttributesClassName",
    ];
    PARTS.iter().any(|part| old.at(&["spec", part]) != new.at(&["spec", part]))
}

fn is_finished(object: &Object) -> bool {
    let phase = object.at(&["status", "phase"]).and_then(Value::as_str);
    matches!(phase, Some("Succeeded" | "Failed"))
}

impl ApiServer {
    /// Held while a write that a quota may be charged for is committed: writes at the same time
    /// would fail each other over the quota's status.
    pub(in crate::apiserver) async fn quota_turn(
        &self,
        change: &Change<'_>,
    ) -> Result<Option<KeyedGuard<'_>>, ApiError> {
        if change.quotas(self)?.is_empty() {
            return Ok(None);
        }
        let key = format!("quotas/{}", change.call.namespace);
        Ok(Some(self.turns.lock(&key).await))
    }

    /// What is to be committed together with a write.
    fn charges(&self, change: &Change) -> Result<Vec<Op>, ApiError> {
        let entries = change.quotas(self)?;
        if entries.is_empty() {
            return Ok(Vec::new());
        }
        let usage = |object: Option<&Object>| {
            object.map(|object| Usage::of(change.resource(), object)).transpose()
        };
        let (before, after) = (usage(change.old)?, usage(change.new)?);
        let mut ops = Vec::new();
        for entry in entries {
            let mut stored = Raw(entry.value).object()?;
            let used = charge(&stored.typed()?, before.as_ref(), after.as_ref());
            let used = used.map_err(|why| {
                ApiError::forbidden(&change.call.info.gvr, &change.call.name, why)
            })?;
            if used.is_empty() {
                continue;
            }
            let status = stored.fields_mut().entry("status").or_insert_with(|| json!({}));
            for (name, amount) in used {
                status["used"][name] = Value::from(amount.to_string());
            }
            let (value, expect) = (spliced(&stored), Expect::Revision(entry.revision));
            ops.push(Op::Put { key: entry.key, value, expect });
        }
        Ok(ops)
    }
}

/// What of a quota is used after the write, of the names that change; the reason where there is no
/// room.
fn charge(quota: &Quota, before: Option<&Usage>, after: Option<&Usage>) -> Result<Sums, String> {
    let looked_at = |usage: Option<&Usage>| {
        let sums = usage.filter(|usage| usage.is_in(quota)).map(|usage| usage.sums.clone());
        sums.unwrap_or_default()
    };
    let name = quota.metadata.name.as_deref().unwrap_or_default();
    let status = quota.status.clone().unwrap_or_default();
    let hard = resources::sums(status.hard.as_ref());
    let used = resources::sums(status.used.as_ref());
    if let (None, Some(new)) = (before, after)
        && new.is_in(quota)
        && let Some(why) = new.left_out(hard.keys())
    {
        return Err(format!("failed quota: {name}: {why}"));
    }
    let mut change = quota_usage::difference(&looked_at(before), &looked_at(after));
    change.retain(|name, _| hard.contains_key(name));
    let grows = |name: &String| change[name].sign() > 0;
    let unknown = change.keys().filter(|name| !used.contains_key(*name) && grows(name));
    let unknown: Vec<&str> = unknown.map(String::as_str).collect();
    if !unknown.is_empty() {
        let names = unknown.join(",");
        return Err(format!("status unknown for quota: {name}, resources: {names}"));
    }
    let mut total = used.clone();
    total.retain(|name, _| change.contains_key(name));
    for (name, amount) in &mut total {
        *amount += change[name];
        if amount.sign() < 0 {
            *amount = Quantity::ZERO;
        }
    }
    let exceeds = |(name, amount): &(&String, &Quantity)| *amount > &hard[*name] && grows(name);
    let exceeded: Vec<&String> = total.iter().filter(exceeds).map(|(name, _)| name).collect();
    if exceeded.is_empty() {
        return Ok(total);
    }
    Err(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        pairs(&change, &exceeded),
        pairs(&used, &exceeded),
        pairs(&hard, &exceeded)
    ))
}

/// `pods=1,requests.cpu=500m`.
fn pairs(sums: &Sums, names: &[&String]) -> String {
    let pair = |name: &&String| {
        let amount: &dyn Display = sums.get(*name).map_or(&Quantity::ZERO, |amount| amount);
        format!("{name}={amount}")
    };
    names.iter().map(pair).collect::<Vec<_>>().join(",")
}
