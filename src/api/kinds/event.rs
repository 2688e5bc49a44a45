//! Event (core/v1). The same objects are Events of events.k8s.io ([`super::event_v1`]); they are
//! stored in the form that is here.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use serde_json::Value;

use super::checks;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

/// Longest reason, action and reporting instance, in bytes.
const SHORT_MAX_BYTES: usize = 128;
/// Longest message, in bytes.
const MESSAGE_MAX_BYTES: usize = 1024;

impl Kind for Event {
    const META: KindMeta = KindMeta {
        singular: "event",
        short_names: &["ev"],
        selectable: &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ..DEFAULT_META
    };

    fn validate(&self, errors: &mut Errors) {
        let namespace = self.metadata.namespace.as_deref().unwrap_or_default();
        let about = self.involved_object.namespace.as_deref().unwrap_or_default();
        // Events about cluster-scoped objects live in `default`; those of the newer form, with an
        // eventTime, in `kube-system` too.
        let fits = match (about, &self.event_time) {
            ("", None) => matches!(namespace, "" | "default"),
            ("", Some(_)) => matches!(namespace, "default" | "kube-system"),
            (about, None) => about == namespace,
            (_, Some(_)) => true,
        };
        if !fits {
            let object = Path::new("involvedObject");
            errors.invalid(&object.child("namespace"), about, "does not match event.namespace");
        }
        if self.event_time.is_some() {
            validate_new_form(self, errors);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            Column::new("Last Seen", "string", "When the event was last seen."),
            Column::new("Type", "string", "Normal, Warning; new types may be added."),
            Column::new("Reason", "string", "Why the object is in its state, in one word."),
            Column::new("Object", "string", "The object that the event is about."),
            Column::wide("Subobject", "string", "The part of the object, as a field path."),
            Column::wide("Source", "string", "The component that reports the event."),
            Column::new("Message", "string", "What happened, for people."),
            Column::wide("First Seen", "string", "When the event was first seen."),
            Column::wide("Count", "string", "How many times the event was seen."),
            Column { priority: 1, ..table::NAME },
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let first = match &self.first_timestamp {
            Some(time) => table::since(Some(time), now),
            None => since_micro(self.event_time.as_ref(), now),
        };
        let mut last = match &self.last_timestamp {
            Some(time) => table::since(Some(time), now),
            None => first.clone(),
        };
        // Events of the newer form that happened once have no count.
        let mut count = self.count.filter(|c| *c != 0).unwrap_or(1);
        if let Some(series) = &self.series {
            last = since_micro(series.last_observed_time.as_ref(), now);
            count = series.count.unwrap_or_default();
        }
        let message = self.message.as_deref().unwrap_or_default().trim();
        vec![
            last.into(),
            self.type_.clone().unwrap_or_default().into(),
            self.reason.clone().unwrap_or_default().into(),
            target(self).into(),
            self.involved_object.field_path.clone().unwrap_or_default().into(),
            source(self).into(),
            message.into(),
            first.into(),
            count.into(),
            table::name(&self.metadata),
        ]
    }

    fn field(&self, field: &str) -> String {
        let object = &self.involved_object;
        let component = self.reporting_component.clone();
        let value = match field {
            "involvedObject.kind" => object.kind.clone(),
            "involvedObject.namespace" => object.namespace.clone(),
            "involvedObject.name" => object.name.clone(),
            "involvedObject.uid" => object.uid.clone(),
            "involvedObject.apiVersion" => object.api_version.clone(),
            "involvedObject.resourceVersion" => object.resource_version.clone(),
            "involvedObject.fieldPath" => object.field_path.clone(),
            "reason" => self.reason.clone(),
            "reportingComponent" => component,
            "source" => {
                let source = self.source.as_ref().and_then(|s| s.component.clone());
                source.filter(|s| !s.is_empty()).or(component)
            }
            "type" => self.type_.clone(),
            _ => None,
        };
        value.unwrap_or_default()
    }
}

/// What the newer form (with an eventTime) must have.
fn validate_new_form(event: &Event, errors: &mut Errors) {
    let component = event.reporting_component.as_deref().unwrap_or_default();
    // Upstream names the field as the newer form does.
    let path = Path::new("reportingController");
    if component.is_empty() {
        errors.required(&path, "");
    }
    checks::qualified_name(errors, &path, component);
    let short = [
        ("reportingInstance", &event.reporting_instance),
        ("action", &event.action),
        ("reason", &event.reason),
    ];
    for (name, value) in short {
        let value = value.as_deref().unwrap_or_default();
        if value.is_empty() {
            errors.required(&Path::new(name), "");
        }
        if value.len() > SHORT_MAX_BYTES {
            let detail = format!("can have at most {SHORT_MAX_BYTES} characters");
            errors.invalid(&Path::new(name), "", &detail);
        }
    }
    if event.message.as_ref().is_some_and(|m| m.len() > MESSAGE_MAX_BYTES) {
        let detail = format!("can have at most {MESSAGE_MAX_BYTES} characters");
        errors.invalid(&Path::new("message"), "", &detail);
    }
}

/// `pod/web-1`.
fn target(event: &Event) -> String {
    let kind = event.involved_object.kind.as_deref().unwrap_or_default().to_lowercase();
    match event.involved_object.name.as_deref() {
        None | Some("") => kind,
        Some(name) => format!("{kind}/{name}"),
    }
}

/// `scheduler` or `node-agent, node-1`.
fn source(event: &Event) -> String {
    let old = event.source.clone().unwrap_or_default();
    let full = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    let component = full(&old.component).or_else(|| full(&event.reporting_component));
    let instance = full(&old.host).or_else(|| full(&event.reporting_instance));
    let component = component.unwrap_or_default();
    match instance {
        None => component,
        Some(instance) => format!("{component}, {instance}"),
    }
}

fn since_micro(time: Option<&MicroTime>, now: Timestamp) -> String {
    table::since(time.map(|t| Time(t.0)).as_ref(), now)
}
