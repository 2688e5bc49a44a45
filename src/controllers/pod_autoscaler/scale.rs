//! The number of replicas as it is read and written, and what the bounds alone say about it.

use k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec};
use serde_json::Value;

use super::{SCALE, zero};
use crate::api::{Object, ObjectKey};
use crate::client::Target;
use crate::client::cache::View;
use crate::controllers::ask::Answer;

/// Where the number is read and written.
pub fn target(
    view: &View,
    key: &ObjectKey,
    spec: &HorizontalPodAutoscalerSpec,
) -> Result<Target, String> {
    let reference = &spec.scale_target_ref;
    let api_version = reference.api_version.as_deref().filter(|version| !version.is_empty());
    let api_version = api_version.unwrap_or("v1");
    let found = view.resource(api_version, &reference.kind);
    let resource = found.filter(|resource| resource.namespaced).ok_or_else(|| {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        format!("no matches for kind {:?} in group {group:?}", reference.kind)
    })?;
    Ok(Target {
        resource,
        namespace: Some(key.namespace.clone()),
        name: Some(reference.name.clone()),
        subresource: Some(SCALE.into()),
    })
}

/// The scale of a target, as it was read.
pub struct Scale {
    pub object: Object,
    pub replicas: i32,
    /// Text; what has none cannot be measured.
    pub selector: String,
}

impl Scale {
    pub fn read(answer: &Answer) -> Result<Scale, String> {
        let raws = answer.result.as_ref().map_err(ToString::to_string)?;
        let raw = raws.first().ok_or("there is no scale")?;
        let object = raw.object().map_err(|error| error.to_string())?;
        let replicas = object.at(&["spec", "replicas"]).and_then(Value::as_i64).unwrap_or(0);
        let selector = object.at(&["status", "selector"]).and_then(Value::as_str);
        let selector = selector.unwrap_or_default().to_string();
        let replicas = i32::try_from(replicas).unwrap_or(i32::MAX);
        Ok(Scale { object, replicas, selector })
    }

    /// Whether the present number is one that metrics decide about.
    pub fn is_by_metrics(&self, autoscaler: &HorizontalPodAutoscaler) -> bool {
        let spec = autoscaler.spec.as_ref();
        spec.is_some_and(|spec| Wanted::without_metrics(self, autoscaler, spec).is_none())
    }
}

pub fn least(spec: &HorizontalPodAutoscalerSpec) -> i32 {
    spec.min_replicas.unwrap_or(1)
}

/// How many replicas there should be, and why.
#[derive(Default)]
pub struct Wanted {
    pub replicas: i32,
    pub why: String,
    /// The target is at zero replicas: it was switched off.
    pub is_off: bool,
    /// It was scaled to zero, and stays there until a request comes.
    pub is_at_zero: bool,
}

impl Wanted {
    /// What the bounds alone say; `None` where there are as many as may be.
    pub fn without_metrics(
        scale: &Scale,
        autoscaler: &HorizontalPodAutoscaler,
        spec: &HorizontalPodAutoscalerSpec,
    ) -> Option<Wanted> {
        let (now, least, most) = (scale.replicas, least(spec), spec.max_replicas);
        let beyond = |replicas: i32, what: &str| {
            let why = format!("Current number of replicas {what}");
            Some(Wanted { replicas, why, ..Wanted::default() })
        };
        match now {
            0 if !zero::is_at_zero(autoscaler) => {
                Some(Wanted { is_off: true, ..Wanted::default() })
            }
            0 if least == 0 => Some(Wanted { is_at_zero: true, ..Wanted::default() }),
            _ if now > most => beyond(most, "above Spec.MaxReplicas"),
            _ if now < least => beyond(least, "below Spec.MinReplicas"),
            _ => None,
        }
    }
}
