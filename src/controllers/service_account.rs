//! ServiceAccount: each namespace has one named `default`, which pods that name none run as.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::namespace::is_terminating;
use super::{Controller, Plan};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};

const NAME: &str = "default";

pub struct ServiceAccountController;

impl Controller for ServiceAccountController {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn keys(&self, change: &Changed, _view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Namespace>() {
            return vec![change.key.clone()];
        }
        let deleted = change.new.is_none() && change.key.name == NAME;
        if deleted && change.resource == Gvr::of::<ServiceAccount>() {
            return vec![ObjectKey::new("", change.key.namespace.as_str())];
        }
        Vec::new()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Namespace>(), Gvr::of::<ServiceAccount>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get_key::<Namespace>(key) else { return plan };
        let there = view.get::<ServiceAccount>(&key.name, NAME).is_some();
        if !there && !is_terminating(namespace) {
            plan.create(&ServiceAccount {
                metadata: ObjectMeta {
                    name: Some(NAME.into()),
                    namespace: Some(key.name.clone()),
                    ..ObjectMeta::default()
                },
                ..ServiceAccount::default()
            });
        }
        plan
    }
}
