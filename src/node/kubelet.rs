//! What people ask of a kubelet by its paths (`kubectl get --raw /api/v1/nodes/NAME/proxy/…`), as
//! far as it has a meaning here: health, pods, logs, and numbers in the two forms that upstream
//! has (pkg/kubelet/server). Labels of numbers are those of pods that are on the node now.
//!
//! ```text
//!   /healthz  /healthz/ping          ok
//!   /pods                            the node's pods, as a PodList
//!   /stats/summary                   k8s.io/kubelet/pkg/apis/stats/v1alpha1 Summary
//!   /metrics  /metrics/resource      Prometheus' text; the second as metrics-server reads it
//!   /containerLogs/{ns}/{pod}/{name} a log, with the options of pods/log
//! ```

use http::HeaderValue;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::Node;
use super::streams::Pieces;
use super::usage::Measured;
use crate::api::ApiError;
use crate::api::error::Reason;
use crate::base::metrics::{Looked, Metrics, Sample};

pub const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROMETHEUS: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// One container that runs, and whose it is.
struct Row {
    namespace: String,
    pod: String,
    measured: Measured,
}

impl Node {
    /// Answers a GET.
    ///
    /// # Errors
    /// 404 for a path that is none of those above.
    pub(super) fn kubelet(
        &self,
        path: &[&str],
        query: &str,
    ) -> Result<(HeaderValue, Pieces), ApiError> {
        let whole = |kind: HeaderValue, text: String| {
            let piece = futures::stream::once(async move { Ok(text.into()) });
            Ok((kind, Box::pin(piece) as Pieces))
        };
        match path {
            ["healthz"] | ["healthz", "ping"] => whole(TEXT, "ok".into()),
            ["metrics"] => whole(PROMETHEUS, self.numbers()),
            ["metrics", "resource"] => whole(PROMETHEUS, self.resource_numbers()),
            ["stats", "summary"] => whole(JSON, self.summary().to_string()),
            ["pods"] | ["pods", ""] => whole(JSON, self.pod_list().to_string()),
            ["containerLogs", namespace, pod, container] => {
                Ok((TEXT, self.read_log(namespace, pod, container, query)?))
            }
            _ => Err(ApiError::new(404, Reason::NotFound, "404 page not found")),
        }
    }

    fn rows(&self, now: Timestamp) -> Vec<Row> {
        let mut rows = Vec::new();
        for (key, entry) in self.shared.pods.all() {
            rows.extend(entry.measured(now).into_iter().map(|measured| Row {
                namespace: key.namespace.clone(),
                pod: key.name.clone(),
                measured,
            }));
        }
        rows
    }

    fn resource_numbers(&self) -> String {
        let now = self.shared.clock.now();
        let (rows, metrics) = (self.rows(now), Metrics::default());
        let show = |name, help, kind, samples: Vec<Sample>| {
            metrics.look(name, help, kind, move || samples.clone());
        };
        let cpu = |row: &Row| row.measured.usage.cpu_micros as f64 / 1e6;
        let memory = |row: &Row| row.measured.usage.memory_bytes as f64;
        show(
            "container_cpu_usage_seconds",
            "Cumulative cpu time consumed by the container in core-seconds",
            Looked::Counter,
            of_containers(&rows, cpu),
        );
        show(
            "container_memory_working_set_bytes",
            "Current working set of the container in bytes",
            Looked::Gauge,
            of_containers(&rows, memory),
        );
        show(
            "container_start_time_seconds",
            "Start time of the container since unix epoch in seconds",
            Looked::Gauge,
            of_containers(&rows, |row| row.measured.since.as_millisecond() as f64 / 1e3),
        );
        show(
            "pod_cpu_usage_seconds",
            "Cumulative cpu time consumed by the pod in core-seconds",
            Looked::Counter,
            of_pods(&rows, cpu),
        );
        show(
            "pod_memory_working_set_bytes",
            "Current working set of the pod in bytes",
            Looked::Gauge,
            of_pods(&rows, memory),
        );
        let (total, _) = self.shared.total(now);
        let help = "Cumulative cpu time consumed by the node in core-seconds";
        let seconds = Sample::plain(total.cpu_micros as f64 / 1e6);
        show("node_cpu_usage_seconds", help, Looked::Counter, seconds);
        let help = "Current working set of the node in bytes";
        let bytes = Sample::plain(total.memory_bytes as f64);
        show("node_memory_working_set_bytes", help, Looked::Gauge, bytes);
        let help = "1 if there was an error while getting container metrics, 0 otherwise";
        show("resource_scrape_error", help, Looked::Gauge, Sample::plain(0.0));
        metrics.text()
    }

    /// The node's own numbers, and what metrics-server has no use for.
    fn numbers(&self) -> String {
        let now = self.shared.clock.now();
        let (rows, metrics) = (self.rows(now), Metrics::default());
        let show = |name, help, kind, samples: Vec<Sample>| {
            metrics.look(name, help, kind, move || samples.clone());
        };
        let name = vec![("node", self.name().to_string())];
        let sample = Sample { labels: name, value: 1.0 };
        show(
            "kubelet_node_name",
            "The node's name. The count is always 1.",
            Looked::Gauge,
            vec![sample],
        );
        let pods = of_pods(&rows, |_| 1.0).len() as f64;
        let help = "Number of pods that have a running container";
        show("kubelet_running_pods", help, Looked::Gauge, Sample::plain(pods));
        let labels = vec![("container_state", "running".to_string())];
        let running = vec![Sample { labels, value: rows.len() as f64 }];
        show("kubelet_running_containers", "Number of running containers", Looked::Gauge, running);
        let mut restarts = Vec::new();
        for (key, entry) in self.shared.pods.all() {
            restarts.extend(entry.restarts().into_iter().map(|(container, count)| Sample {
                labels: labels_of(&key.namespace, &key.name, &container),
                value: f64::from(count),
            }));
        }
        let help = "How often the container was started again";
        show("wasmfleet_container_restarts", help, Looked::Counter, restarts);
        let count = |of: fn(&Measured) -> u64| of_containers(&rows, |row| of(&row.measured) as f64);
        let help = "Processor time that the container used, in seconds";
        let seconds = of_containers(&rows, |row| row.measured.usage.cpu_micros as f64 / 1e6);
        show("wasmfleet_container_cpu_seconds", help, Looked::Counter, seconds);
        let help = "Linear memories, tables and instances of the container, in bytes";
        show(
            "wasmfleet_container_memory_bytes",
            help,
            Looked::Gauge,
            count(|m| m.usage.memory_bytes),
        );
        let help = "Instances of the container's program";
        show("wasmfleet_container_instances", help, Looked::Gauge, count(|m| m.usage.instances));
        let help = "HTTP requests that the container got";
        show("wasmfleet_http_requests", help, Looked::Counter, count(|m| m.usage.requests));
        let help = "HTTP requests that the container's program did not answer";
        let failed = count(|m| m.usage.failed_requests);
        show("wasmfleet_http_failed_requests", help, Looked::Counter, failed);
        let help = "Connections, datagrams and look-ups outside of the cluster that were refused";
        let denials = count(|m| m.usage.denials);
        show("wasmfleet_container_outbound_denied", help, Looked::Counter, denials);
        metrics.text()
    }

    fn summary(&self) -> Value {
        let now = self.shared.clock.now();
        let (total, amounts) = self.shared.total(now);
        let cpu = |nanocores: u64, micros: u64| {
            json!({"time": now, "usageNanoCores": nanocores,
                "usageCoreNanoSeconds": micros.saturating_mul(1000)})
        };
        let memory =
            |bytes: u64| json!({"time": now, "usageBytes": bytes, "workingSetBytes": bytes});
        let mut pods = Vec::new();
        for (key, entry) in self.shared.pods.all() {
            let measured = entry.measured(now);
            let sum = |of: fn(&Measured) -> u64| measured.iter().map(of).sum::<u64>();
            let containers: Vec<Value> = measured
                .iter()
                .map(|one| {
                    json!({"name": one.name, "startTime": one.since,
                        "cpu": cpu(one.amounts.cpu_nanocores, one.usage.cpu_micros),
                        "memory": memory(one.usage.memory_bytes)})
                })
                .collect();
            let start = entry.start_time();
            pods.push(json!({
                "podRef": {"name": key.name, "namespace": key.namespace, "uid": entry.uid},
                "startTime": start,
                "containers": containers,
                "cpu": cpu(sum(|m| m.amounts.cpu_nanocores), sum(|m| m.usage.cpu_micros)),
                "memory": memory(sum(|m| m.usage.memory_bytes)),
            }));
        }
        json!({
            "node": {
                "nodeName": self.name(),
                "startTime": self.shared.looks.since,
                "cpu": cpu(amounts.cpu_nanocores, total.cpu_micros),
                "memory": memory(total.memory_bytes),
            },
            "pods": pods,
        })
    }

    fn pod_list(&self) -> Value {
        let pods: Vec<_> = self.shared.pods.all().into_iter().map(|(_, one)| one.pod()).collect();
        json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods})
    }
}

fn labels_of(namespace: &str, pod: &str, container: &str) -> Vec<(&'static str, String)> {
    let mut labels = vec![("namespace", namespace.to_string()), ("pod", pod.to_string())];
    if !container.is_empty() {
        labels.insert(0, ("container", container.to_string()));
    }
    labels
}

fn of_containers(rows: &[Row], value: impl Fn(&Row) -> f64) -> Vec<Sample> {
    let sample = |row: &Row| Sample {
        labels: labels_of(&row.namespace, &row.pod, &row.measured.name),
        value: value(row),
    };
    rows.iter().map(sample).collect()
}

/// The sums of pods, whose rows stand together.
fn of_pods(rows: &[Row], value: impl Fn(&Row) -> f64) -> Vec<Sample> {
    let same = |a: &Row, b: &Row| a.namespace == b.namespace && a.pod == b.pod;
    let sum = |rows: &[Row]| Sample {
        labels: labels_of(&rows[0].namespace, &rows[0].pod, ""),
        value: rows.iter().map(&value).sum(),
    };
    rows.chunk_by(same).map(sum).collect()
}
