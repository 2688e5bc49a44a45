//! metrics.k8s.io: what nodes and pods use now. Nothing is stored and nothing is collected while
//! nobody asks: a read asks the nodes that it is about, through their tunnels, and what a node
//! answered about all of its pods is good for some seconds. A read of one pod asks its node for
//! that pod alone.
//!
//! Nodes that do not answer are left out of lists, as metrics-server leaves them out.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::Request;
use http_body_util::{BodyExt, Full, Limited};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use parking_lot::Mutex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::filter::Filter;
use super::read::Listed;
use super::service::{ApiServer, Call, read_error};
use super::subresource::log;
use crate::api::kinds::resource_metrics::{
    ContainerMetrics, NodeMetrics, PodMetrics, REQUESTS, Usage,
};
use crate::api::resource::Kind;
use crate::api::usage::{Amounts, NodeUsage, PodUsage};
use crate::api::{ApiError, Gvr, Raw};
use crate::store::Key;

/// How long what a node told is good.
const FRESH: Duration = Duration::from_secs(5);
/// How long a node may take, and how many are asked at once.
const NODE_LIMIT: Duration = Duration::from_secs(5);
const PARALLEL_NODES: usize = 32;
/// The longest answer of a node; two thousand pods need less than one MiB.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Nodes whose answers are kept.
const MAX_KEPT: usize = 10_000;

/// What the nodes told last.
#[derive(Default)]
pub struct Measured(Mutex<HashMap<String, Slot>>);

/// Who asks for the same node waits for the same answer.
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Arc<NodeUsage>)>>>;

/// As much of a stored Pod or Node as is needed here.
#[derive(Deserialize)]
struct Lean {
    metadata: LeanMeta,
    #[serde(default)]
    spec: LeanSpec,
}

#[derive(Deserialize)]
struct LeanMeta {
    name: String,
    #[serde(default)]
    namespace: Option<String>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LeanSpec {
    #[serde(default)]
    node_name: String,
}

impl ApiServer {
    pub(super) async fn get_measured(&self, call: &Call) -> Result<Bytes, ApiError> {
        let nothing = || ApiError::not_found(&call.info.gvr, &call.name);
        if !call.info.gvr.namespaced {
            let node = self.lean::<Node>("", &call.name)?.ok_or_else(nothing)?;
            let usage = self.node_usage(&call.name).await?;
            return Ok(node_metrics(&node, &usage));
        }
        let pod = self.lean::<Pod>(&call.namespace, &call.name)?.ok_or_else(nothing)?;
        if pod.spec.node_name.is_empty() {
            return Err(nothing());
        }
        let path = format!("/usage/{}/{}", call.namespace, call.name);
        let usage: Option<PodUsage> = self.ask_node(&pod.spec.node_name, &path).await?;
        Ok(pod_metrics(&pod, &usage.ok_or_else(nothing)?))
    }

    /// All of them on one page; the nodes are asked side by side.
    pub(super) async fn list_measured(
        &self,
        call: &Call,
        filter: &Filter,
    ) -> Result<Listed, ApiError> {
        let revision = self.store.revision();
        let mut wanted: BTreeMap<String, Vec<Lean>> = BTreeMap::new();
        let all = match call.info.gvr.namespaced {
            true => self.all_lean::<Pod>(&call.namespace)?,
            false => self.all_lean::<Node>("")?,
        };
        for one in all {
            let node = match call.info.gvr.namespaced {
                true => one.spec.node_name.clone(),
                false => one.metadata.name.clone(),
            };
            // Selectors see what an object has whatever is used.
            let bare = node_metrics(&one, &NodeUsage::default());
            if !node.is_empty()
                && self.nodes.is_connected(&node)
                && filter.matches(&call.info, &self.memo, &bare)?
            {
                wanted.entry(node).or_default().push(one);
            }
        }
        let asked = wanted.into_iter().map(|(node, list)| async move {
            let usage = self.node_usage(&node).await;
            let usage = usage.inspect_err(|error| tracing::debug!(node, %error, "no usage"));
            (list, usage.ok())
        });
        let mut answers = futures::stream::iter(asked).buffered(PARALLEL_NODES);
        let mut items = Vec::new();
        while let Some((list, usage)) = answers.next().await {
            let Some(usage) = usage else { continue };
            if !call.info.gvr.namespaced {
                items.extend(list.iter().map(|node| node_metrics(node, &usage)));
                continue;
            }
            let by_name: HashMap<(&str, &str), &PodUsage> =
                usage.pods.iter().map(|pod| ((&*pod.namespace, &*pod.name), pod)).collect();
            items.extend(list.iter().filter_map(|pod| {
                let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
                let usage = by_name.get(&(namespace, &*pod.metadata.name))?;
                Some(pod_metrics(pod, usage))
            }));
        }
        Ok(Listed { revision, items, ..Listed::default() })
    }

    fn lean<T: Kind>(&self, namespace: &str, name: &str) -> Result<Option<Lean>, ApiError> {
        let key = Key::new(&[T::GROUP, T::URL_PATH_SEGMENT, namespace, name]);
        let entry = self.store.get(&key).map_err(read_error)?;
        entry.map(|entry| Raw(entry.value).decode()).transpose()
    }

    fn all_lean<T: Kind>(&self, namespace: &str) -> Result<Vec<Lean>, ApiError> {
        let prefix = match namespace {
            "" => Key::new(&[T::GROUP, T::URL_PATH_SEGMENT]),
            namespace => Key::new(&[T::GROUP, T::URL_PATH_SEGMENT, namespace]),
        };
        let page = self.store.list(&prefix, None, 0, None).map_err(read_error)?;
        page.entries.into_iter().map(|entry| Raw(entry.value).decode()).collect()
    }

    /// What a node told in the last seconds, or tells now.
    async fn node_usage(&self, node: &str) -> Result<Arc<NodeUsage>, ApiError> {
        let slot = {
            let mut slots = self.measured.0.lock();
            if slots.len() >= MAX_KEPT && !slots.contains_key(node) {
                slots.clear();
            }
            slots.entry(node.to_string()).or_default().clone()
        };
        let mut slot = slot.lock().await;
        if let Some((at, usage)) = &*slot
            && at.elapsed() < FRESH
        {
            return Ok(usage.clone());
        }
        let usage: Arc<NodeUsage> = Arc::new(self.ask_node(node, "/usage").await?);
        *slot = Some((Instant::now(), usage.clone()));
        Ok(usage)
    }

    async fn ask_node<T: DeserializeOwned>(&self, node: &str, path: &str) -> Result<T, ApiError> {
        let work = async {
            let request = Request::get(path).body(Full::new(Bytes::new()));
            let request = request.map_err(|error| ApiError::bad_request(error.to_string()))?;
            let answer = self.nodes.request(node, request).await?;
            if !answer.status().is_success() {
                return Err(log::refused(answer).await);
            }
            let body = Limited::new(answer.into_body(), MAX_ANSWER_BYTES).collect().await;
            let body = body.map_err(|error| ApiError::unavailable(error.to_string()))?.to_bytes();
            serde_json::from_slice(&body).map_err(|error| {
                ApiError::unavailable(format!("what node {node:?} told cannot be read: {error}"))
            })
        };
        let waited = timeout(NODE_LIMIT, work).await;
        waited.unwrap_or_else(|_| {
            Err(ApiError::unavailable(format!(
                "node {node:?} did not answer within {NODE_LIMIT:?}"
            )))
        })
    }
}

fn metadata(of: &Lean, at: jiff::Timestamp) -> ObjectMeta {
    ObjectMeta {
        name: Some(of.metadata.name.clone()),
        namespace: of.metadata.namespace.clone(),
        labels: of.metadata.labels.clone(),
        creation_timestamp: Some(whole_seconds(at)),
        ..ObjectMeta::default()
    }
}

fn whole_seconds(at: jiff::Timestamp) -> Time {
    Time(jiff::Timestamp::from_second(at.as_second()).unwrap_or(at))
}

/// As metrics-server writes them, and the requests of HTTP handlers.
fn amounts(of: &Amounts) -> Usage {
    let (cpu, memory) = (of.cpu_nanocores, of.memory_bytes.div_ceil(1024));
    let requests = of.requests_milli.map(|milli| (REQUESTS, format!("{milli}m")));
    [("cpu", format!("{cpu}n")), ("memory", format!("{memory}Ki"))]
        .into_iter()
        .chain(requests)
        .map(|(name, text)| (name.to_string(), Quantity(text)))
        .collect()
}

/// `15.02s`, as Go writes a duration.
fn window(millis: u64) -> String {
    let seconds = format!("{}.{:03}", millis / 1000, millis % 1000);
    format!("{}s", seconds.trim_end_matches('0').trim_end_matches('.'))
}

fn node_metrics(node: &Lean, usage: &NodeUsage) -> Bytes {
    written(&NodeMetrics {
        api_version: Some(gvr::<NodeMetrics>()),
        kind: Some("NodeMetrics".into()),
        metadata: metadata(node, usage.at),
        timestamp: Some(whole_seconds(usage.at)),
        window: window(usage.total.window_millis),
        usage: amounts(&usage.total),
    })
}

fn pod_metrics(pod: &Lean, usage: &PodUsage) -> Bytes {
    let widest = usage.containers.iter().map(|one| one.amounts.window_millis).max();
    let containers = usage
        .containers
        .iter()
        .map(|one| ContainerMetrics { name: one.name.clone(), usage: amounts(&one.amounts) });
    written(&PodMetrics {
        api_version: Some(gvr::<PodMetrics>()),
        kind: Some("PodMetrics".into()),
        metadata: metadata(pod, usage.at),
        timestamp: Some(whole_seconds(usage.at)),
        window: window(widest.unwrap_or_default()),
        containers: containers.collect(),
    })
}

fn gvr<T: Kind>() -> String {
    Gvr::of::<T>().api_version()
}

fn written(object: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(object).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_and_windows_are_written_as_metrics_server_does() {
        let mut of = Amounts {
            cpu_nanocores: 1_500,
            memory_bytes: 1025,
            window_millis: 15_020,
            requests_milli: None,
        };
        let usage = amounts(&of);
        assert_eq!((usage["cpu"].0.as_str(), usage["memory"].0.as_str()), ("1500n", "2Ki"));
        assert!(!usage.contains_key(REQUESTS));
        of.requests_milli = Some(12_500);
        assert_eq!(amounts(&of)[REQUESTS].0, "12500m");
        assert_eq!(window(of.window_millis), "15.02s");
        assert_eq!((window(20_000), window(0)), ("20s".to_string(), "0s".to_string()));
    }
}
