//! Root CA: each namespace has a ConfigMap `kube-root-ca.crt` with the certificates that pods verify
//! the API server by.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};

use super::namespace::is_terminating;
use super::{Controller, Options, Plan};
use crate::api::ObjectKey;
use crate::api::kinds::config_map::{ROOT_CA, root_ca, root_ca_data};
use crate::api::resource::Gvr;
use crate::client::cache::{Changed, View};

pub struct RootCaController {
    certificates: String,
}

impl RootCaController {
    pub fn new(options: &Options) -> RootCaController {
        RootCaController { certificates: options.ca_certificates.clone() }
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
        if change.resource == Gvr::of::<ConfigMap>() && change.key.name == ROOT_CA {
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
        let data = root_ca_data(&self.certificates);
        match view.get::<ConfigMap>(&key.name, ROOT_CA) {
            None => plan.create(&root_ca(&key.name, &self.certificates)),
            Some(map) if map.data.as_ref() != Some(&data) => {
                let mut changed = ConfigMap::clone(map);
                changed.data = Some(data);
                plan.update(&changed);
            }
            Some(_) => {}
        }
        plan
    }
}
