//! What selects which pods, found by tags ([`crate::api::tags`]): the cost of a change is that of the pods
//! and selectors that it is about, however many others a namespace has.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::api::selector::Selector;
use crate::api::{Kind, tags};
use crate::client::cache::View;

/// Pods of a namespace, among which are all that have these labels: those of the rarest of them.
pub fn candidates<'v, 'p>(
    view: &'v View,
    namespace: &'v str,
    pairs: impl Iterator<Item = (&'p str, &'p str)>,
) -> Box<dyn Iterator<Item = &'v Arc<Pod>> + 'v> {
    let tags = pairs.filter_map(|(key, value)| tags::label(namespace, key, value));
    match tags.min_by_key(|tag| view.count_tagged::<Pod>(tag)) {
        Some(tag) => Box::new(view.tagged::<Pod>(&tag)),
        None => Box::new(view.in_namespace::<Pod>(namespace)),
    }
}

/// The pods of a namespace that a selector matches.
pub fn selected<'v>(
    view: &'v View,
    namespace: &'v str,
    selector: &Selector,
) -> impl Iterator<Item = &'v Pod> {
    let found = candidates(view, namespace, selector.pairs()).map(|pod| &**pod);
    found.filter(move |pod| match &pod.metadata.labels {
        Some(labels) => selector.matches(labels),
        None => selector.matches(&BTreeMap::new()),
    })
}

/// Services or budgets of a namespace, among which are all that select a pod with these labels.
pub fn selectors_of<'v, T: Kind>(
    view: &'v View,
    namespace: &str,
    labels: &BTreeMap<String, String>,
) -> impl Iterator<Item = &'v Arc<T>> {
    let tags = labels.iter().filter_map(|(key, value)| tags::label(namespace, key, value));
    let tags: Vec<String> = tags.chain([tags::any(namespace)]).collect();
    tags.into_iter().flat_map(move |tag| view.tagged::<T>(&tag))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::policy::v1::PodDisruptionBudget;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::ObjectKey;
    use crate::client::cache::Cache;

    fn meta(namespace: &str, name: &str, labels: Value) -> Value {
        json!({"namespace": namespace, "name": name, "labels": labels})
    }

    fn all<T: Kind>(values: Vec<Value>) -> Vec<T> {
        values.into_iter().map(|value| serde_json::from_value(value).unwrap()).collect()
    }

    fn names<'a, T: Kind>(found: impl Iterator<Item = &'a Arc<T>>) -> Vec<String> {
        found.map(|one| ObjectKey::of(one.metadata()).name).collect()
    }

    fn cache() -> Arc<Cache> {
        let cache = Cache::new();
        cache.add::<Pod>();
        cache.add::<Service>();
        cache.add::<PodDisruptionBudget>();
        let hash = json!({"app": "web", "pod-template-hash": "1", "tier": "front"});
        cache.replace::<Pod>(
            all(vec![
                json!({"metadata": meta("a", "p1", hash)}),
                json!({"metadata": meta("a", "p2", json!({"app": "web"}))}),
                json!({"metadata": meta("a", "p3", json!({"app": "db"}))}),
                json!({"metadata": meta("b", "p4", json!({"app": "web"}))}),
            ]),
            1,
        );
        let selecting = |name: &str, selector: Value| {
            let spec = json!({"selector": selector});
            json!({"metadata": meta("a", name, json!({})), "spec": spec})
        };
        cache.replace::<Service>(
            all(vec![
                selecting("none", json!(null)),
                selecting("web", json!({"app": "web", "tier": "front"})),
                selecting("by-hash", json!({"pod-template-hash": "1"})),
                selecting("db", json!({"app": "db"})),
            ]),
            1,
        );
        cache.replace::<PodDisruptionBudget>(
            all(vec![
                selecting("all", json!({})),
                selecting("web", json!({"matchLabels": {"app": "web"}})),
                selecting("db", json!({"matchLabels": {"app": "db"}})),
            ]),
            1,
        );
        cache
    }

    #[test]
    fn pods_are_found_by_their_rarest_label() {
        let cache = cache();
        let view = cache.view();
        let found = |pairs: &[(&str, &str)]| names(candidates(&view, "a", pairs.iter().copied()));
        assert_eq!(found(&[("app", "web")]), ["p1", "p2"]);
        assert_eq!(found(&[("app", "web"), ("tier", "front")]), ["p1"]);
        assert_eq!(found(&[("app", "other")]), [""; 0]);
        // No tag is kept of a hash: all of the namespace may be meant.
        assert_eq!(found(&[("pod-template-hash", "1")]), ["p1", "p2", "p3"]);
        let selector = Selector::parse("pod-template-hash=1,app in (web)").unwrap();
        let pods: Vec<_> = selected(&view, "a", &selector).map(|pod| &pod.metadata.name).collect();
        assert_eq!(pods, [&Some("p1".into())]);
    }

    #[test]
    fn what_may_select_a_pod_is_found_by_its_labels() {
        let cache = cache();
        let view = cache.view();
        let pod = view.get::<Pod>("a", "p1").unwrap();
        let labels = pod.metadata.labels.clone().unwrap();
        assert_eq!(names(selectors_of::<Service>(&view, "a", &labels)), ["web", "by-hash"]);
        assert_eq!(names(selectors_of::<PodDisruptionBudget>(&view, "a", &labels)), ["web", "all"]);
        assert_eq!(names(selectors_of::<Service>(&view, "b", &labels)), [""; 0]);
    }

    /// A label that changes, and a pod that ends or goes, are followed.
    #[test]
    fn tags_are_kept_up() {
        let cache = cache();
        let relabelled = json!({"metadata": meta("a", "p2", json!({"app": "db"}))});
        let ended = json!({"metadata": meta("a", "p3", json!({"app": "db"})),
            "status": {"phase": "Succeeded"}});
        cache.replace::<Pod>(
            all(vec![relabelled, ended])
                .into_iter()
                .map(|mut pod: Pod| {
                    pod.metadata.resource_version = Some("2".into());
                    pod
                })
                .collect(),
            2,
        );
        let view = cache.view();
        assert_eq!(view.count_tagged::<Pod>("a/app=web"), 0);
        assert_eq!(names(view.tagged::<Pod>("a/app=db")), ["p2", "p3"]);
        assert_eq!(names(view.tagged::<Pod>(tags::FINISHED)), ["p3"]);
    }
}
