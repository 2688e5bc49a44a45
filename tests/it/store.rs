//! The store through its door: one contract for every backend, and what a disk can do to it.

mod crash;
mod disk;
mod faulty;

use std::sync::Arc;

use proptest::prelude::*;
use wasmfleet::store::hub::HubOptions;
use wasmfleet::store::memory::{self, Faults, MemoryStore};
use wasmfleet::store::redb::{Options, RedbStore};
use wasmfleet::store::{Key, SharedStore, conformance};

#[tokio::test]
async fn memory_conforms() {
    conformance::run(async || Arc::new(MemoryStore::default()) as SharedStore).await;
}

#[tokio::test]
async fn memory_conforms_with_late_watches_and_slow_commits() {
    let faults = Faults { late_polls: 5, commit_yields: 3, ..Faults::default() };
    // Scenarios that ask for "no event now" are about a watch that is not late.
    let options = memory::Options { faults, seed: 1, ..memory::Options::default() };
    conformance::run(async || Arc::new(MemoryStore::new(options.clone())) as SharedStore).await;
}

#[tokio::test]
async fn redb_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let make = async || {
        count.set(count.get() + 1);
        let path = directory.path().join(format!("{}.redb", count.get()));
        Arc::new(RedbStore::open(path, Options::default()).unwrap()) as SharedStore
    };
    conformance::run(make).await;
}

/// Every commit in a checkpoint of its own, as far as history allows.
#[tokio::test]
async fn redb_conforms_while_checkpoints_run() {
    let directory = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    let make = async || {
        count.set(count.get() + 1);
        let path = directory.path().join(format!("{}.redb", count.get()));
        // The suite reads history that is some 200 events old, and commits of 1,000 events.
        let hub = HubOptions { ring_events: 1_500, ..HubOptions::default() };
        let options = Options { hub, checkpoint_revisions: 1, ..Options::default() };
        Arc::new(RedbStore::open(path, options).unwrap()) as SharedStore
    };
    conformance::run(make).await;
}

fn parts() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec("[\\x00\\x01a-c/.\u{ff}]{0,4}", 0..4)
}

proptest! {
    #[test]
    fn keys_sort_as_their_parts_and_never_escape(one in parts(), other in parts()) {
        let key = |parts: &[String]| Key::new(&parts.iter().map(String::as_str).collect::<Vec<_>>());
        let (a, b) = (key(&one), key(&other));
        prop_assert_eq!(a.cmp(&b), one.cmp(&other));
        prop_assert_eq!(a.starts_with(&b), one.starts_with(&other));
        prop_assert_eq!(a.parts(), Some(one));
    }

    #[test]
    fn any_bytes_are_a_key_or_not_but_never_a_panic(bytes: Vec<u8>) {
        let key = Key(bytes.into());
        if let Some(parts) = key.parts() {
            let parts: Vec<_> = parts.iter().map(String::as_str).collect();
            prop_assert_eq!(Key::new(&parts), key);
        }
    }
}
