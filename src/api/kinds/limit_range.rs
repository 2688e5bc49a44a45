//! LimitRange (v1).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as RawQuantity;
use serde_json::Value;

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::quantity::Quantity;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

const CLAIM: &str = "PersistentVolumeClaim";

type Amounts = BTreeMap<String, RawQuantity>;

impl Kind for LimitRange {
    const META: KindMeta =
        KindMeta { singular: "limitrange", short_names: &["limits"], ..DEFAULT_META };

    /// Of containers: limits default to the most, requests to the limits
    /// (pkg/apis/core/v1/defaults.go).
    fn set_defaults(&mut self, _old: Option<&Self>) {
        for item in self.spec.iter_mut().flat_map(|spec| spec.limits.iter_mut()) {
            if item.type_ != "Container" {
                continue;
            }
            fill(item.default.get_or_insert_default(), item.max.as_ref());
            fill(item.default_request.get_or_insert_default(), item.default.as_ref());
            fill(item.default_request.get_or_insert_default(), item.min.as_ref());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("spec");
        let path = path.child("limits");
        let mut seen = std::collections::BTreeSet::new();
        for (i, item) in self.spec.iter().flat_map(|spec| spec.limits.iter()).enumerate() {
            let path = path.index(i);
            if item.type_.is_empty() {
                errors.required(&path.child("type"), "");
            }
            if !seen.insert(item.type_.clone()) {
                errors.duplicate(&path.child("type"), &item.type_);
            }
            validate_item(errors, &path, item);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[table::NAME, Column::new("Created At", "date", "When the object was created.")];
        COLUMNS
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let created = self.metadata.creation_timestamp.as_ref();
        let created = created.map(|t| t.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        vec![table::name(&self.metadata), created.unwrap_or_default().into()]
    }
}

fn fill(into: &mut Amounts, from: Option<&Amounts>) {
    for (name, amount) in from.into_iter().flatten() {
        into.entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

fn validate_item(errors: &mut Errors, path: &Path, item: &LimitRangeItem) {
    let is_pod = item.type_ == "Pod";
    for (field, amounts) in [("default", &item.default), ("defaultRequest", &item.default_request)]
    {
        if is_pod && amounts.as_ref().is_some_and(|amounts| !amounts.is_empty()) {
            errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
        }
    }
    let lists = [
        ("min", &item.min),
        ("max", &item.max),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    for (field, amounts) in lists {
        let path = path.child(field);
        for (name, amount) in amounts.iter().flatten() {
            validate_name(errors, &path.key(name), &item.type_, name);
            match Quantity::parse(&amount.0) {
                Ok(found) if found.sign() >= 0 => {}
                Ok(_) => {
                    errors.invalid(&path.key(name), &amount.0, "must be greater than or equal to 0")
                }
                Err(error) => errors.invalid(&path.key(name), &amount.0, &error.to_string()),
            }
        }
    }
    let has_storage = |amounts: &Option<Amounts>| {
        amounts.as_ref().is_some_and(|amounts| amounts.contains_key("storage"))
    };
    if item.type_ == CLAIM && !has_storage(&item.min) && !has_storage(&item.max) {
        let detail =
            "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), detail);
    }
    let names = lists.iter().flat_map(|(_, amounts)| amounts.iter().flatten());
    let names: std::collections::BTreeSet<&String> = names.map(|(name, _)| name).collect();
    for name in names {
        validate_order(errors, path, item, name);
    }
}

/// What may be limited: of containers and pods what they may ask for, of claims their storage.
fn validate_name(errors: &mut Errors, path: &Path, type_: &str, name: &str) {
    checks::qualified_name(errors, path, name);
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage");
    if matches!(type_, "Pod" | "Container")
        && !name.contains('/')
        && !standard
        && !name.starts_with("hugepages-")
    {
        errors.invalid(path, name, "must be a standard limit type or fully qualified");
    }
}

/// Each of the amounts of a resource is at most the next (ValidateLimitRange).
fn validate_order(errors: &mut Errors, path: &Path, item: &LimitRangeItem, name: &str) {
    let amount = |amounts: &Option<Amounts>| {
        let text = amounts.as_ref()?.get(name)?;
        Some((text.0.clone(), Quantity::parse(&text.0).ok()?))
    };
    let (min, max) = (amount(&item.min), amount(&item.max));
    let (default, request) = (amount(&item.default), amount(&item.default_request));
    // The lower and the higher, and which of them is told to be wrong.
    let order = [
        (("min", &min), ("max", &max), "min", 0),
        (("min", &min), ("default request", &request), "defaultRequest", 1),
        (("default request", &request), ("max", &max), "defaultRequest", 0),
        (("default request", &request), ("default limit", &default), "defaultRequest", 0),
        (("min", &min), ("default", &default), "default", 0),
        (("default", &default), ("max", &max), "default", 1),
    ];
    for ((low_name, low), (high_name, high), field, shown) in order {
        let (Some(low), Some(high)) = (low, high) else { continue };
        if low.1 > high.1 {
            let (low, high) = (&low.0, &high.0);
            let detail = format!("{low_name} value {low} is greater than {high_name} value {high}");
            errors.invalid(&path.child(field).key(name), [low, high][shown], &detail);
        }
    }
    let at = path.child("maxLimitRequestRatio");
    let Some((text, ratio)) = amount(&item.max_limit_request_ratio) else { return };
    if ratio < Quantity::from_value(1) {
        errors.invalid(&at.key(name), &text, &format!("ratio {text} is less than 1"));
    }
    if let (Some(min), Some(max)) = (min, max) {
        let most = max.1.ratio(min.1);
        if ratio.ratio(Quantity::from_value(1)) > most {
            let detail = format!("ratio {text} is greater than max/min = {most:.6}");
            errors.invalid(&at.key(name), &text, &detail);
        }
    }
}
