//! Event (events.k8s.io/v1): the Events of core/v1 ([`super::event`]) with newer names of fields and
//! stricter rules. Stored as those.
//!
//! Upstream: pkg/apis/events/v1/conversion.go, pkg/apis/core/validation/events.go.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use k8s_openapi::api::events::v1::Event;
use serde_json::{Value, json};

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::object::Object;
use crate::api::resource::{DEFAULT_META, Kind, KindMeta, Shape};
use crate::api::table::Column;

/// Fields by their names here and in core/v1; the others are called the same.
const RENAMED: &[(&str, &str)] = &[
    ("deprecatedCount", "count"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedSource", "source"),
    ("note", "message"),
    ("regarding", "involvedObject"),
    ("reportingController", "reportingComponent"),
];
/// What a series counts from.
const LEAST_SERIES: i32 = 2;

/// How Events of this group are stored.
pub const SHAPE: Shape = Shape { to_stored, from_stored };

fn to_stored(object: &mut Object) {
    for (new, old) in RENAMED {
        rename(object, new, old);
    }
    // Required there.
    object.fields_mut().entry("involvedObject").or_insert_with(|| json!({}));
}

fn from_stored(object: &mut Object) {
    for (new, old) in RENAMED {
        rename(object, old, new);
    }
}

fn rename(object: &mut Object, from: &str, to: &str) {
    if let Some(value) = object.remove(from) {
        object.set(to, value);
    }
}

/// The same Event as core/v1 has it.
fn core_form(event: &Event) -> CoreEvent {
    let mut object = Object::from_typed(event);
    to_stored(&mut object);
    object.set("apiVersion", "v1".into());
    object.typed().unwrap_or_default()
}

impl Kind for Event {
    const META: KindMeta = KindMeta {
        singular: "event",
        short_names: &["ev"],
        selectable: &[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ],
        ..DEFAULT_META
    };

    fn validate(&self, errors: &mut Errors) {
        core_form(self).validate(errors);
    }

    fn validate_create(&self, errors: &mut Errors) {
        validate_series(self, errors);
        if self.event_time.is_none() {
            errors.required(&Path::new("eventTime"), "");
        }
        let type_ = self.type_.as_deref().unwrap_or_default();
        if !matches!(type_, "Normal" | "Warning") {
            errors.invalid(&Path::new("type"), "", &format!("has invalid value: {type_}"));
        }
        let source = self.deprecated_source.clone().unwrap_or_default();
        let has = |text: Option<String>| text.is_some_and(|text| !text.is_empty());
        // The names are those of core/v1, as upstream's.
        let deprecated = [
            ("firstTimestamp", self.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", self.deprecated_last_timestamp.is_some()),
            ("count", self.deprecated_count.is_some_and(|count| count != 0)),
            ("source", has(source.component) || has(source.host)),
        ];
        for (field, _) in deprecated.into_iter().filter(|(_, set)| *set) {
            errors.invalid(&Path::new(field), "", "needs to be unset");
        }
    }

    /// All but metadata and the series stays as it was.
    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        if self.series != old.series {
            validate_series(self, errors);
        }
        let fields = |event: &Event| Object::from_typed(&core_form(event)).fields().clone();
        let (new, old) = (fields(self), fields(old));
        let names: std::collections::BTreeSet<&String> = new.keys().chain(old.keys()).collect();
        for name in names.into_iter().filter(|name| !matches!(&***name, "metadata" | "series")) {
            let of = |fields: &serde_json::Map<String, Value>| fields.get(name).cloned();
            checks::immutable(errors, &Path::new(name), &of(&new), &of(&old));
        }
    }

    fn columns() -> &'static [Column] {
        CoreEvent::columns()
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        core_form(self).row(now)
    }

    fn field(&self, field: &str) -> String {
        let event = core_form(self);
        match (field, field.strip_prefix("regarding.")) {
            (_, Some(part)) => event.field(&format!("involvedObject.{part}")),
            ("reportingController", _) => event.field("reportingComponent"),
            _ => event.field(field),
        }
    }
}

fn validate_series(event: &Event, errors: &mut Errors) {
    let Some(series) = &event.series else { return };
    let path = Path::new("series");
    if series.count < LEAST_SERIES {
        let detail = format!("should be at least {LEAST_SERIES}");
        errors.invalid(&path.child("count"), "", &detail);
    }
}
