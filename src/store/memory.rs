//! A store without a disk, for tests and simulation, with faults on demand.
//!
//! Keeps the contract of [`super::Store`] under every fault: a conflict may be reported where there was
//! none, a watch may end early or be late, but no event is ever lost or reordered. Everything
//! random comes from one seed, and the store needs no runtime with more than one thread and no
//! clock, so that a run can be repeated exactly.

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::embedded::{Backend, Embedded};
use super::hub::{Fate, HubOptions};
use super::stage::Stage;
use super::state::State;
use super::{CommitError, Committed, Expect, Op, Revision, WatchEnd};

/// Which faults are injected. Probabilities are between 0 and 1; the default is none.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// A commit with an expectation other than [`Expect::Any`] fails with a conflict that names
    /// that operation and the key's present entry, as if another writer had come and gone.
    pub conflict: f64,
    /// A commit fails with [`CommitError::Overloaded`].
    pub overloaded: f64,
    /// A watcher that would be sent events is ended with [`WatchEnd::TooSlow`] instead.
    pub end_watch: f64,
    /// Events wait in the watcher's backlog until it was polled up to this many more times; other
    /// tasks run in between. 0: events are never late.
    pub late_polls: u32,
    /// A commit lets other tasks run up to this many times before it is carried out.
    pub commit_yields: u32,
}

/// How a [`MemoryStore`] is made.
#[derive(Clone, Debug, Default)]
pub struct Options {
    pub hub: HubOptions,
    pub faults: Faults,
    /// Decides, with the order of calls, where faults strike.
    pub seed: u64,
}

/// See the module's documentation.
pub struct MemoryStore {
    embedded: Embedded,
    writer: Mutex<Writer>,
}

struct Writer {
    faults: Faults,
    random: StdRng,
    closed: bool,
}

impl Default for MemoryStore {
    fn default() -> MemoryStore {
        MemoryStore::new(Options::default())
    }
}

impl MemoryStore {
    pub fn new(options: Options) -> MemoryStore {
        let state = State::new(&options.hub, 0, Default::default());
        let random = StdRng::seed_from_u64(options.seed);
        let writer = Writer { faults: Faults::default(), random, closed: false };
        let store = MemoryStore {
            embedded: Embedded::new(&options.hub, state),
            writer: Mutex::new(writer),
        };
        store.set_faults(options.faults);
        store
    }

    /// Changes the faults from now on, for example to none for the quiet end of a simulation.
    pub fn set_faults(&self, faults: Faults) {
        let mut writer = self.writer.lock();
        let mut random = StdRng::seed_from_u64(writer.random.random());
        let (end_watch, late_polls) = (faults.end_watch, faults.late_polls);
        writer.faults = faults;
        let fate = move || {
            if random.random_bool(probability(end_watch)) {
                Fate::End
            } else if late_polls > 0 {
                Fate::Late(random.random_range(0..=late_polls))
            } else {
                Fate::Deliver
            }
        };
        self.embedded.hub.set_fate(Some(Box::new(fate)));
    }

    /// Ends every watch with [`WatchEnd::TooSlow`].
    pub fn end_watches(&self) {
        self.embedded.hub.end_all(WatchEnd::TooSlow);
    }

    /// Fails for good, as a store whose disk cannot be trusted any more.
    pub fn fail(&self, why: &str) {
        let _no_commit = self.writer.lock();
        self.embedded.failure.set(why);
    }

    fn commit_now(&self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        let mut writer = self.writer.lock();
        if writer.closed {
            return Err(closed());
        }
        if let Some(why) = self.embedded.failure.get() {
            return Err(CommitError::Failed(why));
        }
        writer.strike(&ops, &self.embedded)?;
        let (committed, (events, revision)) = {
            let state = self.embedded.state();
            let mut stage = Stage::new(&state);
            (stage.commit(&ops)?, stage.finish())
        };
        if !events.is_empty() {
            self.embedded.publish(&events, revision);
        }
        Ok(committed)
    }
}

impl Writer {
    fn strike(&mut self, ops: &[Op], embedded: &Embedded) -> Result<(), CommitError> {
        if self.random.random_bool(probability(self.faults.overloaded)) {
            return Err(CommitError::Overloaded);
        }
        let expecting = ops.iter().enumerate().find_map(|(index, op)| match op {
            Op::Put { key, expect, .. }
            | Op::Delete { key, expect, .. }
            | Op::Check { key, expect } => (*expect != Expect::Any).then_some((index, key)),
        });
        if let Some((op, key)) = expecting
            && self.random.random_bool(probability(self.faults.conflict))
        {
            return Err(CommitError::Conflict { op, current: embedded.get(key) });
        }
        Ok(())
    }
}

fn probability(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value.clamp(0.0, 1.0) }
}

fn closed() -> CommitError {
    CommitError::Failed("the store is closed".to_owned())
}

impl Backend for MemoryStore {
    fn embedded(&self) -> &Embedded {
        &self.embedded
    }

    async fn write(&self, ops: Vec<Op>) -> Result<Committed, CommitError> {
        let yields = {
            let mut writer = self.writer.lock();
            let most = writer.faults.commit_yields;
            writer.random.random_range(0..=most)
        };
        for _ in 0..yields {
            tokio::task::yield_now().await;
        }
        self.commit_now(ops)
    }

    async fn forget(&self, revision: Revision) -> Result<(), CommitError> {
        let writer = self.writer.lock();
        if writer.closed {
            return Err(closed());
        }
        self.embedded.compact(revision);
        Ok(())
    }

    async fn end(&self) {
        self.writer.lock().closed = true;
        self.embedded.hub.end_all(WatchEnd::Closed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Key, Store, Value};

    fn put(name: &str, expect: Expect) -> Op {
        Op::Put { key: Key::new(&[name]), value: Value::plain("v"), expect }
    }

    async fn story(seed: u64) -> Vec<String> {
        let faults = Faults {
            conflict: 0.3,
            overloaded: 0.1,
            end_watch: 0.2,
            late_polls: 3,
            commit_yields: 2,
        };
        let store = MemoryStore::new(Options { faults, seed, ..Options::default() });
        let mut watch = store.watch(&Key::everything(), 0).unwrap();
        let mut story = Vec::new();
        for index in 0..50 {
            let name = format!("key-{index}");
            story.push(format!("{:?}", store.commit(vec![put(&name, Expect::Absent)]).await));
            if story.last().is_some_and(|line| line.starts_with("Ok")) {
                match watch.next().await {
                    Ok(events) => story.push(format!("{events:?}")),
                    Err(end) => {
                        story.push(end.to_string());
                        watch = store.watch(&Key::everything(), store.revision()).unwrap();
                    }
                }
            }
        }
        story
    }

    #[tokio::test]
    async fn a_seed_decides_everything_and_faults_do_strike() {
        let first = story(7).await;
        assert_eq!(first, story(7).await);
        assert_ne!(first, story(8).await);
        for part in ["Conflict", "Overloaded", "too slow", "Ok(Committed"] {
            assert!(first.iter().any(|line| line.contains(part)), "{part} in {first:#?}");
        }
    }

    #[tokio::test]
    async fn no_conflict_is_invented_where_any_state_will_do() {
        let faults = Faults { conflict: 1.0, ..Faults::default() };
        let store = MemoryStore::new(Options { faults, ..Options::default() });
        store.commit(vec![put("a", Expect::Any)]).await.unwrap();
        let error = store.commit(vec![put("b", Expect::Absent)]).await.unwrap_err();
        assert!(matches!(error, CommitError::Conflict { op: 0, current: None }));
        store.set_faults(Faults::default());
        store.commit(vec![put("b", Expect::Absent)]).await.unwrap();
    }
}
