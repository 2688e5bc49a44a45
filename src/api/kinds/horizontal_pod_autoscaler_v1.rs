//! HorizontalPodAutoscaler (autoscaling/v1): the autoscalers of v2 with one metric. What else they
//! have stands in annotations, as upstream does it. Stored as those.
//!
//! Upstream: pkg/apis/autoscaling/v1/conversion.go.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1::HorizontalPodAutoscaler;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler as Newer;
use serde_json::{Map, Value, json};

use super::horizontal_pod_autoscaler::DEFAULT_CPU_PERCENT;
use crate::api::field::{Errors, Path};
use crate::api::object::Object;
use crate::api::resource::{Kind, KindMeta, Shape};
use crate::api::table::Column;

/// Where the older form keeps parts of the newer one: annotation, and path in the object.
const KEPT: &[(&str, &str, &str)] = &[
    ("autoscaling.alpha.kubernetes.io/metrics", "spec", "metrics"),
    ("autoscaling.alpha.kubernetes.io/behavior", "spec", "behavior"),
    ("autoscaling.alpha.kubernetes.io/conditions", "status", "conditions"),
    ("autoscaling.alpha.kubernetes.io/current-metrics", "status", "currentMetrics"),
];
const METRICS: &str = KEPT[0].0;
const TARGET: &str = "targetCPUUtilizationPercentage";
const CURRENT: &str = "currentCPUUtilizationPercentage";

/// How autoscalers of this version are stored.
pub const SHAPE: Shape = Shape { to_stored, from_stored };

impl Kind for HorizontalPodAutoscaler {
    const META: KindMeta = Newer::META;

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = self.spec.get_or_insert_default();
        spec.min_replicas.get_or_insert(1);
        let others = self.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(METRICS));
        if !others {
            spec.target_cpu_utilization_percentage.get_or_insert(DEFAULT_CPU_PERCENT);
        }
        self.status.get_or_insert_default();
    }

    /// The rules are those of the newer form, and so are the paths of errors, as upstream's.
    fn validate(&self, errors: &mut Errors) {
        let annotations = self.metadata.annotations.iter().flatten();
        let path = Path::new("metadata");
        let path = path.child("annotations");
        for (key, text) in annotations.filter(|(key, _)| KEPT.iter().any(|(k, _, _)| k == key)) {
            if serde_json::from_str::<Value>(text).is_err() {
                errors.invalid(&path.key(key), text, "must be JSON");
            }
        }
        match newer(self) {
            Some(newer) => newer.validate(errors),
            None => errors.invalid(&path, (), "must hold metrics and behavior as v1 writes them"),
        }
    }

    fn validate_status_update(&self, old: &Self, errors: &mut Errors) {
        if let (Some(new), Some(old)) = (newer(self), newer(old)) {
            new.validate_status_update(&old, errors);
        }
    }

    fn warnings(&self) -> Vec<String> {
        newer(self).map(|newer| newer.warnings()).unwrap_or_default()
    }

    fn columns() -> &'static [Column] {
        Newer::columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        newer(self).unwrap_or_default().row(now)
    }
}

fn newer(older: &HorizontalPodAutoscaler) -> Option<Newer> {
    let mut object = Object::from_typed(older);
    to_stored(&mut object);
    object.set("apiVersion", "autoscaling/v2".into());
    object.typed().ok()
}

fn to_stored(object: &mut Object) {
    let cpu = take(object, "spec", TARGET);
    let now = take(object, "status", CURRENT);
    let mut metrics: Vec<Value> = cpu.iter().map(cpu_metric).collect();
    for (annotation, part, field) in KEPT {
        let Some(text) = take_annotation(object, annotation) else { continue };
        let Ok(mut kept) = serde_json::from_str::<Value>(&text) else { continue };
        match (*field, &mut kept) {
            ("metrics", Value::Array(list)) => {
                metrics.extend(list.drain(..).map(|metric| to_newer(metric, "target")));
            }
            ("currentMetrics", Value::Array(list)) => {
                let list = list.drain(..).map(|metric| to_newer(metric, "current"));
                let list: Value = list.collect();
                put(object, part, field, list);
            }
            ("metrics" | "currentMetrics", _) => {}
            _ => put(object, part, field, kept),
        }
    }
    if !metrics.is_empty() {
        put(object, "spec", "metrics", metrics.into());
    }
    let has_current = object.at(&["status", "currentMetrics"]).is_some();
    if let (Some(now), false) = (now, has_current) {
        let current = json!({"averageUtilization": now});
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", "current": current}});
        put(object, "status", "currentMetrics", json!([metric]));
    }
}

fn from_stored(object: &mut Object) {
    let metrics = take(object, "spec", "metrics");
    let metrics = metrics.as_ref().and_then(Value::as_array).cloned().unwrap_or_default();
    let is_cpu = |metric: &&Value| {
        metric["type"] == "Resource"
            && metric["resource"]["name"] == "cpu"
            && metric["resource"]["target"]["averageUtilization"].is_number()
    };
    let (cpu, others): (Vec<&Value>, Vec<&Value>) = metrics.iter().partition(is_cpu);
    if let Some(metric) = cpu.first() {
        let percent = metric["resource"]["target"]["averageUtilization"].clone();
        put(object, "spec", TARGET, percent);
    }
    let others: Vec<Value> = others.into_iter().cloned().map(to_older).collect();
    if !others.is_empty() {
        annotate(object, METRICS, &others.into());
    }
    let current = object.at(&["status", "currentMetrics"]).and_then(Value::as_array).cloned();
    let used = current.iter().flatten().find_map(|metric| {
        let resource = metric.get("resource").filter(|resource| resource["name"] == "cpu")?;
        resource.pointer("/current/averageUtilization").cloned()
    });
    if let Some(used) = used {
        put(object, "status", CURRENT, used);
    }
    for (annotation, part, field) in &KEPT[1..] {
        let Some(kept) = take(object, part, field) else { continue };
        let kept = match kept {
            Value::Array(list) if *field == "currentMetrics" => {
                list.into_iter().map(to_older).collect()
            }
            other => other,
        };
        annotate(object, annotation, &kept);
    }
}

fn cpu_metric(percent: &Value) -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": percent});
    json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
}

/// Where a field stands in v2, and its name in v1.
type Moved = (&'static [&'static str], &'static str);

/// Metrics as v1 writes them into annotations: source, path in the newer form, name in the older.
/// What is not here is called the same.
const METRIC_FIELDS: &[(&str, &[Moved])] = &[
    ("resource", RESOURCE_FIELDS),
    ("containerResource", RESOURCE_FIELDS),
    (
        "pods",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["target", "averageValue"], "targetAverageValue"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
    (
        "object",
        &[
            (&["describedObject"], "target"),
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "selector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "averageValue"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "averageValue"),
        ],
    ),
    (
        "external",
        &[
            (&["metric", "name"], "metricName"),
            (&["metric", "selector"], "metricSelector"),
            (&["target", "value"], "targetValue"),
            (&["target", "averageValue"], "targetAverageValue"),
            (&["current", "value"], "currentValue"),
            (&["current", "averageValue"], "currentAverageValue"),
        ],
    ),
];
const RESOURCE_FIELDS: &[(&[&str], &str)] = &[
    (&["target", "averageUtilization"], "targetAverageUtilization"),
    (&["target", "averageValue"], "targetAverageValue"),
    (&["current", "averageUtilization"], "currentAverageUtilization"),
    (&["current", "averageValue"], "currentAverageValue"),
];

/// A metric in the older form.
fn to_older(mut metric: Value) -> Value {
    for (source, fields) in METRIC_FIELDS {
        let Some(Value::Object(newer)) = metric.get_mut(*source).map(Value::take) else { continue };
        let mut older = Map::new();
        for (path, name) in *fields {
            let found = path[1..]
                .iter()
                .try_fold(newer.get(path[0]), |value, part| value.map(|value| value.get(*part)));
            if let Some(Some(value)) = found {
                older.insert((*name).into(), value.clone());
            }
        }
        let same = newer.into_iter().filter(|(field, _)| !is_moved(fields, field));
        older.extend(same);
        metric[*source] = older.into();
    }
    metric
}

/// A metric in the newer form; `side` is `target` in specs and `current` in statuses.
fn to_newer(mut metric: Value, side: &str) -> Value {
    for (source, fields) in METRIC_FIELDS {
        let Some(Value::Object(mut older)) = metric.get_mut(*source).map(Value::take) else {
            continue;
        };
        let mut newer = Map::new();
        for (path, name) in *fields {
            let other_side = matches!(path[0], "target" | "current") && path[0] != side;
            let Some(value) = (!other_side).then(|| older.remove(*name)).flatten() else {
                continue;
            };
            match path {
                [field, part] => {
                    let outer = newer.entry(*field).or_insert_with(|| json!({}));
                    outer[*part] = value;
                }
                path => {
                    newer.insert(path[0].into(), value);
                }
            }
        }
        if let Some(target) = newer.get_mut("target") {
            let types = [
                ("averageUtilization", "Utilization"),
                ("averageValue", "AverageValue"),
                ("value", "Value"),
            ];
            let found = types.iter().find(|(field, _)| target.get(*field).is_some());
            if let Some((_, type_)) = found {
                target["type"] = (*type_).into();
            }
        }
        newer.extend(older);
        metric[*source] = newer.into();
    }
    metric
}

fn is_moved(fields: &[(&[&str], &str)], field: &str) -> bool {
    fields.iter().any(|(path, _)| path[0] == field)
}

fn take(object: &mut Object, part: &str, field: &str) -> Option<Value> {
    let part = object.fields_mut().get_mut(part)?.as_object_mut()?;
    part.remove(field).filter(|value| !value.is_null())
}

fn put(object: &mut Object, part: &str, field: &str, value: Value) {
    let part = object.fields_mut().entry(part).or_insert_with(|| json!({}));
    if let Some(part) = part.as_object_mut() {
        part.insert(field.into(), value);
    }
}

fn take_annotation(object: &mut Object, key: &str) -> Option<String> {
    let annotations = object.meta_mut().get_mut("annotations")?.as_object_mut()?;
    let text = annotations.remove(key)?;
    if annotations.is_empty() {
        object.meta_mut().remove("annotations");
    }
    text.as_str().map(str::to_string)
}

fn annotate(object: &mut Object, key: &str, value: &Value) {
    let annotations = object.meta_mut().entry("annotations").or_insert_with(|| json!({}));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(key.into(), value.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_hold_the_same() {
        let newer = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "behavior": {"scaleDown": {"selectPolicy": "Disabled"}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu",
                        "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "S", "name": "s"},
                        "metric": {"name": "m", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "5"}}},
                    {"type": "External", "external": {"metric": {"name": "q"},
                        "target": {"type": "Value", "value": "7"}}},
                ]},
            "status": {"desiredReplicas": 1, "conditions": [{"type": "Able", "status": "True"}],
                "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu",
                    "current": {"averageUtilization": 20, "averageValue": "10m"}}}]}});
        let mut object = Object::from_value(newer.clone()).unwrap();
        from_stored(&mut object);
        assert_eq!(object.at(&["spec", TARGET]), Some(&json!(50)));
        assert_eq!(object.at(&["status", CURRENT]), Some(&json!(20)));
        assert_eq!(object.at(&["spec", "metrics"]), None);
        let text = object.annotations()[METRICS].clone();
        let kept: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            kept,
            json!([
                {"type": "Object", "object": {"target": {"kind": "S", "name": "s"},
                    "metricName": "m", "selector": {"matchLabels": {"a": "b"}},
                    "averageValue": "5"}},
                {"type": "External", "external": {"metricName": "q", "targetValue": "7"}},
            ])
        );
        to_stored(&mut object);
        assert_eq!(object.into_value(), newer);
    }
}
