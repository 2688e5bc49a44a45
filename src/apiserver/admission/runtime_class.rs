//! A Pod's RuntimeClass (upstream's RuntimeClass admission): it must exist, what it costs beside the
//! containers becomes the Pod's overhead, and where it runs is merged into what the Pod asks for.
//! Its handler chooses nothing here, since every Pod runs in the node's Wasm runtime.

use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::api::node::v1::{RuntimeClass as Class, Scheduling};

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::kinds::resources;
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::service::read_error;
use crate::store::Key;

pub struct RuntimeClass;

impl Admitter for RuntimeClass {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if attributes.verb != Verb::Create || !attributes.is("", "pods") {
            return Ok(());
        }
        let concerned = ["runtimeClassName", "overhead"];
        if concerned.iter().all(|field| object.at(&["spec", field]).is_none()) {
            return Ok(());
        }
        let call = attributes.call;
        let refused = |why: String| ApiError::forbidden(&call.info.gvr, &call.name, why);
        let mut pod: Pod = object.typed()?;
        let name = pod.spec.as_ref().and_then(|spec| spec.runtime_class_name.as_deref());
        let class = match name.filter(|name| !name.is_empty()) {
            Some(name) => {
                let why = || refused(format!("pod rejected: RuntimeClass {name:?} not found"));
                Some(class_named(attributes, name)?.ok_or_else(why)?)
            }
            None => None,
        };
        set_overhead(&mut pod, class.as_ref()).map_err(refused)?;
        let scheduling = class.and_then(|class| class.scheduling).unwrap_or_default();
        merge(&mut pod, scheduling).map_err(refused)?;
        *object = Object::from_typed(&pod);
        outcome.changed = true;
        Ok(())
    }
}

fn class_named(attributes: &Attributes, name: &str) -> Result<Option<Class>, ApiError> {
    let key = Key::new(&["node.k8s.io", "runtimeclasses", "", name]);
    let entry = attributes.server.store.get(&key).map_err(read_error)?;
    entry.map(|entry| Raw(entry.value).decode()).transpose()
}

/// The overhead is the class's to say; a Pod may only repeat it.
fn set_overhead(pod: &mut Pod, class: Option<&Class>) -> Result<(), String> {
    let Some(spec) = &mut pod.spec else { return Ok(()) };
    let fixed = class.and_then(|class| class.overhead.as_ref()?.pod_fixed.clone());
    let given = spec.overhead.as_ref().filter(|overhead| !overhead.is_empty());
    match (given, fixed) {
        (Some(_), None) => {
            let why = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined \
                       Overhead";
            Err(why.into())
        }
        (Some(given), Some(fixed))
            if resources::sums(Some(given)) != resources::sums(Some(&fixed)) =>
        {
            let why = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";
            Err(why.into())
        }
        (_, Some(fixed)) => {
            spec.overhead = Some(fixed);
            Ok(())
        }
        (None, None) => Ok(()),
    }
}

fn merge(pod: &mut Pod, scheduling: Scheduling) -> Result<(), String> {
    let Some(spec) = &mut pod.spec else { return Ok(()) };
    for (key, value) in scheduling.node_selector.unwrap_or_default() {
        let selector = spec.node_selector.get_or_insert_default();
        if let Some(other) = selector.get(&key).filter(|other| **other != value) {
            return Err(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                 pod.spec.nodeSelector[{key}] = {other}"
            ));
        }
        selector.insert(key, value);
    }
    let added = scheduling.tolerations.unwrap_or_default();
    if !added.is_empty() {
        let tolerations: &mut Vec<Toleration> = spec.tolerations.get_or_insert_default();
        for toleration in added {
            if !tolerations.contains(&toleration) {
                tolerations.push(toleration);
            }
        }
    }
    Ok(())
}
