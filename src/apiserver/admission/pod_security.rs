//! PodSecurity: Pods that a namespace's labels do not want are refused or warned of, templates of
//! Pods are warned of (k8s.io/pod-security-admission/admission). There is no audit log, so the
//! level that is to be audited is validated and no more. No namespace, user or class is exempt.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod, PodTemplateSpec};
use serde::Deserialize;

use super::artifact::POD_SPECS;
use super::{Admitter, Attributes, Verb};
use crate::api::field::Errors;
use crate::api::pod_security::{
    Level, LevelVersion, PREFIX, Policy, Subject, details, reasons, violations,
};
use crate::api::{ApiError, Object, Raw};
use crate::apiserver::keys;
use crate::apiserver::service::read_error;

/// How many Pods of a namespace are looked at when its level becomes stricter. Upstream looks at
/// 3000 for a second; here nobody else waits, but the request does.
const MAX_PODS: usize = 1000;
/// Subresources of Pods that do not change what is checked.
const IGNORED: &[&str] =
    &["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];

pub struct PodSecurity;

impl Admitter for PodSecurity {
    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        if attributes.verb == Verb::Delete {
            return Ok(());
        }
        if attributes.is("", "namespaces") {
            return check_namespace(attributes, object, warnings);
        }
        let call = attributes.call;
        let gvr = &call.info.gvr;
        let row = POD_SPECS.iter().find(|row| row.0 == gvr.group && row.1 == gvr.resource);
        let Some((_, resource, path)) = row else { return Ok(()) };
        let is_pod = *resource == "pods";
        let subresource = call.subresource.as_str();
        if !subresource.is_empty() && (!is_pod || IGNORED.contains(&subresource)) {
            return Ok(());
        }
        let Some(policy) = policy_of(attributes)? else { return Ok(()) };
        let template = match (is_pod, path) {
            (true, _) => object.typed::<PodTemplateSpec>()?,
            (false, [template @ .., _]) => match object.at(template) {
                Some(value) => PodTemplateSpec::deserialize(value).map_err(ApiError::internal)?,
                None => return Ok(()),
            },
            (false, []) => return Ok(()),
        };
        if is_pod
            && let Some(old) = attributes.old
            && !is_significant(&template, &old.typed()?)
        {
            return Ok(());
        }
        let annotations = template.metadata.unwrap_or_default().annotations.unwrap_or_default();
        let Some(spec) = &template.spec else { return Ok(()) };
        let subject = Subject::new(&annotations, spec);
        if is_pod {
            let lacks = violations(policy.enforce, &subject);
            if !lacks.is_empty() {
                let (level, lacks) = (policy.enforce, details(&lacks));
                let why = format!("violates PodSecurity \"{level}\": {lacks}");
                return Err(ApiError::forbidden(gvr, &call.name, why));
            }
        }
        let lacks = violations(policy.warn, &subject);
        if !lacks.is_empty() {
            let (level, lacks) = (policy.warn, details(&lacks));
            warnings.push(format!("would violate PodSecurity \"{level}\": {lacks}"));
        }
        Ok(())
    }
}

/// What the call's namespace asks; none where it asks nothing.
fn policy_of(attributes: &Attributes) -> Result<Option<Policy>, ApiError> {
    let key = keys::namespace(&attributes.call.namespace);
    let entry = attributes.server.store.get(&key).map_err(read_error)?;
    // Most namespaces have no such label: those are not decoded.
    let marked = entry.filter(|entry| {
        entry.value.windows(PREFIX.len()).any(|window| window == PREFIX.as_bytes())
    });
    let Some(entry) = marked else { return Ok(None) };
    let labels = Raw(entry.value).object()?.labels();
    let policy = Policy::of(&labels, &mut Errors::default());
    Ok((!policy.is_fully_privileged()).then_some(policy))
}

/// Whether an update changes what is checked: of a Pod only images may change, and ephemeral
/// containers be added.
fn is_significant(new: &PodTemplateSpec, old: &PodTemplateSpec) -> bool {
    let (new, old) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let images = |list: &[Container]| -> Vec<Option<String>> {
        list.iter().map(|container| container.image.clone()).collect()
    };
    let debug = |list: Option<Vec<EphemeralContainer>>| -> BTreeMap<String, Option<String>> {
        list.into_iter().flatten().map(|container| (container.name, container.image)).collect()
    };
    images(&new.containers) != images(&old.containers)
        || images(&new.init_containers.unwrap_or_default())
            != images(&old.init_containers.unwrap_or_default())
        || debug(new.ephemeral_containers) != debug(old.ephemeral_containers)
}

fn check_namespace(
    attributes: &Attributes,
    object: &Object,
    warnings: &mut Vec<String>,
) -> Result<(), ApiError> {
    let read = |object: &Object| {
        let mut errors = Errors::default();
        let policy = Policy::of(&object.labels(), &mut errors);
        (policy, errors.into_vec())
    };
    let (policy, errors) = read(object);
    let before = attributes.old.map(read);
    let known = before.as_ref().is_some_and(|(_, before)| *before == errors);
    if !errors.is_empty() && !known {
        return Err(ApiError::invalid(&attributes.call.info, object.name(), errors));
    }
    let Some((before, _)) = before else { return Ok(()) };
    let (new, old) = (policy.enforce, before.enforce);
    let relaxed = new.minor == old.minor && new.level <= old.level;
    if new != old && new.level != Level::Privileged && !relaxed {
        warnings.extend(warnings_of_pods(attributes, object.name(), new)?);
    }
    Ok(())
}

/// Which Pods that are there would not be let in any more.
fn warnings_of_pods(
    attributes: &Attributes,
    namespace: &str,
    wanted: LevelVersion,
) -> Result<Vec<String>, ApiError> {
    let entries = attributes.server.entries_in::<Pod>(namespace)?;
    let (count, checked) = (entries.len(), entries.len().min(MAX_PODS));
    let mut bad: HashMap<String, Vec<String>> = HashMap::new();
    for entry in entries.into_iter().take(MAX_PODS) {
        let pod: PodTemplateSpec = Raw(entry.value).decode()?;
        let meta = pod.metadata.unwrap_or_default();
        let annotations = meta.annotations.unwrap_or_default();
        let Some(spec) = &pod.spec else { continue };
        let lacks = violations(wanted, &Subject::new(&annotations, spec));
        if !lacks.is_empty() {
            bad.entry(reasons(&lacks)).or_default().push(meta.name.unwrap_or_default());
        }
    }
    let mut warnings = Vec::new();
    if checked < count {
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {count} \
             existing pods"
        ));
    }
    if !bad.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \
             \"{wanted}\""
        ));
    }
    let mut lines: Vec<String> = bad
        .into_iter()
        .map(|(lacks, names)| {
            let first = names.iter().min().map(String::as_str).unwrap_or_default();
            match names.len() {
                1 => format!("{first}: {lacks}"),
                2 => format!("{first} (and 1 other pod): {lacks}"),
                many => format!("{first} (and {} other pods): {lacks}", many - 1),
            }
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    Ok(warnings)
}
