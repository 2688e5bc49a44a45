//! The redb store and its file: reopening, sharing, damage, a full disk, a failing one.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use wasmfleet::store::hub::HubOptions;
use wasmfleet::store::redb::{OpenError, Options, RedbStore};
use wasmfleet::store::{CommitError, Entry, Expect, Key, Op, ReadError, Store, Value, WatchEnd};

use super::faulty::Faulty;

fn set(name: &str, value: Vec<u8>) -> Op {
    Op::Put { key: Key::new(&["k", name]), value: Value::plain(value), expect: Expect::Any }
}

fn delete(name: &str) -> Op {
    Op::Delete { key: Key::new(&["k", name]), expect: Expect::Any, last: None }
}

fn everything(store: &RedbStore) -> Vec<Entry> {
    store.list(&Key::everything(), None, 0, None).unwrap().entries
}

/// A short ring and frequent checkpoints, so that a few hundred commits pass through everything.
fn small() -> Options {
    let hub = HubOptions { ring_events: 40, ..HubOptions::default() };
    Options { hub, checkpoint_revisions: 25, ..Options::default() }
}

fn noise(random: &mut StdRng, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Random puts and deletes of values that do and do not compress.
async fn mixed(store: &RedbStore, random: &mut StdRng, commits: usize) {
    for _ in 0..commits {
        let name = random.random_range(0..60).to_string();
        let exists = store.get(&Key::new(&["k", &name])).unwrap().is_some();
        let op = match random.random_range(0..4) {
            0 if exists => delete(&name),
            1 => {
                let size = random.random_range(0..600);
                set(&name, noise(random, size))
            }
            _ => set(&name, name.repeat(random.random_range(0..900)).into_bytes()),
        };
        store.commit(vec![op]).await.unwrap();
    }
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    for options in [Options::default(), small()] {
        let path = directory.path().join(options.checkpoint_revisions.to_string());
        let mut random = StdRng::seed_from_u64(3);
        let mut before: Option<(u64, Vec<Entry>)> = None;
        for _ in 0..4 {
            let store = RedbStore::open(&path, options.clone()).unwrap();
            if let Some((revision, entries)) = &before {
                assert_eq!(store.revision(), *revision);
                assert_eq!(&everything(&store), entries);
            }
            mixed(&store, &mut random, 130).await;
            before = Some((store.revision(), everything(&store)));
            store.close().await;
        }
    }
}

#[tokio::test]
async fn recent_history_and_compaction_survive_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let store = RedbStore::open(&path, small()).unwrap();
    let mut random = StdRng::seed_from_u64(4);
    mixed(&store, &mut random, 200).await;
    let revision = store.revision();
    let oldest = match store.list(&Key::everything(), None, 0, Some(1)) {
        Err(ReadError::Compacted { oldest, .. }) => oldest,
        other => panic!("the first revision is no longer recent: {other:?}"),
    };
    let list = |store: &RedbStore, at| store.list(&Key::everything(), None, 0, Some(at));
    let pages: BTreeMap<_, _> =
        (oldest..=revision).map(|at| (at, list(&store, at).unwrap().entries)).collect();
    let events = store.watch(&Key::everything(), oldest).unwrap().next().await.unwrap();
    store.close().await;

    let store = RedbStore::open(&path, small()).unwrap();
    for (at, entries) in &pages {
        assert_eq!(&list(&store, *at).unwrap().entries, entries, "at {at}");
    }
    let again = store.watch(&Key::everything(), oldest).unwrap().next().await.unwrap();
    assert_eq!(again, events);
    store.compact(revision - 3).await.unwrap();
    store.close().await;

    let store = RedbStore::open(&path, small()).unwrap();
    assert!(list(&store, revision - 4).is_err());
    assert_eq!(list(&store, revision - 3).unwrap().entries, pages[&(revision - 3)]);
    store.close().await;
}

#[tokio::test]
async fn old_log_rows_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let store = RedbStore::open(&path, small()).unwrap();
    for step in 0..400 {
        store.commit(vec![set(&(step % 5).to_string(), vec![0; 10])]).await.unwrap();
    }
    store.close().await;
    let database = redb::Database::open(&path).unwrap();
    let read = redb::ReadableDatabase::begin_read(&database).unwrap();
    let log = read.open_table(redb::TableDefinition::<u64, &[u8]>::new("log")).unwrap();
    let rows = redb::ReadableTableMetadata::len(&log).unwrap();
    assert_eq!(rows, 40 + 1, "the ring's commits and the head");
}

#[tokio::test]
async fn a_file_in_use_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let store = RedbStore::open(&path, Options::default()).unwrap();
    let error = RedbStore::open(&path, Options::default()).err().unwrap();
    assert!(matches!(error, OpenError::InUse), "{error}");
    assert!(error.to_string().contains("in use by another process"));
    store.close().await;
    RedbStore::open(&path, Options::default()).unwrap().close().await;
}

#[tokio::test]
async fn what_is_no_store_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("text");
    std::fs::write(&path, "this is a text and no store".repeat(1000)).unwrap();
    let error = RedbStore::open(&path, Options::default()).err().unwrap();
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");

    let other = directory.path().join("other");
    let database = redb::Database::create(&other).unwrap();
    let write = database.begin_write().unwrap();
    write.open_table(redb::TableDefinition::<u64, u64>::new("theirs")).unwrap();
    write.commit().unwrap();
    drop(database);
    let error = RedbStore::open(&other, Options::default()).err().unwrap();
    assert!(matches!(error, OpenError::Damaged(_)), "{error}");

    let missing = directory.path().join("no/such/directory/db");
    let error = RedbStore::open(missing, Options::default()).err().unwrap();
    assert!(matches!(error, OpenError::Io(_)), "{error}");
    // A read-only file system that every machine has; no user may write there.
    let error = RedbStore::open("/proc/self/db", Options::default()).err().unwrap();
    assert!(matches!(error, OpenError::NotWritable(_) | OpenError::Io(_)), "{error}");
}

/// Flips single bits all over the file. The store must notice, or hold exactly what it held.
#[tokio::test]
async fn flipped_bits_are_noticed() {
    const SITES: usize = 100;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut random = StdRng::seed_from_u64(5);
    let store = RedbStore::open(&path, small()).unwrap();
    mixed(&store, &mut random, 300).await;
    let expected = everything(&store);
    store.close().await;
    let whole = std::fs::read(&path).unwrap();
    // Most of a young file is zero: flip where something is written.
    let written: Vec<usize> = (0..whole.len()).filter(|offset| whole[*offset] != 0).collect();
    let mut refused = 0;
    for site in 0..SITES {
        let copy = directory.path().join(format!("copy-{site}"));
        let mut bytes = whole.clone();
        let offset = written[random.random_range(0..written.len())];
        bytes[offset] ^= 1 << random.random_range(0..8);
        std::fs::write(&copy, &bytes).unwrap();
        match RedbStore::open(&copy, small()) {
            Ok(store) => {
                assert_eq!(everything(&store), expected, "damage at {offset} went unnoticed");
                store.close().await;
            }
            Err(error) => {
                assert!(matches!(error, OpenError::Damaged(_)), "at {offset}: {error}");
                refused += 1;
            }
        }
    }
    assert!(refused > SITES / 10, "only {refused} of {SITES} sites were refused");
}

#[tokio::test]
async fn a_truncated_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("db");
    let mut random = StdRng::seed_from_u64(6);
    let store = RedbStore::open(&path, small()).unwrap();
    mixed(&store, &mut random, 100).await;
    store.close().await;
    let whole = std::fs::read(&path).unwrap();
    for part in [1, 100, whole.len() / 3, whole.len() - 4096] {
        std::fs::write(&path, &whole[..part]).unwrap();
        let error = RedbStore::open(&path, small()).err().unwrap();
        assert!(matches!(error, OpenError::Damaged(_)), "{part} bytes: {error}");
    }
}

fn faulty(directory: &Path) -> (Faulty, RedbStore) {
    let medium = Faulty::new(directory.join("db"));
    let store = RedbStore::open_medium(medium.clone(), small()).unwrap();
    (medium, store)
}

#[tokio::test]
async fn a_full_disk_stops_writes_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let (medium, store) = faulty(directory.path());
    let mut random = StdRng::seed_from_u64(7);
    mixed(&store, &mut random, 100).await;
    let mut watch = store.watch(&Key::everything(), store.revision()).unwrap();
    for round in 0..3 {
        medium.control.most_bytes.store(medium.size(), Ordering::SeqCst);
        let error = loop {
            let name = random.random_range(0..1_000_000).to_string();
            let value = noise(&mut random, 50_000);
            let revision = store.revision();
            match store.commit(vec![set(&name, value)]).await {
                Ok(committed) => assert_eq!(committed.revision, revision + 1),
                Err(error) => {
                    assert_eq!(store.get(&Key::new(&["k", &name])).unwrap(), None);
                    assert_eq!(store.revision(), revision);
                    break error;
                }
            }
        };
        assert!(matches!(error, CommitError::NoSpace(_)), "{error}");
        // Still full: large writes fail again, reads and watches go on.
        let error = store.commit(vec![set("large", noise(&mut random, 9_000_000))]).await;
        assert!(matches!(error, Err(CommitError::NoSpace(_))), "{error:?}");
        assert!(!everything(&store).is_empty());
        medium.control.most_bytes.store(u64::MAX, Ordering::SeqCst);
        let committed = store.commit(vec![set("room", vec![round])]).await.unwrap();
        let mut last = None;
        while last != Some(committed.revision) {
            last = watch.next().await.unwrap().last().map(|event| event.revision);
        }
    }
    let expected = everything(&store);
    store.close().await;
    let store = RedbStore::open_medium(medium, small()).unwrap();
    assert_eq!(everything(&store), expected);
    store.close().await;
}

#[tokio::test]
async fn a_full_disk_takes_deletions_and_what_is_vital() {
    let directory = tempfile::tempdir().unwrap();
    let (medium, store) = faulty(directory.path());
    store.set_vital(Box::new(|_, value| value.starts_with(b"vital")));
    let mut random = StdRng::seed_from_u64(8);
    for index in 0..40 {
        store.commit(vec![set(&index.to_string(), noise(&mut random, 20_000))]).await.unwrap();
    }
    medium.control.most_bytes.store(medium.size(), Ordering::SeqCst);
    let mut ordinary = 0;
    while store.commit(vec![set("more", noise(&mut random, 20_000))]).await.is_ok() {
        ordinary += 1;
        assert!(ordinary < 1000, "the disk is never full");
    }
    // One batch of all kinds: each is answered for itself.
    let deletes = (0..40).map(|index: u64| store.commit(vec![delete(&index.to_string())]));
    let vital = store.commit(vec![set("lease", b"vital".to_vec())]);
    let refused = store.commit(vec![set("other", vec![1])]);
    let conflict = store.commit(vec![delete("missing")]);
    let (deleted, vital, refused, conflict) =
        tokio::join!(futures::future::join_all(deletes), vital, refused, conflict);
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    vital.unwrap();
    assert!(matches!(refused, Err(CommitError::NoSpace(_))), "{refused:?}");
    assert!(matches!(conflict, Err(CommitError::Conflict { .. })), "{conflict:?}");
    let names = everything(&store).into_iter().map(|entry| entry.key).collect::<Vec<_>>();
    assert!(
        names.contains(&Key::new(&["k", "lease"])) && !names.contains(&Key::new(&["k", "0"])),
        "{names:?}"
    );
    // What is kept ends too, and then nothing is taken.
    let error = loop {
        let mut value = b"vital".to_vec();
        value.extend(noise(&mut random, 500_000));
        if let Err(error) = store.commit(vec![set("lease", value)]).await {
            break error;
        }
    };
    assert!(matches!(error, CommitError::NoSpace(_)), "{error}");
    assert_eq!(medium.control.pieces.load(Ordering::SeqCst), 0);
    medium.control.most_bytes.store(u64::MAX, Ordering::SeqCst);
    store.commit(vec![set("other", vec![1])]).await.unwrap();
    assert!(medium.control.pieces.load(Ordering::SeqCst) > 0, "room is kept again");
    let expected = everything(&store);
    store.close().await;
    let store = RedbStore::open_medium(medium, small()).unwrap();
    assert_eq!(everything(&store), expected);
    store.close().await;
}

#[tokio::test]
async fn after_a_failed_flush_nothing_is_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let (medium, store) = faulty(directory.path());
    store.commit(vec![set("a", b"1".to_vec())]).await.unwrap();
    let mut watch = store.watch(&Key::everything(), 1).unwrap();
    assert_eq!(store.failure(), None);
    medium.control.flushes_fail.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let error = store.commit(vec![set("a", b"2".to_vec())]).await.unwrap_err();
        assert!(matches!(error, CommitError::Failed(_)), "{error}");
        // The disk's recovery does not bring trust back.
        medium.control.flushes_fail.store(false, Ordering::SeqCst);
    }
    assert!(matches!(store.compact(1).await, Err(CommitError::Failed(_))));
    assert_eq!(Some(store.failed().await), store.failure(), "those who serve it are told");
    assert_eq!((store.revision(), everything(&store)[0].revision), (1, 1));
    assert!(watch.next().now_or_never().is_none());
    store.close().await;
    assert_eq!(watch.next().await, Err(WatchEnd::Closed));
    let store = RedbStore::open_medium(medium, small()).unwrap();
    assert!(store.revision() >= 1 && !everything(&store).is_empty());
    store.close().await;
}

#[tokio::test]
async fn a_full_queue_is_overloaded_and_recovers() {
    let directory = tempfile::tempdir().unwrap();
    let options = Options { queue_bytes: 100_000, ..Options::default() };
    let store = RedbStore::open(directory.path().join("db"), options).unwrap();
    let write = |index: usize| store.commit(vec![set(&index.to_string(), vec![0; 60_000])]);
    let results = futures::future::join_all((0..50).map(write)).await;
    let overloaded = |result: &Result<_, _>| matches!(result, Err(CommitError::Overloaded));
    assert!(results.iter().any(overloaded));
    let written = results.iter().filter(|result| result.is_ok()).count();
    assert_eq!(written + results.iter().filter(|result| overloaded(result)).count(), 50);
    assert_eq!(everything(&store).len(), written);
    // Alone, a commit of any size fits.
    store.commit(vec![set("large", vec![0; 200_000])]).await.unwrap();
    store.close().await;
}
