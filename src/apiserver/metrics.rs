//! What the API server counts of its requests, under the names that kube-apiserver has, so that
//! its dashboards and alerts show something here too.
//!
//! The numbers of custom resources come under their own names, up to a bound; definitions come and
//! go, and a number that was counted once stays.

use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use super::request::Verb;
use crate::api::resource::{Gvr, KindInfo};
use crate::base::metrics::Metrics;

/// Upper bounds of the durations, in seconds: finer than upstream's where most requests end here.
const BUCKETS: [f64; 14] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 60.0];
/// Custom resources that are told apart; all others are `other`.
const MAX_CUSTOM: usize = 500;
/// Parts of a resource that are told apart; all others are `other`.
const SUBRESOURCES: &[&str] = &[
    "",
    "approval",
    "attach",
    "binding",
    "coredump",
    "ephemeralcontainers",
    "eviction",
    "exec",
    "finalize",
    "log",
    "portforward",
    "profile",
    "proxy",
    "resize",
    "scale",
    "status",
    "token",
    "why",
];

/// The numbers of one server.
pub struct RequestMetrics {
    total: Family<Labels, Counter>,
    seconds: Family<Labels, Histogram, fn() -> Histogram>,
    custom: RwLock<HashSet<Gvr>>,
}

/// What one number is about. Making it costs no allocation.
#[derive(Clone)]
struct Labels {
    /// `None`: one custom resource too many.
    info: Option<Arc<KindInfo>>,
    subresource: &'static str,
    verb: &'static str,
    /// 0 where it is no label.
    code: u16,
}

impl Labels {
    fn key(&self) -> (Option<&Gvr>, &'static str, &'static str, u16) {
        (self.info.as_ref().map(|info| &info.gvr), self.subresource, self.verb, self.code)
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Labels").field(&self.key()).finish()
    }
}

impl PartialEq for Labels {
    fn eq(&self, other: &Labels) -> bool {
        let rest = |labels: &Labels| (labels.subresource, labels.verb, labels.code);
        let same_row = match (&self.info, &other.info) {
            // As a rule a number is asked for with the row that it was made with.
            (Some(a), Some(b)) => Arc::ptr_eq(a, b) || a.gvr == b.gvr,
            (a, b) => a.is_none() == b.is_none(),
        };
        same_row && rest(self) == rest(other)
    }
}

impl Eq for Labels {}

impl Hash for Labels {
    /// Of few words: resources of one name and verbs of one length are few.
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.info.as_ref().map(|info| &info.gvr.resource).hash(state);
        (self.subresource.len(), self.verb.len(), self.code).hash(state);
    }
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let gvr = self.info.as_ref().map(|info| &info.gvr);
        let (group, version, resource) = match gvr {
            Some(gvr) => (&*gvr.group, &*gvr.version, &*gvr.resource),
            None => ("other", "other", "other"),
        };
        let mut labels = vec![
            ("verb", self.verb.to_ascii_uppercase()),
            ("group", group.to_string()),
            ("version", version.to_string()),
            ("resource", resource.to_string()),
            ("subresource", self.subresource.to_string()),
        ];
        if self.code != 0 {
            labels.push(("code", self.code.to_string()));
        }
        labels.encode(encoder)
    }
}

impl RequestMetrics {
    /// Makes the numbers and shows them.
    pub fn new(metrics: &Metrics) -> RequestMetrics {
        let total = Family::<Labels, Counter>::default();
        let seconds: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        metrics.add("apiserver_request", "Requests about resources", total.clone());
        let help = "From the request's head to its answer, in seconds; watches and logs left out";
        metrics.add("apiserver_request_duration_seconds", help, seconds.clone());
        RequestMetrics { total, seconds, custom: RwLock::default() }
    }

    /// Counts one request. `took` is `None` for what has no end of its own.
    pub fn observe(
        &self,
        info: &Arc<KindInfo>,
        subresource: &str,
        verb: Verb,
        code: u16,
        took: Option<Duration>,
    ) {
        let info = self.is_told_apart(info).then(|| info.clone());
        let known = SUBRESOURCES.iter().find(|known| **known == subresource);
        let subresource = known.copied().unwrap_or("other");
        let labels = Labels { info, subresource, verb: verb.name(), code };
        self.total.get_or_create(&labels).inc();
        if let Some(took) = took {
            let labels = Labels { code: 0, ..labels };
            self.seconds.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    fn is_told_apart(&self, info: &KindInfo) -> bool {
        if info.custom.is_none() || self.custom.read().contains(&info.gvr) {
            return true;
        }
        let mut custom = self.custom.write();
        let has_room = custom.len() < MAX_CUSTOM;
        has_room && custom.insert(info.gvr.clone())
    }
}
