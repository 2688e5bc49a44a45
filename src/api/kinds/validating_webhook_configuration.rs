//! ValidatingWebhookConfiguration (admissionregistration.k8s.io/v1).

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhook, ValidatingWebhookConfiguration,
};
use serde_json::Value;

use super::webhook;
use crate::api::field::Errors;
use crate::api::resource::{Kind, KindMeta};
use crate::api::table::{self, Column};

impl Kind for ValidatingWebhookConfiguration {
    const META: KindMeta = KindMeta { singular: "validatingwebhookconfiguration", ..webhook::META };

    fn set_defaults(&mut self, _old: Option<&Self>) {
        for hook in self.webhooks.iter_mut().flatten() {
            let mut defaulted = webhook::of_validating(std::mem::take(hook));
            webhook::set_defaults(&mut defaulted);
            *hook = webhook::to_validating(defaulted);
        }
    }

    fn validate(&self, errors: &mut Errors) {
        let hooks = self.webhooks.iter().flatten().cloned();
        let hooks: Vec<MutatingWebhook> = hooks.map(webhook::of_validating).collect();
        webhook::validate(errors, &hooks);
    }

    fn columns() -> &'static [Column] {
        webhook::COLUMNS
    }

    fn row(&self, now: Timestamp) -> Vec<Value> {
        let count = self.webhooks.as_ref().map_or(0, Vec::len);
        vec![table::name(&self.metadata), count.into(), table::age(&self.metadata, now)]
    }
}
