//! The program's numbers for Prometheus: rooms register what they count, the API server shows it.
//!
//! Two kinds: those that are counted where something happens (`Family`, `Counter`, `Histogram` of
//! `prometheus_client`), and those that are looked at when somebody asks ([`Metrics::look`],
//! [`Metrics::look_at_durations`]).

use std::fmt;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Metric, Registry};

use super::durations::Distribution;

/// All numbers of a process; share it by `Arc`.
#[derive(Debug, Default)]
pub struct Metrics(RwLock<Registry>);

/// Whether a number only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked {
    /// Its name must end with `_total` where it is registered without.
    Counter,
    Gauge,
}

/// What tells apart the values of one name.
pub type Labels = Vec<(&'static str, String)>;

/// One value with its labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub labels: Labels,
    pub value: f64,
}

impl Sample {
    /// A value without labels.
    pub fn plain(value: f64) -> Vec<Sample> {
        vec![Sample { labels: Vec::new(), value }]
    }
}

impl Metrics {
    /// Adds what is counted elsewhere. Counters get `_total` behind their name, helps a full stop.
    pub fn add(&self, name: &str, help: &str, metric: impl Metric) {
        self.0.write().register(name, help, metric);
    }

    /// Adds a number that is looked at whenever somebody asks; `read` must be quick.
    pub fn look(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Looked,
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        let look = Look { name, help, kind, read: Box::new(read) };
        self.0.write().register_collector(Box::new(look));
    }

    /// Adds a histogram that is looked at whenever somebody asks.
    pub fn look_at_durations(
        &self,
        name: &'static str,
        help: &'static str,
        read: impl Fn() -> Vec<(Labels, Distribution)> + Send + Sync + 'static,
    ) {
        let look = LookAtDurations { name, help, read: Box::new(read) };
        self.0.write().register_collector(Box::new(look));
    }

    /// All numbers in Prometheus' text format, version 0.0.4.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail; what cannot be written is left out.
        let _ = prometheus_text::encode(&mut text, &self.0.read());
        text
    }
}

struct Look {
    name: &'static str,
    help: &'static str,
    kind: Looked,
    read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

impl fmt::Debug for Look {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Look").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for Look {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match self.kind {
            Looked::Counter => MetricType::Counter,
            Looked::Gauge => MetricType::Gauge,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for Sample { labels, value } in (self.read)() {
            let one = metric.encode_family(&labels)?;
            match self.kind {
                Looked::Counter => ConstCounter::new(value).encode(one)?,
                Looked::Gauge => ConstGauge::new(value).encode(one)?,
            }
        }
        Ok(())
    }
}

struct LookAtDurations {
    name: &'static str,
    help: &'static str,
    read: Box<dyn Fn() -> Vec<(Labels, Distribution)> + Send + Sync>,
}

impl fmt::Debug for LookAtDurations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookAtDurations").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Collector for LookAtDurations {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut metric =
            encoder.encode_descriptor(self.name, self.help, None, MetricType::Histogram)?;
        for (labels, found) in (self.read)() {
            let mut one = metric.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(found.sum, found.count, &found.buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.look("depth", "Keys that wait.", Looked::Gauge, || {
            let sample =
                |name: &str, value| Sample { labels: vec![("name", name.to_string())], value };
            vec![sample("a", 1.0), sample("say \"b\"\n", 2.5)]
        });
        metrics.look("cpu_seconds", "CPU.", Looked::Counter, || Sample::plain(3.0));
        let buckets = vec![(0.5, 2), (f64::INFINITY, 1)];
        let found = Distribution { sum: 9.0, count: 3, buckets };
        metrics.look_at_durations("took_seconds", "Time.", move || {
            vec![(vec![("name", "a".to_string())], found.clone())]
        });
        let text = metrics.text();
        for line in [
            "# TYPE took_seconds histogram",
            "took_seconds_count{name=\"a\"} 3",
            "took_seconds_bucket{name=\"a\",le=\"0.5\"} 2",
            "took_seconds_bucket{name=\"a\",le=\"+Inf\"} 3",
            "# TYPE depth gauge",
            "depth{name=\"a\"} 1.0",
            "depth{name=\"say \\\"b\\\"\\n\"} 2.5",
            "# TYPE cpu_seconds_total counter",
            "cpu_seconds_total 3.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line:?} is not in:\n{text}");
        }
    }
}
