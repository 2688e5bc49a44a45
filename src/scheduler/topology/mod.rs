//! What pods on nodes mean to others, counted as pods come and go: for each set of pods that a
//! constraint or a term is about, how many of them a node has; for each term that pods carry, how
//! many of its carriers a node has. A decision counts no pods.
//!
//! ```text
//!   pod ─▶ its kind: namespace, labels, terms; pods of a workload share one
//!            └─▶ the tallies that count such pods (found once for a kind) ─▶ number by node
//! ```
//!
//! Knows no constraints: [`super::slots`] makes numbers of domains out of those of nodes.

pub mod defaults;
pub mod domains;
pub mod matcher;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::budgets::Labels;
use matcher::{Matcher, Part, Term};

/// Names a tally; never given twice.
pub type TallyId = u64;
/// Names a kind of pods; never given twice.
pub type KindId = u64;
/// The tallies that count a pod.
pub type Tallies = Arc<[TallyId]>;

/// Tallies that nobody asked for since the sweep before the last are let go once there are so many
/// more than were needed then.
const SPARE_TALLIES: usize = 4096;

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// The pods that a matcher selects.
    Matching(Matcher),
    /// The pods that carry a term.
    Carrying(Term),
}

/// What pods that mean the same to others have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Footprint {
    pub namespace: String,
    pub labels: Arc<Labels>,
    pub is_ending: bool,
    pub terms: Vec<Term>,
}

#[derive(Clone)]
struct Kind {
    footprint: Arc<Footprint>,
    tallies: Tallies,
    /// Its pods by the index of their node.
    by_node: HashMap<u32, u32>,
    /// Its pods on all nodes, those that are not known included.
    pods: usize,
}

#[derive(Clone)]
struct Tally {
    counted: Arc<Counted>,
    by_node: HashMap<u32, u32>,
    /// The sweep before which it was asked for last.
    asked: u64,
}

/// Where tallies are found that may count a pod: by a label that it must have.
#[derive(Clone, Default)]
struct Index {
    /// By key, then by value.
    pinned: HashMap<String, HashMap<String, BTreeSet<TallyId>>>,
    others: BTreeSet<TallyId>,
}

impl Index {
    fn insert(&mut self, matcher: &Matcher, id: TallyId) {
        let place = match matcher.pin() {
            Some((key, value)) => {
                self.pinned.entry(key.into()).or_default().entry(value.into()).or_default()
            }
            None => &mut self.others,
        };
        place.insert(id);
    }

    fn remove(&mut self, matcher: &Matcher, id: TallyId) {
        let Some((key, value)) = matcher.pin() else {
            self.others.remove(&id);
            return;
        };
        let Some(values) = self.pinned.get_mut(key) else { return };
        if let Some(ids) = values.get_mut(value) {
            ids.remove(&id);
            if ids.is_empty() {
                values.remove(value);
            }
        }
        if values.is_empty() {
            self.pinned.remove(key);
        }
    }

    fn candidates(&self, labels: &Labels) -> Vec<TallyId> {
        let pinned = labels.iter().filter_map(|(key, value)| self.pinned.get(key)?.get(value));
        let mut ids: Vec<TallyId> = pinned.flatten().chain(&self.others).copied().collect();
        ids.sort_unstable();
        ids
    }
}

/// All tallies and kinds of pods.
#[derive(Clone, Default)]
pub struct Topology {
    kinds: HashMap<KindId, Kind>,
    kind_ids: HashMap<Arc<Footprint>, KindId>,
    kinds_of: HashMap<String, BTreeSet<KindId>>,
    tallies: HashMap<TallyId, Tally>,
    tally_ids: HashMap<Arc<Counted>, TallyId>,
    matching: Index,
    carrying: Index,
    namespaces: HashMap<String, Labels>,
    last_id: u64,
    sweeps: u64,
    needed: usize,
    /// The tallies whose numbers changed since they were taken.
    touched: HashSet<TallyId>,
}

impl Topology {
    fn new_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn matches(&self, matcher: &Matcher, space: &str, labels: &Labels) -> bool {
        static NO_LABELS: Labels = Labels::new();
        let space_labels = self.namespaces.get(space).unwrap_or(&NO_LABELS);
        matcher.matches(space, space_labels, labels)
    }

    /// Whether all the parts select a pod.
    pub fn selects(&self, parts: &[Part], space: &str, labels: &Labels) -> bool {
        let matcher = Matcher { parts: parts.to_vec(), counts_ending: true };
        self.matches(&matcher, space, labels)
    }

    /// The tally of what is to be counted; what is there already is counted when it is new.
    pub fn tally(&mut self, counted: Counted) -> TallyId {
        if let Some(id) = self.tally_ids.get(&counted) {
            if let Some(tally) = self.tallies.get_mut(id) {
                tally.asked = self.sweeps;
            }
            return *id;
        }
        let (id, counted) = (self.new_id(), Arc::new(counted));
        let mut by_node = HashMap::new();
        match &*counted {
            Counted::Carrying(term) => self.carrying.insert(&term.matcher, id),
            Counted::Matching(matcher) => {
                self.matching.insert(matcher, id);
                for kind in self.kinds_of_matcher(matcher) {
                    let Some(kind) = self.kinds.get_mut(&kind) else { continue };
                    kind.tallies = kind.tallies.iter().copied().chain([id]).collect();
                    for (node, pods) in &kind.by_node {
                        *by_node.entry(*node).or_default() += pods;
                    }
                }
            }
        }
        self.tally_ids.insert(counted.clone(), id);
        self.tallies.insert(id, Tally { counted, by_node, asked: self.sweeps });
        id
    }

    fn kinds_of_matcher(&self, matcher: &Matcher) -> Vec<KindId> {
        let suits = |id: &&KindId| {
            self.kinds.get(id).is_some_and(|kind| {
                let print = &kind.footprint;
                (matcher.counts_ending || !print.is_ending)
                    && self.matches(matcher, &print.namespace, &print.labels)
            })
        };
        match matcher.names() {
            Some(names) => {
                let kinds = names.iter().filter_map(|name| self.kinds_of.get(name)).flatten();
                kinds.filter(suits).copied().collect()
            }
            None => self.kinds.keys().filter(suits).copied().collect(),
        }
    }

    /// The terms of pods that are about a pod of this namespace and these labels, in the order of
    /// their names.
    pub fn terms_about(&self, space: &str, labels: &Labels) -> Vec<(TallyId, &Term)> {
        let candidates = self.carrying.candidates(labels).into_iter().filter_map(|id| {
            let Counted::Carrying(term) = &*self.tallies.get(&id)?.counted else { return None };
            self.matches(&term.matcher, space, labels).then_some((id, term))
        });
        candidates.collect()
    }

    /// The tallies that count a pod, which need not be on a node.
    pub fn tallies_of(&self, footprint: &Footprint) -> Tallies {
        if let Some(kind) = self.kind_ids.get(footprint).and_then(|id| self.kinds.get(id)) {
            return kind.tallies.clone();
        }
        self.find_tallies(footprint)
    }

    fn find_tallies(&self, footprint: &Footprint) -> Tallies {
        let terms = footprint.terms.iter();
        let carried =
            terms.filter_map(|term| self.tally_ids.get(&Counted::Carrying(term.clone())).copied());
        let matching = self.matching.candidates(&footprint.labels).into_iter().filter(|id| {
            let counted = self.tallies.get(id).map(|tally| &*tally.counted);
            let Some(Counted::Matching(matcher)) = counted else { return false };
            (matcher.counts_ending || !footprint.is_ending)
                && self.matches(matcher, &footprint.namespace, &footprint.labels)
        });
        let all: BTreeSet<TallyId> = matching.chain(carried).collect();
        all.into_iter().collect()
    }

    /// Counts a pod in; answers its kind.
    pub fn add(&mut self, footprint: Footprint) -> KindId {
        let id = match self.kind_ids.get(&footprint) {
            Some(id) => *id,
            None => {
                for term in &footprint.terms {
                    self.tally(Counted::Carrying(term.clone()));
                }
                let tallies = self.find_tallies(&footprint);
                let (id, footprint) = (self.new_id(), Arc::new(footprint));
                self.kind_ids.insert(footprint.clone(), id);
                self.kinds_of.entry(footprint.namespace.clone()).or_default().insert(id);
                let by_node = HashMap::new();
                self.kinds.insert(id, Kind { footprint, tallies, by_node, pods: 0 });
                id
            }
        };
        if let Some(kind) = self.kinds.get_mut(&id) {
            kind.pods += 1;
        }
        id
    }

    /// Counts a pod out; a kind without pods is let go.
    pub fn remove(&mut self, id: KindId) {
        let Some(kind) = self.kinds.get_mut(&id) else { return };
        kind.pods -= 1;
        if kind.pods > 0 {
            return;
        }
        let Some(kind) = self.kinds.remove(&id) else { return };
        self.kind_ids.remove(&kind.footprint);
        if let Some(kinds) = self.kinds_of.get_mut(&kind.footprint.namespace) {
            kinds.remove(&id);
            if kinds.is_empty() {
                self.kinds_of.remove(&kind.footprint.namespace);
            }
        }
    }

    /// Whether a pod of this kind has this footprint.
    pub fn is(&self, kind: KindId, footprint: &Footprint) -> bool {
        self.kinds.get(&kind).is_some_and(|kind| *kind.footprint == *footprint)
    }

    /// The tallies that count the pods of a kind.
    pub fn tallies(&self, kind: KindId) -> Tallies {
        self.kinds.get(&kind).map_or_else(|| [].into(), |kind| kind.tallies.clone())
    }

    /// Counts a pod in on a node that is known, or out. Answers the tallies that count it.
    pub fn count(&mut self, kind: KindId, node: u32, is_there: bool) -> Tallies {
        let Some(kind) = self.kinds.get_mut(&kind) else { return [].into() };
        step(&mut kind.by_node, node, is_there);
        for id in kind.tallies.iter() {
            if let Some(tally) = self.tallies.get_mut(id) {
                step(&mut tally.by_node, node, is_there);
                self.touched.insert(*id);
            }
        }
        kind.tallies.clone()
    }

    /// How many of what a tally counts each node has that has some.
    pub fn by_node(&self, tally: TallyId) -> impl Iterator<Item = (u32, u32)> {
        let by_node = self.tallies.get(&tally).map(|tally| &tally.by_node);
        by_node.into_iter().flatten().map(|(node, count)| (*node, *count))
    }

    /// The tallies whose numbers changed since the last call.
    pub fn take_touched(&mut self) -> HashSet<TallyId> {
        std::mem::take(&mut self.touched)
    }

    /// Numbers of these are told as changed.
    pub fn touch(&mut self, tallies: HashSet<TallyId>) {
        self.touched.extend(tallies);
    }

    /// Takes the labels of a namespace, or its end. Answers whether that changed anything.
    pub fn set_namespace(&mut self, name: &str, labels: Option<&Labels>) -> bool {
        if self.namespaces.get(name) == labels {
            return false;
        }
        match labels {
            Some(labels) => drop(self.namespaces.insert(name.into(), labels.clone())),
            None => drop(self.namespaces.remove(name)),
        }
        for id in self.kinds_of.get(name).cloned().unwrap_or_default() {
            self.look_again(id);
        }
        true
    }

    /// Finds the tallies of a kind anew.
    fn look_again(&mut self, id: KindId) {
        let Some(kind) = self.kinds.get(&id) else { return };
        let (footprint, before) = (kind.footprint.clone(), kind.tallies.clone());
        let now = self.find_tallies(&footprint);
        let Some(kind) = self.kinds.get_mut(&id) else { return };
        kind.tallies = now.clone();
        let changes = [(&before, &now, false), (&now, &before, true)];
        for (ones, others, is_there) in changes {
            for tally_id in ones.iter().filter(|id| !others.contains(id)) {
                let Some(tally) = self.tallies.get_mut(tally_id) else { continue };
                self.touched.insert(*tally_id);
                for (node, pods) in &kind.by_node {
                    for _ in 0..*pods {
                        step(&mut tally.by_node, *node, is_there);
                    }
                }
            }
        }
    }

    /// Lets tallies go that nobody asked for in a long time and no pod carries, when there are many.
    /// Answers whether some went.
    pub fn sweep(&mut self) -> bool {
        if self.tallies.len() <= 2 * self.needed + SPARE_TALLIES {
            return false;
        }
        let terms = self.kinds.values().flat_map(|kind| &kind.footprint.terms);
        let carried =
            terms.filter_map(|term| self.tally_ids.get(&Counted::Carrying(term.clone())).copied());
        let carried: HashSet<TallyId> = carried.collect();
        let old = self
            .tallies
            .iter()
            .filter(|(id, tally)| tally.asked < self.sweeps && !carried.contains(*id));
        let old: HashSet<TallyId> = old.map(|(id, _)| *id).collect();
        for id in &old {
            let Some(tally) = self.tallies.remove(id) else { continue };
            self.tally_ids.remove(&tally.counted);
            match &*tally.counted {
                Counted::Carrying(term) => self.carrying.remove(&term.matcher, *id),
                Counted::Matching(matcher) => self.matching.remove(matcher, *id),
            }
        }
        for kind in self.kinds.values_mut() {
            if kind.tallies.iter().any(|id| old.contains(id)) {
                kind.tallies =
                    kind.tallies.iter().copied().filter(|id| !old.contains(id)).collect();
            }
        }
        self.sweeps += 1;
        self.needed = self.tallies.len();
        let some = !old.is_empty();
        // Who waits for a change of theirs looks again, and so asks for them again.
        self.touched.extend(old);
        some
    }
}

fn step(by_node: &mut HashMap<u32, u32>, node: u32, is_there: bool) {
    let count = by_node.entry(node).or_default();
    *count = if is_there { *count + 1 } else { count.saturating_sub(1) };
    if *count == 0 {
        by_node.remove(&node);
    }
}
