//! MutatingWebhookConfiguration (admissionregistration.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::Value;

use super::webhook;
use crate::api::field::Errors;
use crate::api::resource::{Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for MutatingWebhookConfiguration {
    const META: KindMeta = KindMeta { singular: "mutatingwebhookconfiguration", ..webhook::META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        for hook in self.webhooks.iter_mut().flatten() {
            webhook::set_defaults(hook);
            hook.reinvocation_policy.get_or_insert_with(|| "Never".into());
        }
    }

    fn validate(&self, errors: &mut Errors) {
        webhook::validate(errors, self.webhooks.as_deref().unwrap_or_default());
    }

    fn columns() -> &'static [Column] {
        webhook::COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let count = self.webhooks.as_ref().map_or(0, Vec::len);
        vec![table::name(&self.metadata), count.into(), table::age(&self.metadata, now)]
    }
}
