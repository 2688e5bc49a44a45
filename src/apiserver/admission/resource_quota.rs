//! ResourceQuotas: what is created in a namespace is charged to its quotas, in the commit that
//! creates it, so that a quota is never exceeded however many write at once (upstream's ResourceQuota
//! admission, k8s.io/apiserver/pkg/admission/plugin/resourcequota).
//!
//! Only names that the quota's status has are held against it: the quota controller puts them there
//! once it has counted what exists. It also takes off what goes.

use std::fmt::Display;

use k8s_openapi::api::core::v1::{Pod, ResourceQuota as Quota, Service};
use serde_json::{Value, json};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::kinds::quota_usage;
use crate::api::kinds::resources::{self, Sums};
use crate::api::quantity::Quantity;
use crate::api::resource::{Gvr, KindInfo};
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::service::ApiServer;
use crate::apiserver::write::spliced;
use crate::base::keyed_locks::KeyedGuard;
use crate::store::{Expect, Op};

pub struct ResourceQuota;

impl Admitter for ResourceQuota {
    fn charge(
        &self,
        attributes: &Attributes,
        object: &Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        let call = attributes.call;
        let creates = attributes.verb == Verb::Create && call.subresource.is_empty();
        if !creates || !is_counted(&call.info) {
            return Ok(());
        }
        let entries = attributes.server.entries_in::<Quota>(&call.namespace)?;
        if entries.is_empty() {
            return Ok(());
        }
        let charge = Charge::of(&call.info.gvr, object)?;
        for entry in entries {
            let mut stored = Raw(entry.value).object()?;
            let used = charge
                .to(&stored.typed()?)
                .map_err(|why| ApiError::forbidden(&call.info.gvr, &call.name, why))?;
            let Some(used) = used else { continue };
            let status = stored.fields_mut().entry("status").or_insert_with(|| json!({}));
            for (name, amount) in used {
                status["used"][name] = Value::from(amount.to_string());
            }
            let (value, expect) = (spliced(&stored), Expect::Revision(entry.revision));
            outcome.ops.push(Op::Put { key: entry.key, value, expect });
        }
        Ok(())
    }
}

fn is_counted(info: &KindInfo) -> bool {
    quota_usage::COUNTED.contains(&info.gvr)
}

impl ApiServer {
    /// Held while an object is created that a quota may be charged for: creations at the same time
    /// would fail each other over the quota's status.
    pub(in crate::apiserver) async fn quota_turn(
        &self,
        info: &KindInfo,
        namespace: &str,
    ) -> Result<Option<KeyedGuard<'_>>, ApiError> {
        if !is_counted(info) || self.entries_in::<Quota>(namespace)?.is_empty() {
            return Ok(None);
        }
        Ok(Some(self.turns.lock(&format!("quotas/{namespace}")).await))
    }
}

/// What one creation costs.
struct Charge {
    usage: Sums,
    pod: Option<Pod>,
}

impl Charge {
    fn of(resource: &Gvr, object: &Object) -> Result<Charge, ApiError> {
        if *resource == Gvr::of::<Pod>() {
            let pod: Pod = object.typed()?;
            return Ok(Charge { usage: quota_usage::of_pod(&pod), pod: Some(pod) });
        }
        let usage = if *resource == Gvr::of::<Service>() {
            quota_usage::of_service(&object.typed()?)
        } else {
            quota_usage::of_object(resource)
        };
        Ok(Charge { usage, pod: None })
    }

    /// What of a quota is used with this creation; nothing where the quota does not look at it, and
    /// the reason where there is no room.
    fn to(&self, quota: &Quota) -> Result<Option<Sums>, String> {
        let looked_at = match &self.pod {
            Some(pod) => quota_usage::selects_pod(quota, pod),
            None => !quota_usage::is_scoped(quota),
        };
        if !looked_at {
            return Ok(None);
        }
        let name = quota.metadata.name.as_deref().unwrap_or_default();
        let status = quota.status.clone().unwrap_or_default();
        let hard = resources::sums(status.hard.as_ref());
        let used = resources::sums(status.used.as_ref());
        let left_out = self.pod.as_ref().and_then(|pod| quota_usage::left_out(pod, hard.keys()));
        if let Some(why) = left_out {
            return Err(format!("failed quota: {name}: {why}"));
        }
        let mut charged = self.usage.clone();
        charged.retain(|name, amount| hard.contains_key(name) && !amount.is_zero());
        let unknown: Vec<&str> =
            charged.keys().filter(|name| !used.contains_key(*name)).map(String::as_str).collect();
        if !unknown.is_empty() {
            let names = unknown.join(",");
            return Err(format!("status unknown for quota: {name}, resources: {names}"));
        }
        let mut total = used.clone();
        total.retain(|name, _| charged.contains_key(name));
        resources::add(&mut total, &charged);
        let exceeded: Vec<&String> =
            total.iter().filter(|(name, amount)| *amount > &hard[*name]).map(|(n, _)| n).collect();
        if !exceeded.is_empty() {
            return Err(format!(
                "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
                pairs(&charged, &exceeded),
                pairs(&used, &exceeded),
                pairs(&hard, &exceeded)
            ));
        }
        Ok((!total.is_empty()).then_some(total))
    }
}

/// `pods=1,requests.cpu=500m`.
fn pairs(sums: &Sums, names: &[&String]) -> String {
    let pair = |name: &&String| {
        let amount: &dyn Display = sums.get(*name).map_or(&Quantity::ZERO, |amount| amount);
        format!("{name}={amount}")
    };
    names.iter().map(pair).collect::<Vec<_>>().join(",")
}
