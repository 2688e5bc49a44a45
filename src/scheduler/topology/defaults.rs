//! Which pods belong together, as Services and the controllers of pods say: what pods are spread by
//! that have no spread constraints of their own.
//! Source: k8s.io/kubernetes pkg/scheduler/framework/plugins/helper/spread.go.

use std::collections::{BTreeMap, HashMap};

use crate::api::ObjectKey;
use crate::api::selector::Selector;
use crate::scheduler::budgets::Labels;
use crate::scheduler::pod_info::PodInfo;

/// The selectors of Services, and of what controls pods.
#[derive(Clone, Default)]
pub struct Defaults {
    /// Services by namespace and by the first label that they select, so that a pod looks at few.
    services: HashMap<(String, String, String), BTreeMap<String, Labels>>,
    selected: HashMap<ObjectKey, Labels>,
    /// By kind; the selectors of ReplicaSets, StatefulSets and ReplicationControllers.
    controllers: HashMap<(&'static str, ObjectKey), Selector>,
}

impl Defaults {
    /// Takes a Service's new selector, or its end.
    pub fn set_service(&mut self, key: &ObjectKey, selector: Option<&Labels>) {
        let selector = selector.filter(|selector| !selector.is_empty());
        if self.selected.get(key) == selector {
            return;
        }
        if let Some(old) = self.selected.remove(key)
            && let Some(place) = place(key, &old)
            && let Some(services) = self.services.get_mut(&place)
        {
            services.remove(key.name.as_str());
            if services.is_empty() {
                self.services.remove(&place);
            }
        }
        if let Some(selector) = selector
            && let Some(place) = place(key, selector)
        {
            let services = self.services.entry(place).or_default();
            services.insert(key.name.to_string(), selector.clone());
            self.selected.insert(key.clone(), selector.clone());
        }
    }

    /// Takes the new selector of an object that controls pods, or its end.
    pub fn set_controller(
        &mut self,
        kind: &'static str,
        key: &ObjectKey,
        selector: Option<Selector>,
    ) {
        let at = (kind, key.clone());
        match selector {
            Some(selector) => drop(self.controllers.insert(at, selector)),
            None => drop(self.controllers.remove(&at)),
        }
    }

    /// What all pods match that are spread with this one; `None` if nothing is known of it.
    pub fn selector(&self, pod: &PodInfo) -> Option<Selector> {
        let mut labels = Labels::new();
        let space = pod.key.namespace.as_str();
        for (key, value) in pod.labels.iter() {
            let place = (space.to_string(), key.clone(), value.clone());
            let services = self.services.get(&place).into_iter().flatten();
            for (_, selector) in services {
                if selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)) {
                    labels.extend(selector.clone());
                }
            }
        }
        let selector = Selector::from_map(&labels).ok()?;
        let controller = pod.controller.as_ref().and_then(|(kind, name)| {
            let key = ObjectKey::new(space, name.as_str());
            self.controllers.get(&(*kind, key))
        });
        let selector = match controller {
            Some(own) => own.and(selector.requirements().to_vec()),
            None => selector,
        };
        (!selector.is_everything()).then_some(selector)
    }
}

fn place(key: &ObjectKey, selector: &Labels) -> Option<(String, String, String)> {
    let (label, value) = selector.first_key_value()?;
    Some((key.namespace.to_string(), label.clone(), value.clone()))
}
