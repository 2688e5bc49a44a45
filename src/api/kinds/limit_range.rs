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
            checks::qualified_name(errors, &path.key(name), name);
            match Quantity::parse(&amount.0) {
                Ok(found) if found.value() >= 0 => {}
                Ok(_) => {
                    errors.invalid(&path.key(name), &amount.0, "must be greater than or equal to 0")
                }
                Err(error) => errors.invalid(&path.key(name), &amount.0, &error.to_string()),
            }
        }
    }
    // Each is at most the next.
    let order = [
        ("min", &item.min),
        ("defaultRequest", &item.default_request),
        ("default", &item.default),
        ("max", &item.max),
    ];
    for (i, (low_name, low)) in order.iter().enumerate() {
        for (high_name, high) in &order[i + 1..] {
            for (name, amount) in low.iter().flatten() {
                let Some(other) = high.as_ref().and_then(|high| high.get(name)) else { continue };
                let parse = |q: &RawQuantity| Quantity::parse(&q.0).ok();
                if let (Some(a), Some(b)) = (parse(amount), parse(other))
                    && a.cmp(&b).is_gt()
                {
                    let detail = format!(
                        "{low_name} value {} is greater than {high_name} value {}",
                        amount.0, other.0
                    );
                    let path = path.child(low_name);
                    errors.invalid(&path.key(name), &amount.0, &detail);
                }
            }
        }
    }
}
