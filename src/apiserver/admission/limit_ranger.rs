//! A namespace's LimitRanges: what containers ask for where they do not say, and the bounds of a
//! container's and of a whole Pod's amounts (upstream's LimitRanger, plugin/pkg/admission/limitranger).
//!
//! Only what a Pod is created with is looked at, since its amounts do not change later; a claim may
//! ask for more later. Items of other types hold nothing.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as QuantityText;

use super::{Admitter, Attributes, Outcome, Verb};
use crate::api::kinds::resources::{self, Amounts, Sums};
use crate::api::quantity::Quantity;
use crate::api::{ApiError, Object};

/// Tells which amounts were not the user's.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";

pub struct LimitRanger;

impl Admitter for LimitRanger {
    fn admit(
        &self,
        attributes: &Attributes,
        object: &mut Object,
        outcome: &mut Outcome,
    ) -> Result<(), ApiError> {
        if !attributes.is("", "pods") {
            return Ok(());
        }
        let items = items(attributes)?;
        if items.is_empty() {
            return Ok(());
        }
        let mut pod: Pod = object.typed()?;
        if set_defaults(&mut pod, &items) {
            *object = Object::from_typed(&pod);
            outcome.changed = true;
        }
        Ok(())
    }

    fn validate(
        &self,
        attributes: &Attributes,
        object: &Object,
        _: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let items = items(attributes)?;
        if items.is_empty() {
            return Ok(());
        }
        let mut found: Vec<String> = Vec::new();
        if attributes.is("", "pods") {
            let spec = object.typed::<Pod>()?.spec.unwrap_or_default();
            items.iter().for_each(|item| check(&spec, item, &mut found));
        } else {
            let spec = object.typed::<PersistentVolumeClaim>()?.spec.unwrap_or_default();
            let requests = spec.resources.unwrap_or_default().requests;
            let requests = resources::sums(requests.as_ref());
            items.iter().for_each(|item| check_claim(&requests, item, &mut found));
        }
        // As upstream's aggregate of errors: each text once.
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|text| seen.insert(text.clone()));
        let why = match &found[..] {
            [] => return Ok(()),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Err(ApiError::forbidden(&attributes.call.info.gvr, &attributes.call.name, why))
    }
}

/// What holds for the Pod that is created, or for the claim that is written; nothing for other
/// writes.
fn items(attributes: &Attributes) -> Result<Vec<LimitRangeItem>, ApiError> {
    let looked_at = match attributes.verb {
        Verb::Create => attributes.is("", "pods") || attributes.is("", "persistentvolumeclaims"),
        Verb::Update => attributes.is("", "persistentvolumeclaims"),
        Verb::Delete => false,
    };
    if !looked_at {
        return Ok(Vec::new());
    }
    let ranges = attributes.server.in_namespace::<LimitRange>(&attributes.call.namespace)?;
    Ok(ranges.into_iter().filter_map(|range| range.spec).flat_map(|spec| spec.limits).collect())
}

/// Fills in what containers leave out; of several ranges the last one's word counts.
fn set_defaults(pod: &mut Pod, items: &[LimitRangeItem]) -> bool {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for item in items.iter().filter(|item| item.type_ == "Container") {
        requests.extend(item.default_request.clone().unwrap_or_default());
        limits.extend(item.default.clone().unwrap_or_default());
    }
    let Some(spec) = &mut pod.spec else { return false };
    let mut told = Vec::new();
    let init = spec.init_containers.iter_mut().flatten().map(|c| ("init container", c));
    for (what, container) in spec.containers.iter_mut().map(|c| ("container", c)).chain(init) {
        let resources = container.resources.get_or_insert_default();
        let set = add_missing(resources.requests.get_or_insert_default(), &requests);
        if !set.is_empty() {
            told.push(format!("{set} request for {what} {}", container.name));
        }
        let set = add_missing(resources.limits.get_or_insert_default(), &limits);
        if !set.is_empty() {
            told.push(format!("{set} limit for {what} {}", container.name));
        }
    }
    if told.is_empty() {
        return false;
    }
    // The class was found before these amounts were known.
    let class = resources::qos_class(spec);
    pod.status.get_or_insert_default().qos_class = Some(class.into());
    let text = format!("LimitRanger plugin set: {}", told.join("; "));
    pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.into(), text);
    true
}

/// Adds what is missing and answers with its names.
fn add_missing(amounts: &mut Amounts, defaults: &Amounts) -> String {
    let mut added = Vec::new();
    for (name, amount) in defaults {
        if !amounts.contains_key(name) {
            amounts.insert(name.clone(), amount.clone());
            added.push(name.as_str());
        }
    }
    added.join(", ")
}

/// The amounts that one item is compared with.
struct Observed {
    requests: Sums,
    limits: Sums,
}

fn check(spec: &PodSpec, item: &LimitRangeItem, found: &mut Vec<String>) {
    match item.type_.as_str() {
        "Container" => {
            for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                check_one(&of_container(container), item, found);
            }
        }
        "Pod" => {
            let requests = resources::pod_sum(spec, |r| r.requests.as_ref());
            let limits = resources::pod_sum(spec, |r| r.limits.as_ref());
            check_one(&Observed { requests, limits }, item, found);
        }
        _ => {}
    }
}

/// Claims have requests only.
fn check_claim(requests: &Sums, item: &LimitRangeItem, found: &mut Vec<String>) {
    let kind = &item.type_;
    if kind != "PersistentVolumeClaim" {
        return;
    }
    let bounds = [("minimum", item.min.as_ref()), ("maximum", item.max.as_ref())];
    for (word, (name, bound)) in bounds
        .into_iter()
        .flat_map(|(word, amounts)| self::bounds(amounts).map(move |bound| (word, bound)))
    {
        let begin = format!("{word} {name} usage per {kind} is {bound}");
        found.extend(match requests.get(name) {
            None => Some(format!("{begin}.  No request is specified")),
            Some(request)
                if word == "minimum" && *request < bound
                    || word == "maximum" && *request > bound =>
            {
                Some(format!("{begin}, but request is {request}"))
            }
            Some(_) => None,
        });
    }
}

fn of_container(container: &Container) -> Observed {
    let resources = container.resources.clone().unwrap_or_default();
    Observed {
        requests: resources::sums(resources.requests.as_ref()),
        limits: resources::sums(resources.limits.as_ref()),
    }
}

fn check_one(observed: &Observed, item: &LimitRangeItem, found: &mut Vec<String>) {
    let kind = &item.type_;
    for (name, bound) in bounds(item.min.as_ref()) {
        let (request, limit) = (observed.requests.get(name), observed.limits.get(name));
        let told = |what: &str, amount: &Quantity| {
            Some(format!("minimum {name} usage per {kind} is {bound}, but {what} is {amount}"))
        };
        found.extend(match (request, limit) {
            (None, _) => Some(format!(
                "minimum {name} usage per {kind} is {bound}.  No request is specified"
            )),
            (Some(request), _) if *request < bound => told("request", request),
            (_, Some(limit)) if *limit < bound => told("limit", limit),
            _ => None,
        });
    }
    for (name, bound) in bounds(item.max.as_ref()) {
        let (request, limit) = (observed.requests.get(name), observed.limits.get(name));
        let told = |what: &str, amount: &Quantity| {
            Some(format!("maximum {name} usage per {kind} is {bound}, but {what} is {amount}"))
        };
        found.extend(match (request, limit) {
            (_, None) => {
                Some(format!("maximum {name} usage per {kind} is {bound}.  No limit is specified"))
            }
            (_, Some(limit)) if *limit > bound => told("limit", limit),
            (Some(request), _) if *request > bound => told("request", request),
            _ => None,
        });
    }
    for (name, bound) in bounds(item.max_limit_request_ratio.as_ref()) {
        found.extend(check_ratio(observed, kind, name, bound));
    }
}

fn check_ratio(observed: &Observed, kind: &str, name: &str, most: Quantity) -> Option<String> {
    let begin = format!("{name} max limit to request ratio per {kind} is {most}");
    let given = |amounts: &Sums| amounts.get(name).copied().filter(|amount| !amount.is_zero());
    let Some(request) = given(&observed.requests) else {
        return Some(format!("{begin}, but no request is specified or request is 0"));
    };
    let Some(limit) = given(&observed.limits) else {
        return Some(format!("{begin}, but no limit is specified or limit is 0"));
    };
    let ratio = limit.ratio(request);
    let too_high = ratio.partial_cmp(&most.ratio(Quantity::from_value(1)));
    (too_high == Some(Ordering::Greater))
        .then(|| format!("{begin}, but provided ratio is {ratio:.6}"))
}

/// Bounds that can be read; others never passed validation.
fn bounds(
    amounts: Option<&BTreeMap<String, QuantityText>>,
) -> impl Iterator<Item = (&String, Quantity)> {
    let amounts = amounts.into_iter().flatten();
    amounts.filter_map(|(name, text)| Some((name, Quantity::parse(&text.0).ok()?)))
}
