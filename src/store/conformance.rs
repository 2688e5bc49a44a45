//! One suite that every backend of [`Store`] passes: what callers may rely on, as code.
//!
//! It speaks to the store only through the trait. A scenario panics where the store breaks the
//! contract, as a test does; the suite is called from tests alone.

mod reads;
mod watches;
mod writes;

use super::{CommitError, Committed, Entry, Event, Expect, Key, Op, SharedStore, Value, Watch};

/// Runs every scenario, each on a fresh store from `make`, and closes it.
pub async fn run(make: impl AsyncFn() -> SharedStore) {
    macro_rules! scenarios {
        ($($scenario:path),* $(,)?) => {$(
            let store = make().await;
            $scenario(&store).await;
            store.close().await;
        )*};
    }
    scenarios![
        writes::revisions_count_commits,
        writes::expectations,
        writes::all_or_none,
        writes::a_key_changes_once_in_a_commit,
        writes::checks_change_nothing,
        writes::the_revision_is_spliced_in,
        writes::deletions_show_a_last_value,
        writes::one_of_many_rivals_wins,
        writes::a_closed_store_is_readable_only,
        reads::pages,
        reads::visits,
        reads::prefixes_and_order,
        reads::lists_at_older_revisions,
        reads::every_older_revision_is_exact,
        reads::compaction,
        reads::the_future,
        watches::events_are_exact,
        watches::watches_resume_while_commits_go_on,
        watches::prefixes_are_isolated,
        watches::commits_are_not_torn,
        watches::what_is_watched_can_be_read,
        watches::compaction_ends_no_watch,
        watches::a_slow_watcher_is_cut_off,
        watches::closing_ends_watches_after_their_events,
    ];
}

fn key(parts: &[&str]) -> Key {
    Key::new(parts)
}

fn put(parts: &[&str], value: &str, expect: Expect) -> Op {
    Op::Put { key: key(parts), value: Value::plain(value.to_owned()), expect }
}

fn set(parts: &[&str], value: &str) -> Op {
    put(parts, value, Expect::Any)
}

fn delete(parts: &[&str]) -> Op {
    Op::Delete { key: key(parts), expect: Expect::Any, last: None }
}

/// Commits what must succeed.
async fn commit(store: &SharedStore, ops: Vec<Op>) -> Committed {
    match store.commit(ops).await {
        Ok(committed) => committed,
        Err(error) => panic!("a commit that must succeed: {error}"),
    }
}

/// Commits what must be a conflict; returns the operation that failed and the present entry.
async fn conflict(store: &SharedStore, ops: Vec<Op>) -> (usize, Option<Entry>) {
    let before = store.revision();
    match store.commit(ops).await {
        Err(CommitError::Conflict { op, current }) => {
            assert_eq!(store.revision(), before, "a refused commit took a revision");
            (op, current)
        }
        other => panic!("a commit that must be a conflict: {other:?}"),
    }
}

fn value_of(store: &SharedStore, parts: &[&str]) -> Option<String> {
    let entry = store.get(&key(parts)).expect("a key is readable")?;
    Some(String::from_utf8_lossy(&entry.value).into_owned())
}

/// Reads events until the one with `revision` was seen.
async fn events_through(watch: &mut Watch, revision: u64) -> Vec<Event> {
    let mut events: Vec<Event> = Vec::new();
    while events.last().is_none_or(|event| event.revision < revision) {
        let more = watch.next().await.expect("the watch goes on");
        assert!(!more.is_empty(), "a batch of events is never empty");
        events.extend(more);
    }
    events
}
