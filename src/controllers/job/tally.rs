//! How many pods of a Job succeeded and failed, each counted once.
//!
//! ```text
//!   ended, tracked ──▶ named in status ──▶ finalizer removed ──▶ counted, no longer named
//! ```
//!
//! A step is taken when the one before it is seen, so that a crash anywhere repeats one at most.
//! Indexes need no names: that an index is complete can be said twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use k8s_openapi::api::batch::v1::{JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::failures::{self, Failures, Verdict, verdict};
use super::indexes::Indexes;
use super::pods::{self, Fate, fate};
use super::target::Target;
use crate::base::planted::planted;
use crate::controllers::ownership::uid;
use crate::controllers::pods::{is_active, phase};

/// Pods named in the status at a time; the others wait for the next look.
const MOST_NAMED: usize = 500;

pub struct Tally<'a> {
    spec: &'a JobSpec,
    mine: &'a [&'a Pod],
    counted_succeeded: i32,
    counted_failed: i32,
    /// The uids that the status is to name.
    named_succeeded: BTreeSet<String>,
    named_failed: BTreeSet<String>,
    /// Pods that ended and were neither named nor counted at first: [`Tally::release`] names some.
    new_succeeded: Vec<&'a Pod>,
    new_failed: Vec<&'a Pod>,
    pub completed: Indexes,
    pub failed_indexes: Indexes,
    /// With `backoffLimitPerIndex`, the last failed pod of each index that needs another one: it is
    /// kept until that one is there, because it knows how often the index failed.
    pub retried: BTreeMap<u32, &'a Pod>,
}

impl<'a> Tally<'a> {
    pub fn of(spec: &'a JobSpec, status: &JobStatus, mine: &'a [&'a Pod]) -> Tally<'a> {
        let mut tally = Tally {
            spec,
            mine,
            counted_succeeded: status.succeeded.unwrap_or(0),
            counted_failed: status.failed.unwrap_or(0),
            named_succeeded: BTreeSet::new(),
            named_failed: BTreeSet::new(),
            new_succeeded: Vec::new(),
            new_failed: Vec::new(),
            completed: Indexes::default(),
            failed_indexes: Indexes::default(),
            retried: BTreeMap::new(),
        };
        tally.settle_named(status.uncounted_terminated_pods.clone().unwrap_or_default());
        tally.look_for_ended();
        if pods::is_indexed(spec) {
            tally.look_at_indexes(status);
        }
        tally
    }

    /// Those whose finalizer is gone are counted for good.
    fn settle_named(&mut self, named: UncountedTerminatedPods) {
        let tracked: HashSet<&str> = self.tracked().map(|pod| uid(&pod.metadata)).collect();
        for uid in named.succeeded.into_iter().flatten() {
            if tracked.contains(uid.as_str()) && !planted("a Job counts what it named at once") {
                self.named_succeeded.insert(uid);
            } else {
                self.counted_succeeded = self.counted_succeeded.saturating_add(1);
            }
        }
        for uid in named.failed.into_iter().flatten() {
            if tracked.contains(uid.as_str()) {
                self.named_failed.insert(uid);
            } else {
                self.counted_failed = self.counted_failed.saturating_add(1);
            }
        }
    }

    fn tracked(&self) -> impl Iterator<Item = &'a Pod> + use<'a> {
        self.mine.iter().copied().filter(|pod| pods::is_tracked(pod))
    }

    fn look_for_ended(&mut self) {
        for pod in self.tracked().filter(|pod| !self.is_named(pod)).collect::<Vec<_>>() {
            match fate(pod, self.spec) {
                Fate::Succeeded => self.new_succeeded.push(pod),
                Fate::Failed => self.new_failed.push(pod),
                Fate::Open => {}
            }
        }
    }

    fn look_at_indexes(&mut self, status: &JobStatus) {
        let (spec, limit) = (self.spec, pods::completions(self.spec));
        let index = |pod: &&Pod| pods::index_of(pod, spec);
        let read =
            |text: &Option<String>| Indexes::parse(text.as_deref().unwrap_or_default(), limit);
        self.completed = read(&status.completed_indexes);
        let succeeded = self.mine.iter().copied().filter(|pod| phase(pod) == "Succeeded");
        self.completed.add(succeeded.filter_map(|pod| index(&pod)));
        let Some(most) = spec.backoff_limit_per_index else { return };
        self.failed_indexes = read(&status.failed_indexes);
        let last = self.new_failed.iter().filter(|pod| failures::ends_index(spec, pod, most));
        let completed = &self.completed;
        let last = last.filter_map(index).filter(|index| !completed.contains(*index));
        self.failed_indexes.add(last.collect::<Vec<_>>());
        let active = self.mine.iter().filter(|pod| is_active(pod));
        let active: HashSet<u32> = active.filter_map(index).collect();
        for pod in &self.new_failed {
            let Some(index) = index(pod) else { continue };
            if active.contains(&index) || self.is_done(index) {
                continue;
            }
            let age = |pod: &Pod| (Failures::before(pod).all(), pods::ended_at(pod));
            let kept = self.retried.entry(index).or_insert(pod);
            if age(pod) >= age(kept) {
                *kept = pod;
            }
        }
    }

    /// Whether an index needs no pod any more.
    pub fn is_done(&self, index: u32) -> bool {
        self.completed.contains(index) || self.failed_indexes.contains(index)
    }

    fn is_named(&self, pod: &Pod) -> bool {
        let uid = uid(&pod.metadata);
        self.named_succeeded.contains(uid) || self.named_failed.contains(uid)
    }

    /// Pods, or indexes, that succeeded, with those that are not counted yet.
    pub fn succeeded(&self) -> usize {
        if pods::is_indexed(self.spec) {
            return self.completed.len();
        }
        let counted = usize::try_from(self.counted_succeeded).unwrap_or(0);
        counted + self.named_succeeded.len() + self.unnamed(&self.new_succeeded).count()
    }

    /// Those of them that were not named meanwhile.
    fn unnamed<'t>(&'t self, new: &'t [&'a Pod]) -> impl Iterator<Item = &'a Pod> + 't {
        let twice = planted("a Job counts what it names twice");
        new.iter().copied().filter(move |pod| twice || !self.is_named(pod))
    }

    /// Pods that failed and count, with those that are not counted yet.
    pub fn failed(&self) -> usize {
        let counts = |pod: &&Pod| {
            verdict(self.spec, pod) != Verdict::Ignored && failures::counts_for(pod, self.spec)
        };
        let counted = usize::try_from(self.counted_failed).unwrap_or(0);
        let new = self.unnamed(&self.new_failed).filter(counts).count();
        counted + self.named_failed.len() + new
    }

    /// A pod that fails the whole Job, with why.
    pub fn fatal(&self) -> Option<String> {
        let failed = self.mine.iter().filter(|pod| fate(pod, self.spec) == Fate::Failed);
        failed.into_iter().find_map(|pod| match verdict(self.spec, pod) {
            Verdict::FailsJob(why) => Some(why),
            _ => None,
        })
    }

    /// Decides which pods may lose their finalizer once the status is written, and names those that
    /// are to be counted for it. All of them if the Job is decided or deleted.
    pub fn release(&mut self, target: Option<&Target>, is_deleted: bool) -> Vec<&'a Pod> {
        let ends = target.is_some() || is_deleted;
        let mut released = Vec::new();
        for pod in self.tracked().collect::<Vec<_>>() {
            if self.is_named(pod) {
                released.push(pod);
                continue;
            }
            if self.named_succeeded.len() + self.named_failed.len() >= MOST_NAMED {
                break;
            }
            match fate(pod, self.spec) {
                Fate::Succeeded => self.name_success(pod),
                Fate::Failed if !ends && self.is_retried(pod) => continue,
                Fate::Failed => self.name_failure(pod),
                Fate::Open if !ends => continue,
                // What a failed Job gives up counts as failed.
                Fate::Open if target.is_some_and(|target| !target.success) => {
                    self.name_failure(pod);
                }
                Fate::Open => {}
            }
            released.push(pod);
        }
        released
    }

    fn is_retried(&self, pod: &Pod) -> bool {
        let index = pods::index_of(pod, self.spec);
        let kept = index.and_then(|index| self.retried.get(&index));
        kept.is_some_and(|kept| kept.metadata.uid == pod.metadata.uid)
    }

    fn name_success(&mut self, pod: &Pod) {
        if !pods::is_indexed(self.spec) {
            self.named_succeeded.insert(uid(&pod.metadata).into());
        }
    }

    fn name_failure(&mut self, pod: &Pod) {
        let ignored =
            fate(pod, self.spec) == Fate::Failed && verdict(self.spec, pod) == Verdict::Ignored;
        if !ignored && failures::counts_for(pod, self.spec) {
            self.named_failed.insert(uid(&pod.metadata).into());
        }
    }

    /// Nothing is between being named and being counted.
    pub fn is_settled(&self) -> bool {
        self.named_succeeded.is_empty() && self.named_failed.is_empty()
    }

    pub fn write(&self, status: &mut JobStatus) {
        let some = |count: i32| Some(count).filter(|count| *count > 0);
        let list = |set: &BTreeSet<String>| {
            Some(set.iter().cloned().collect::<Vec<_>>()).filter(|list| !list.is_empty())
        };
        status.failed = some(self.counted_failed);
        if pods::is_indexed(self.spec) {
            status.succeeded = some(i32::try_from(self.completed.len()).unwrap_or(i32::MAX));
            let text = self.completed.to_string();
            status.completed_indexes = Some(text).filter(|text| !text.is_empty());
        } else {
            status.succeeded = some(self.counted_succeeded);
        }
        if self.spec.backoff_limit_per_index.is_some() {
            status.failed_indexes = Some(self.failed_indexes.to_string());
        }
        status.uncounted_terminated_pods = Some(UncountedTerminatedPods {
            succeeded: list(&self.named_succeeded),
            failed: list(&self.named_failed),
        });
    }

    /// The indexes that neither are done nor have a pod, from the first on, at most so many.
    pub fn free_indexes(&self, most: usize) -> Vec<u32> {
        let taken: HashSet<u32> = self
            .mine
            .iter()
            .filter(|pod| fate(pod, self.spec) == Fate::Open)
            .filter_map(|pod| pods::index_of(pod, self.spec))
            .collect();
        let again = planted("a Job runs an index that runs");
        let free = |index: &u32| (again || !taken.contains(index)) && !self.is_done(*index);
        (0..pods::completions(self.spec)).filter(free).take(most).collect()
    }
}
