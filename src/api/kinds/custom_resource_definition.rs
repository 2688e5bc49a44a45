//! CustomResourceDefinition (apiextensions.k8s.io/v1). What becomes of one is in
//! [`crate::api::custom`].

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde_json::Value;

use super::{checks, webhook};
use crate::api::custom::definition::webhook_client;
use crate::api::custom::names::is_established;
use crate::api::custom::{cel_rules, structural};
use crate::api::field::{Errors, Path};
use crate::api::names::{is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, report};
use crate::api::resource::{DEFAULT_META, Generation, Kind, KindMeta};
use crate::api::table::{self, Column};

const STRATEGIES: &[&str] = &["None", "Webhook"];
const SCOPES: &[&str] = &["Cluster", "Namespaced"];
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
/// Says where a change to a group of the Kubernetes project was approved.
const APPROVAL: &str = "api-approved.kubernetes.io";

impl Kind for CustomResourceDefinition {
    const META: KindMeta = KindMeta {
        singular: "customresourcedefinition",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        status: true,
        generation: Generation::Spec,
        unconditional_update: false,
        ..DEFAULT_META
    };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        let spec = &mut self.spec;
        let names = &mut spec.names;
        if names.singular.as_deref().unwrap_or_default().is_empty() {
            names.singular = Some(names.kind.to_lowercase());
        }
        if names.list_kind.as_deref().unwrap_or_default().is_empty() && !names.kind.is_empty() {
            names.list_kind = Some(format!("{}List", names.kind));
        }
        let conversion = spec.conversion.get_or_insert_default();
        if conversion.strategy.is_empty() {
            conversion.strategy = "None".into();
        }
        let client = conversion.webhook.as_mut().and_then(|hook| hook.client_config.as_mut());
        if let Some(service) = client.and_then(|client| client.service.as_mut()) {
            service.port.get_or_insert(webhook::SERVICE_PORT);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let wanted = format!("{}.{}", self.spec.names.plural, self.spec.group);
        let name = self.metadata.name.as_deref().unwrap_or_default();
        if name != wanted {
            let detail = "must be spec.names.plural+\".\"+spec.group";
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
        let spec = Path::new("spec");
        self.validate_group(&spec, errors);
        checks::one_of(errors, &spec.child("scope"), &self.spec.scope, SCOPES);
        validate_names(&self.spec.names, &spec.child("names"), errors);
        if self.spec.preserve_unknown_fields == Some(true) {
            let detail = "must be false in order to use defaults in the schema";
            errors.invalid(&spec.child("preserveUnknownFields"), true, detail);
        }
        if let Some(conversion) = &self.spec.conversion {
            validate_conversion(conversion, &spec.child("conversion"), errors);
        }
        self.validate_versions(&spec.child("versions"), errors);
    }

    fn validate_create(&self, errors: &mut Errors) {
        self.validate_costs(None, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        self.validate_costs(Some(old), errors);
        let spec = Path::new("spec");
        checks::immutable(errors, &spec.child("group"), &self.spec.group, &old.spec.group);
        if is_established(old) {
            let names = spec.child("names");
            let (new, old) = (&self.spec, &old.spec);
            checks::immutable(errors, &spec.child("scope"), &new.scope, &old.scope);
            checks::immutable(errors, &names.child("kind"), &new.names.kind, &old.names.kind);
        }
        let stored = old.status.iter().flat_map(|status| status.stored_versions.iter().flatten());
        let status = Path::new("status");
        let at = status.child("storedVersions");
        for (index, version) in stored.into_iter().enumerate() {
            if !self.spec.versions.iter().any(|known| known.name == *version) {
                let detail = format!(
                    "missing from spec.versions; {version} was previously a storage version, and \
                     must remain in spec.versions until a storage migration ensures no data \
                     remains persisted in {version} and removes {version} from \
                     status.storedVersions"
                );
                errors.invalid(&at.index(index), version, &detail);
            }
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new(
                "Created At",
                "date",
                "When the object was created, on the server's clock.",
            ),
        ];
        COLUMNS
    }

    fn row(&self, _now: Timestamp) -> Vec<Value> {
        let created = self.metadata.creation_timestamp.as_ref();
        let text = created.map(|time| time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        vec![table::name(&self.metadata), text.unwrap_or_default().into()]
    }
}

trait Parts {
    /// What rules may cost; of schemas that are there already it is not asked.
    fn validate_costs(&self, old: Option<&CustomResourceDefinition>, errors: &mut Errors);
    fn validate_group(&self, spec: &Path, errors: &mut Errors);
    fn validate_versions(&self, path: &Path, errors: &mut Errors);
}

impl Parts for CustomResourceDefinition {
    fn validate_costs(&self, old: Option<&CustomResourceDefinition>, errors: &mut Errors) {
        if !errors.is_empty() {
            return;
        }
        let (spec, before) = (Path::new("spec"), old.map_or(&[][..], |old| &old.spec.versions));
        let versions = spec.child("versions");
        for (index, version) in self.spec.versions.iter().enumerate() {
            if before.iter().any(|known| known.schema == version.schema) {
                continue;
            }
            let schema = version.schema.as_ref();
            let at = versions.index(index);
            let at = at.child("schema");
            if let Some(props) = schema.and_then(|schema| schema.open_api_v3_schema.as_ref()) {
                cel_rules::check_costs(props, &at.child("openAPIV3Schema"), errors);
            }
        }
    }

    fn validate_group(&self, spec: &Path, errors: &mut Errors) {
        let group = self.spec.group.as_str();
        let at = spec.child("group");
        if group.is_empty() {
            errors.required(&at, "");
            return;
        }
        report(errors, &at, group, is_dns1123_subdomain(group));
        if !group.contains('.') {
            errors.invalid(&at, group, "should be a domain with at least one dot");
        }
        let is_protected = ["k8s.io", "kubernetes.io"].iter().any(|domain| {
            group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        });
        let annotations = self.metadata.annotations.iter().flatten();
        let approved =
            annotations.into_iter().any(|(key, text)| key == APPROVAL && !text.is_empty());
        if is_protected && !approved {
            let metadata = Path::new("metadata");
            let annotations = metadata.child("annotations");
            let detail = format!(
                "protected groups must have approval annotation {APPROVAL:?}, see \
                 https://github.com/kubernetes/enhancements/pull/1111"
            );
            errors.required(&annotations.key(APPROVAL), &detail);
        }
    }

    fn validate_versions(&self, path: &Path, errors: &mut Errors) {
        let versions = &self.spec.versions;
        let names: Vec<&str> = versions.iter().map(|version| version.name.as_str()).collect();
        if versions.iter().filter(|version| version.storage).count() != 1 {
            let detail = "must have exactly one version marked as storage version";
            errors.invalid(path, &names, detail);
        }
        for (index, version) in versions.iter().enumerate() {
            let at = path.index(index);
            report(errors, &at.child("name"), &version.name, is_dns1035_label(&version.name));
            if names[..index].contains(&version.name.as_str()) {
                errors.duplicate(&at.child("name"), &version.name);
            }
            validate_version(version, &at, errors);
        }
    }
}

/// With upstream's paths, which are those of its internal form.
fn validate_conversion(
    conversion: &ext::CustomResourceConversion,
    path: &Path,
    errors: &mut Errors,
) {
    let strategy = conversion.strategy.as_str();
    checks::one_of(errors, &path.child("strategy"), strategy, STRATEGIES);
    let webhook = conversion.webhook.as_ref();
    let client = webhook.and_then(|webhook| webhook.client_config.as_ref());
    let versions = webhook.map(|hook| hook.conversion_review_versions.as_slice());
    let at = path.child("webhookClientConfig");
    let versions_at = path.child("conversionReviewVersions");
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if client.is_some() {
            errors.forbidden(&at, detail);
        }
        if versions.is_some_and(|versions| !versions.is_empty()) {
            errors.forbidden(&versions_at, detail);
        }
        return;
    }
    match client {
        Some(client) => webhook::validate_client(errors, &at, &webhook_client(client)),
        None => errors.required(&at, "required when strategy is set to Webhook"),
    }
    webhook::validate_versions(errors, &versions_at, versions.unwrap_or_default());
}

fn validate_names(names: &ext::CustomResourceDefinitionNames, path: &Path, errors: &mut Errors) {
    let words = [("plural", Some(&names.plural)), ("singular", names.singular.as_ref())];
    for (field, word) in words {
        let word = word.map(String::as_str).unwrap_or_default();
        if word.is_empty() {
            errors.required(&path.child(field), "");
        } else {
            report(errors, &path.child(field), word, is_dns1035_label(word));
        }
    }
    let kinds = [("kind", Some(&names.kind)), ("listKind", names.list_kind.as_ref())];
    for (field, kind) in kinds {
        let kind = kind.map(String::as_str).unwrap_or_default();
        if kind.is_empty() {
            errors.required(&path.child(field), "");
        } else {
            let messages = is_dns1035_label(&kind.to_lowercase());
            report(errors, &path.child(field), kind, messages);
        }
    }
    if names.list_kind.as_ref() == Some(&names.kind) {
        let detail = "kind and listKind may not be the same";
        errors.invalid(&path.child("listKind"), &names.kind, detail);
    }
    let lists = [("shortNames", &names.short_names), ("categories", &names.categories)];
    for (field, list) in lists {
        let at = path.child(field);
        for (index, word) in list.iter().flatten().enumerate() {
            report(errors, &at.index(index), word, is_dns1123_label(word));
        }
    }
}

fn validate_version(
    version: &ext::CustomResourceDefinitionVersion,
    path: &Path,
    errors: &mut Errors,
) {
    let at = path.child("schema");
    let at = at.child("openAPIV3Schema");
    match version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) {
        None => errors.required(&at, "schemas are required"),
        Some(schema) => structural::check(schema, &at, errors),
    }
    let at = path.child("additionalPrinterColumns");
    for (index, column) in version.additional_printer_columns.iter().flatten().enumerate() {
        let at = at.index(index);
        if column.name.is_empty() {
            errors.required(&at.child("name"), "");
        }
        checks::one_of(errors, &at.child("type"), &column.type_, COLUMN_TYPES);
        is_path(&column.json_path, &at.child("jsonPath"), errors);
        if crate::api::jsonpath::Template::parse(&column.json_path).is_err() {
            errors.invalid(&at.child("jsonPath"), &column.json_path, "must be a JSONPath");
        }
    }
    let at = path.child("selectableFields");
    for (index, field) in version.selectable_fields.iter().flatten().enumerate() {
        is_path(&field.json_path, &at.index(index).child("jsonPath"), errors);
    }
    let scale = version.subresources.as_ref().and_then(|parts| parts.scale.as_ref());
    if let Some(scale) = scale {
        let at = path.child("subresources");
        let at = at.child("scale");
        let paths = [
            ("specReplicasPath", Some(&scale.spec_replicas_path), ".spec."),
            ("statusReplicasPath", Some(&scale.status_replicas_path), ".status."),
            ("labelSelectorPath", scale.label_selector_path.as_ref(), "."),
        ];
        for (field, text, start) in paths {
            let Some(text) = text else { continue };
            let at = at.child(field);
            if text.is_empty() && field != "labelSelectorPath" {
                errors.required(&at, "");
            } else if !text.is_empty() && !text.starts_with(start) {
                let detail = format!("should be a json path under {}", start.trim_end_matches('.'));
                errors.invalid(&at, text, &detail);
            }
        }
    }
}

fn is_path(text: &str, path: &Path, errors: &mut Errors) {
    if text.is_empty() {
        errors.required(path, "");
    } else if !text.starts_with(['.', '{', '$']) {
        errors.invalid(path, text, "must be a JSONPath that begins with a dot");
    }
}
