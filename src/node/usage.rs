//! What the node's pods use: processor time by the runtime's meters, memory as the runtime accounts
//! for it, and the requests that come to them. Rates need two looks: each container is looked at now
//! and then, and whoever asks is told what was used since a look that is not too young.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

use super::Shared;
use super::pods::{PodEntry, Running};
use crate::api::ObjectKey;
use crate::api::usage::{Amounts, ContainerUsage, NodeUsage, PodUsage};
use crate::runtime::Usage;

/// How often containers are looked at (metrics-server's resolution).
const LOOK_PERIOD: Duration = Duration::from_secs(15);
/// A rate over less would tell the moment's noise.
const LEAST_WINDOW: SignedDuration = SignedDuration::from_secs(5);

/// Earlier looks at counts that only grow.
pub struct Looks {
    /// When it was nothing.
    pub since: Timestamp,
    /// The newest first.
    marks: Mutex<[Option<Mark>; 2]>,
}

#[derive(Clone, Copy)]
struct Mark {
    at: Timestamp,
    cpu_micros: u64,
    requests: u64,
}

impl Looks {
    pub fn since(since: Timestamp) -> Looks {
        Looks { since, marks: Mutex::default() }
    }

    fn mark(&self, at: Timestamp, usage: &Usage) {
        let Usage { cpu_micros, requests, .. } = *usage;
        let mut marks = self.marks.lock();
        *marks = [Some(Mark { at, cpu_micros, requests }), marks[0]];
    }

    /// What is used now; rates are since the youngest look that is old enough.
    fn amounts(&self, now: Timestamp, usage: &Usage) -> Amounts {
        let old_enough = |mark: &Mark| now.duration_since(mark.at) >= LEAST_WINDOW;
        let marks = *self.marks.lock();
        let begin = Mark { at: self.since, cpu_micros: 0, requests: 0 };
        let from = marks.into_iter().flatten().find(old_enough).unwrap_or(begin);
        let window_millis =
            u64::try_from(now.duration_since(from.at).as_millis()).unwrap_or(0).max(1);
        let rate = |now: u64, before: u64| {
            now.saturating_sub(before).saturating_mul(1_000_000) / window_millis
        };
        Amounts {
            // Microseconds a millisecond are thousandths of a core.
            cpu_nanocores: rate(usage.cpu_micros, from.cpu_micros),
            memory_bytes: usage.memory_bytes,
            window_millis,
            // As many in a millisecond are thousands a second.
            requests_milli: usage.is_handler.then(|| rate(usage.requests, from.requests)),
        }
    }
}

/// One container that runs.
pub struct Measured {
    pub name: String,
    pub usage: Usage,
    pub amounts: Amounts,
    pub since: Timestamp,
}

impl PodEntry {
    /// The containers that run, and what they use.
    pub fn measured(&self, now: Timestamp) -> Vec<Measured> {
        let measure = |(name, running): (String, Running)| {
            let usage = running.container.upgrade()?.usage();
            let (amounts, since) = (running.looks.amounts(now, &usage), running.looks.since);
            Some(Measured { name, usage, amounts, since })
        };
        self.all_running().into_iter().filter_map(measure).collect()
    }

    fn usage(&self, key: &ObjectKey, now: Timestamp) -> Option<PodUsage> {
        let containers = self.measured(now).into_iter();
        let containers: Vec<ContainerUsage> =
            containers.map(|one| ContainerUsage { name: one.name, amounts: one.amounts }).collect();
        let ObjectKey { namespace, name } = key.clone();
        (!containers.is_empty()).then_some(PodUsage { namespace, name, at: now, containers })
    }
}

impl Shared {
    /// What one pod uses; `None` if nothing of it runs.
    pub(super) fn usage_of(&self, namespace: &str, pod: &str) -> Option<PodUsage> {
        let entry = self.pods.get(namespace, pod)?;
        entry.usage(&ObjectKey::new(namespace, pod), self.clock.now())
    }

    /// What all pods use.
    pub(super) fn usage(&self) -> NodeUsage {
        let at = self.clock.now();
        let pods = self.pods.all();
        let pods = pods.iter().filter_map(|(key, entry)| entry.usage(key, at)).collect();
        NodeUsage { at, total: self.total(at).1, pods }
    }

    /// Processor time of all containers that ever ran, memory of those that run.
    pub(super) fn total(&self, now: Timestamp) -> (Usage, Amounts) {
        let mut total = Usage { cpu_micros: self.pods.ended_cpu_micros(), ..Usage::default() };
        for (_, entry) in self.pods.all() {
            for (_, running) in entry.all_running() {
                let Some(container) = running.container.upgrade() else { continue };
                let usage = container.usage();
                total.cpu_micros += usage.cpu_micros;
                total.memory_bytes += usage.memory_bytes;
                total.instances += usage.instances;
            }
        }
        (total, self.looks.amounts(now, &total))
    }
}

/// Looks at the counts of every container now and then.
pub async fn keep_looking(node: Arc<Shared>) {
    loop {
        node.clock.sleep(LOOK_PERIOD).await;
        let now = node.clock.now();
        for (_, entry) in node.pods.all() {
            for (_, running) in entry.all_running() {
                if let Some(container) = running.container.upgrade() {
                    running.looks.mark(now, &container.usage());
                }
            }
        }
        let (total, _) = node.total(now);
        node.looks.mark(now, &total);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_a_window_that_is_long_enough() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let used = |cpu_micros: u64| Usage { cpu_micros, ..Usage::default() };
        let looks = Looks::since(at(0));
        let rate = |seconds: i64, cpu_micros: u64| {
            let amounts = looks.amounts(at(seconds), &used(cpu_micros));
            assert_eq!(amounts.requests_milli, None);
            (amounts.cpu_nanocores, amounts.window_millis)
        };
        // Half a core since the start.
        assert_eq!(rate(2, 1_000_000), (500_000_000, 2000));
        looks.mark(at(15), &used(1_000_000));
        assert_eq!(rate(17, 1_000_000).1, 17_000, "the look is too young");
        assert_eq!(rate(20, 6_000_000), (1_000_000_000, 5000));
        looks.mark(at(30), &used(6_000_000));
        assert_eq!(rate(31, 6_000_000), (5_000_000_000_000 / 16_000, 16_000));
        assert_eq!(rate(40, 6_000_000), (0, 10_000));
        assert_eq!(rate(30, 0).0, 0, "a time that fell is no rate");
    }

    #[test]
    fn requests_of_handlers_have_a_rate() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let got = |requests: u64| Usage { is_handler: true, requests, ..Usage::default() };
        let looks = Looks::since(at(0));
        assert_eq!(looks.amounts(at(10), &got(0)).requests_milli, Some(0));
        assert_eq!(looks.amounts(at(10), &got(25)).requests_milli, Some(2_500));
        looks.mark(at(15), &got(100));
        assert_eq!(looks.amounts(at(25), &got(1_100)).requests_milli, Some(100_000));
    }
}
