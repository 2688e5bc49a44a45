//! Root CA: each namespace has a ConfigMap `kube-root-ca.crt` with the certificates that pods verify
//! the API server by.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::namespace::is_terminating;
use super::{Controller, Options, Plan};
use crate::api::ObjectKey;
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};

const NAME: &str = "kube-root-ca.crt";
const FIELD: &str = "ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";

pub struct RootCaController {
    certificates: String,
}

impl RootCaController {
    pub fn new(options: &Options) -> RootCaController {
        RootCaController { certificates: options.ca_certificates.clone() }
    }

    fn data(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(FIELD.into(), self.certificates.clone())])
    }
}

impl Controller for RootCaController {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher-controller"
    }

    fn keys(&self, change: &Changed, _view: &View) -> Vec<ObjectKey> {
        if change.resource == Gvr::of::<Namespace>() {
            return vec![change.key.clone()];
        }
        if change.resource == Gvr::of::<ConfigMap>() && change.key.name == NAME {
            return vec![ObjectKey::new("", change.key.namespace.as_str())];
        }
        Vec::new()
    }

    fn reads(&self) -> Vec<Gvr> {
        vec![Gvr::of::<Namespace>(), Gvr::of::<ConfigMap>()]
    }

    fn reconcile(&self, view: &View, key: &ObjectKey, _now: Timestamp) -> Plan {
        let mut plan = Plan::nothing();
        let Some(namespace) = view.get_key::<Namespace>(key) else { return plan };
        if is_terminating(namespace) {
            return plan;
        }
        match view.get::<ConfigMap>(&key.name, NAME) {
            None => {
                let why = "The certificates by which pods verify the API server.";
                plan.create(&ConfigMap {
                    metadata: ObjectMeta {
                        name: Some(NAME.into()),
                        namespace: Some(key.name.clone()),
                        annotations: Some(BTreeMap::from([(DESCRIPTION.into(), why.into())])),
                        ..ObjectMeta::default()
                    },
                    data: Some(self.data()),
                    ..ConfigMap::default()
                });
            }
            Some(map) if map.data.as_ref() != Some(&self.data()) => {
                let mut changed = ConfigMap::clone(map);
                changed.data = Some(self.data());
                plan.update(&changed);
            }
            Some(_) => {}
        }
        plan
    }
}
