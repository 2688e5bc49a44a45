//! Secret (core/v1).

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

use super::checks;
use super::config_map::DATA_MAX_BYTES;
use crate::api::field::{Errors, Path};
use crate::api::resource::{DEFAULT_META, Kind, KindMeta};
use crate::api::table::{self, Column};

const OPAQUE: &str = "Opaque";
const FROZEN: &str = "field is immutable when `immutable` is set";

impl Kind for Secret {
    const META: KindMeta = KindMeta { singular: "secret", selectable: &["type"], ..DEFAULT_META };

    /// `stringData` is a way to write only: it goes into `data` and is never read back.
    fn set_defaults(&mut self, _old: Option<&Self>) {
        if let Some(texts) = self.string_data.take() {
            let data = self.data.get_or_insert_default();
            data.extend(texts.into_iter().map(|(k, v)| (k, ByteString(v.into_bytes()))));
        }
        if self.type_.as_deref().unwrap_or_default().is_empty() {
            self.type_ = Some(OPAQUE.into());
        }
    }

    /// An update that names no type keeps the old one.
    fn prepare_update(&mut self, old: &Self) {
        if self.type_.as_deref().unwrap_or_default().is_empty() {
            self.type_.clone_from(&old.type_);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let path = Path::new("data");
        let mut bytes = 0;
        for (key, value) in self.data.iter().flatten() {
            checks::config_map_key(errors, &path.key(key), key);
            bytes += value.0.len();
        }
        if bytes > DATA_MAX_BYTES {
            errors.too_long(&path, DATA_MAX_BYTES);
        }
        validate_type(self, errors);
    }

    fn validate_update(&self, old: &Self, errors: &mut Errors) {
        checks::immutable(errors, &Path::new("type"), &self.type_, &old.type_);
        if old.immutable != Some(true) {
            return;
        }
        if self.immutable != Some(true) {
            errors.forbidden(&Path::new("immutable"), FROZEN);
        }
        if self.data.as_ref().filter(|d| !d.is_empty())
            != old.data.as_ref().filter(|d| !d.is_empty())
        {
            errors.forbidden(&Path::new("data"), FROZEN);
        }
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            Column::new("Type", "string", "Used to facilitate programmatic handling of the data."),
            Column::new("Data", "string", "The number of keys."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        vec![
            table::name(&self.metadata),
            self.type_.clone().unwrap_or_default().into(),
            self.data.as_ref().map_or(0, |d| d.len()).into(),
            table::age(&self.metadata, now),
        ]
    }

    fn field(&self, field: &str) -> String {
        match field {
            "type" => self.type_.clone().unwrap_or_default(),
            _ => String::new(),
        }
    }
}

/// What the well-known types ask of a Secret's content.
fn validate_type(secret: &Secret, errors: &mut Errors) {
    let path = Path::new("data");
    let has = |key: &str| secret.data.as_ref().is_some_and(|d| d.contains_key(key));
    let require = |errors: &mut Errors, key: &str| {
        if !has(key) {
            errors.required(&path.key(key), "");
        }
    };
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let key = "kubernetes.io/service-account.name";
            let account = secret.metadata.annotations.as_ref().and_then(|a| a.get(key));
            if account.is_none_or(String::is_empty) {
                let metadata = Path::new("metadata");
                errors.required(&metadata.child("annotations").key(key), "");
            }
        }
        "kubernetes.io/dockercfg" => require_json(secret, errors, ".dockercfg"),
        "kubernetes.io/dockerconfigjson" => require_json(secret, errors, ".dockerconfigjson"),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            require(errors, "username");
            require(errors, "password");
        }
        "kubernetes.io/ssh-auth" => {
            let key = secret.data.as_ref().and_then(|data| data.get("ssh-privatekey"));
            if key.is_none_or(|key| key.0.is_empty()) {
                errors.required(&path.key("ssh-privatekey"), "");
            }
        }
        "kubernetes.io/tls" => {
            require(errors, "tls.crt");
            require(errors, "tls.key");
        }
        _ => {}
    }
}

fn require_json(secret: &Secret, errors: &mut Errors, key: &str) {
    let path = Path::new("data");
    let Some(bytes) = secret.data.as_ref().and_then(|d| d.get(key)) else {
        return errors.required(&path.key(key), "");
    };
    // The parser's own message could quote the content.
    if serde_json::from_slice::<Option<serde_json::Map<String, Value>>>(&bytes.0).is_err() {
        errors.invalid(&path.key(key), "<secret contents redacted>", "must be a JSON object");
    }
}
