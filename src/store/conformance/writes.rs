//! Scenarios of commits: expectations, atomicity, revisions.

use futures::future::join_all;

use super::{commit, conflict, delete, events_through, key, put, set, value_of};
use crate::store::{Change, CommitError, Expect, Key, Op, SharedStore, Value};

pub(super) async fn revisions_count_commits(store: &SharedStore) {
    assert_eq!(store.revision(), 0);
    assert_eq!(store.get(&key(&["a"])).unwrap(), None);
    for expected in 1..=5 {
        let committed = commit(store, vec![set(&["a"], &format!("v{expected}"))]).await;
        assert_eq!(committed.revision, expected);
        assert_eq!(committed.values, vec![format!("v{expected}")]);
        assert_eq!(store.revision(), expected);
        let entry = store.get(&key(&["a"])).unwrap().unwrap();
        assert_eq!((entry.key, entry.revision), (key(&["a"]), expected));
    }
    let committed = commit(store, vec![set(&["b"], "1"), set(&["c"], "2")]).await;
    assert_eq!(committed.revision, 6, "a commit of two changes has one revision");
    assert_eq!(store.get(&key(&["b"])).unwrap().unwrap().revision, 6);
    assert_eq!(store.get(&key(&["c"])).unwrap().unwrap().revision, 6);
    assert_eq!(commit(store, vec![delete(&["a"])]).await.revision, 7);
}

pub(super) async fn expectations(store: &SharedStore) {
    commit(store, vec![put(&["a"], "1", Expect::Absent)]).await;
    let (op, current) = conflict(store, vec![put(&["a"], "2", Expect::Absent)]).await;
    assert_eq!((op, current.unwrap().revision), (0, 1));
    commit(store, vec![put(&["a"], "2", Expect::Revision(1))]).await;
    let (_, current) = conflict(store, vec![put(&["a"], "3", Expect::Revision(1))]).await;
    let current = current.unwrap();
    assert_eq!((current.revision, &current.value[..]), (2, &b"2"[..]));
    let (op, current) = conflict(store, vec![put(&["b"], "1", Expect::Revision(2))]).await;
    assert_eq!((op, current), (0, None));
    commit(store, vec![put(&["a"], "3", Expect::Any)]).await;
    let stale = Op::Delete { key: key(&["a"]), expect: Expect::Revision(2), last: None };
    conflict(store, vec![stale]).await;
    let fresh = Op::Delete { key: key(&["a"]), expect: Expect::Revision(3), last: None };
    commit(store, vec![fresh]).await;
    let (_, current) = conflict(store, vec![delete(&["a"])]).await;
    assert_eq!(current, None, "a key that does not exist cannot be deleted");
    let absent = Op::Delete { key: key(&["a"]), expect: Expect::Absent, last: None };
    conflict(store, vec![absent]).await;
    commit(store, vec![put(&["a"], "again", Expect::Absent)]).await;
}

pub(super) async fn all_or_none(store: &SharedStore) {
    commit(store, vec![set(&["a"], "1"), set(&["b"], "1")]).await;
    let ops = vec![
        set(&["a"], "2"),
        delete(&["b"]),
        set(&["c"], "1"),
        put(&["a2"], "1", Expect::Revision(1)),
    ];
    assert_eq!(conflict(store, ops).await.0, 3);
    assert_eq!(value_of(store, &["a"]).as_deref(), Some("1"));
    assert_eq!(value_of(store, &["b"]).as_deref(), Some("1"));
    assert_eq!(value_of(store, &["c"]), None);
    let ops = vec![set(&["a"], "2"), delete(&["b"]), set(&["c"], "1")];
    let committed = commit(store, ops).await;
    assert_eq!((committed.revision, committed.values.len()), (2, 3));
    assert_eq!(value_of(store, &["a"]).as_deref(), Some("2"));
    assert_eq!(value_of(store, &["b"]), None);
    assert_eq!(value_of(store, &["c"]).as_deref(), Some("1"));
}

pub(super) async fn a_key_changes_once_in_a_commit(store: &SharedStore) {
    assert_eq!(conflict(store, vec![set(&["a"], "1"), set(&["a"], "2")]).await.0, 1);
    commit(store, vec![set(&["a"], "1")]).await;
    assert_eq!(conflict(store, vec![set(&["a"], "2"), delete(&["a"])]).await.0, 1);
    let check = Op::Check { key: key(&["a"]), expect: Expect::Revision(1) };
    commit(store, vec![set(&["a"], "2"), check]).await;
    assert_eq!(value_of(store, &["a"]).as_deref(), Some("2"), "checks test the state before");
}

pub(super) async fn checks_change_nothing(store: &SharedStore) {
    let check = |parts: &[&str], expect| Op::Check { key: key(parts), expect };
    commit(store, vec![set(&["lease"], "me")]).await;
    let ops = vec![check(&["lease"], Expect::Revision(1)), set(&["a"], "1")];
    assert_eq!(commit(store, ops).await.values.len(), 1);
    let ops = vec![set(&["a"], "2"), check(&["lease"], Expect::Revision(9))];
    assert_eq!(conflict(store, ops).await.0, 1);
    conflict(store, vec![check(&["a"], Expect::Absent)]).await;
    let committed = commit(store, vec![check(&["none"], Expect::Absent)]).await;
    assert_eq!((committed.revision, committed.values.len()), (2, 0));
    assert_eq!(commit(store, Vec::new()).await.revision, 2);
    assert_eq!(store.revision(), 2);
}

pub(super) async fn the_revision_is_spliced_in(store: &SharedStore) {
    let value = |at| Value { bytes: "[]".into(), splice_at: Some(at) };
    let put = |at| Op::Put { key: key(&["a"]), value: value(at), expect: Expect::Any };
    for (at, expected) in [(1, "[1]"), (0, "2[]"), (2, "[]3"), (77, "[]4")] {
        let committed = commit(store, vec![put(at)]).await;
        assert_eq!(committed.values, vec![expected]);
        assert_eq!(value_of(store, &["a"]).as_deref(), Some(expected));
    }
}

pub(super) async fn deletions_show_a_last_value(store: &SharedStore) {
    let mut watch = store.watch(&Key::everything(), 0).unwrap();
    commit(store, vec![set(&["a"], "a1"), set(&["b"], "b1")]).await;
    let last = Some(Value { bytes: "last()".into(), splice_at: Some(5) });
    let committed = commit(
        store,
        vec![Op::Delete { key: key(&["a"]), expect: Expect::Any, last }, delete(&["b"])],
    )
    .await;
    assert_eq!(committed.values, vec!["last(2)", "b1"]);
    let events = events_through(&mut watch, 2).await;
    let changes = events.into_iter().skip(2).map(|event| event.change).collect::<Vec<_>>();
    assert_eq!(
        changes,
        vec![
            Change::Delete { last: "last(2)".into(), previous: "a1".into() },
            Change::Delete { last: "b1".into(), previous: "b1".into() },
        ]
    );
}

/// Many clients count up one value, each only over the state that it has read.
pub(super) async fn one_of_many_rivals_wins(store: &SharedStore) {
    const RIVALS: u64 = 16;
    const ROUNDS: u64 = 5;
    let rival = async || {
        for _ in 0..ROUNDS {
            loop {
                let entry = store.get(&key(&["count"])).unwrap();
                let (count, expect) = match &entry {
                    Some(entry) => (entry.value.len(), Expect::Revision(entry.revision)),
                    None => (0, Expect::Absent),
                };
                match store.commit(vec![put(&["count"], &"|".repeat(count + 1), expect)]).await {
                    Ok(_) => break,
                    Err(CommitError::Conflict { .. }) => continue,
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    join_all((0..RIVALS).map(|_| rival())).await;
    assert_eq!(value_of(store, &["count"]).unwrap().len() as u64, RIVALS * ROUNDS);
    assert_eq!(store.revision(), RIVALS * ROUNDS);
}

pub(super) async fn a_closed_store_is_readable_only(store: &SharedStore) {
    commit(store, vec![set(&["a"], "1")]).await;
    store.close().await;
    let error = store.commit(vec![set(&["a"], "2")]).await.unwrap_err();
    assert!(matches!(error, CommitError::Failed(_)), "{error}");
    assert!(store.compact(1).await.is_err());
    assert_eq!(value_of(store, &["a"]).as_deref(), Some("1"));
}
