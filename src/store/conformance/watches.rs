//! Scenarios of watches: every event once, in order, without gaps, or a clear end.

use futures::future::join_all;
use futures::{FutureExt, join};

use super::{commit, delete, events_through, key, set};
use crate::store::{Change, Event, Key, SharedStore, WatchEnd};

fn line(event: &Event) -> String {
    let name = event.key.parts().unwrap_or_default().join("/");
    let text = |bytes: &bytes::Bytes| String::from_utf8_lossy(bytes).into_owned();
    match &event.change {
        Change::Put { value, previous } => {
            let previous = previous.as_ref().map_or("-".to_owned(), text);
            format!("{} {name} {previous}->{}", event.revision, text(value))
        }
        Change::Delete { last, previous } => {
            format!("{} {name} {}->- ({})", event.revision, text(previous), text(last))
        }
    }
}

fn lines(events: &[Event]) -> Vec<String> {
    events.iter().map(line).collect()
}

pub(super) async fn events_are_exact(store: &SharedStore) {
    commit(store, vec![set(&["a"], "1")]).await;
    let mut live = store.watch(&Key::everything(), store.revision()).unwrap();
    commit(store, vec![set(&["a"], "2"), set(&["b"], "1")]).await;
    commit(store, vec![delete(&["a"])]).await;
    commit(store, vec![set(&["a"], "3")]).await;
    let all = ["1 a -->1", "2 a 1->2", "2 b -->1", "3 a 2->- (2)", "4 a -->3"];
    assert_eq!(lines(&events_through(&mut live, 4).await), all[1..]);
    assert!(live.next().now_or_never().is_none(), "no event comes twice");
    for (from, skip) in [(0, 0), (1, 1), (2, 3), (3, 4)] {
        let mut late = store.watch(&Key::everything(), from).unwrap();
        assert_eq!(lines(&events_through(&mut late, 4).await), all[skip..], "from {from}");
        assert!(late.next().now_or_never().is_none());
    }
}

/// Watchers that begin anew from their last revision, again and again, while clients write.
pub(super) async fn watches_resume_while_commits_go_on(store: &SharedStore) {
    const CLIENTS: u64 = 8;
    const COMMITS: u64 = 25;
    let client = async |client: u64| {
        for step in 0..COMMITS {
            let name = format!("{client}-{}", step % 3);
            commit(store, vec![set(&["all", &name], "v"), set(&["last"], &name)]).await;
        }
    };
    let watcher = async |batches: usize| {
        let mut events: Vec<Event> = Vec::new();
        let mut from = 0;
        while from < CLIENTS * COMMITS {
            let mut watch = store.watch(&Key::everything(), from).unwrap();
            for _ in 0..batches {
                if from == CLIENTS * COMMITS {
                    break;
                }
                events.extend(watch.next().await.unwrap());
                from = events.last().map_or(0, |event| event.revision);
            }
        }
        events
    };
    let clients = join_all((0..CLIENTS).map(client));
    let (_, seen) = join!(clients, join_all([1, 2, 3, usize::MAX].map(watcher)));
    for events in &seen {
        let revisions: Vec<_> = events.iter().map(|event| event.revision).collect();
        let expected: Vec<_> = (1..=CLIENTS * COMMITS).flat_map(|one| [one, one]).collect();
        assert_eq!(revisions, expected, "every event once and in order");
        assert_eq!(events, &seen[0], "every watcher sees the same");
    }
    for pair in
        seen[0].iter().filter(|event| event.key == key(&["last"])).collect::<Vec<_>>().windows(2)
    {
        let Change::Put { previous, .. } = &pair[1].change else { panic!("a put") };
        assert_eq!(previous.as_ref(), Some(pair[0].value()), "previous is the value before");
    }
}

pub(super) async fn prefixes_are_isolated(store: &SharedStore) {
    let prefixes: [&[&str]; 5] = [&[], &["pods"], &["pods", "a"], &["pods", "ab"], &["nodes"]];
    let mut watches = prefixes.map(|prefix| store.watch(&key(prefix), 0).unwrap());
    commit(store, vec![set(&["pods", "a", "1"], "v")]).await;
    commit(store, vec![set(&["pods", "ab", "1"], "v"), set(&["nodes", "n"], "v")]).await;
    commit(store, vec![set(&["podsecurity", "x"], "v")]).await;
    commit(store, vec![delete(&["pods", "a", "1"]), delete(&["nodes", "n"])]).await;
    let expected = [
        vec!["pods/a/1", "pods/ab/1", "nodes/n", "podsecurity/x", "pods/a/1", "nodes/n"],
        vec!["pods/a/1", "pods/ab/1", "pods/a/1"],
        vec!["pods/a/1", "pods/a/1"],
        vec!["pods/ab/1"],
        vec!["nodes/n", "nodes/n"],
    ];
    for ((watch, expected), prefix) in watches.iter_mut().zip(expected).zip(prefixes) {
        for replay in [false, true] {
            let mut again = store.watch(&key(prefix), 0).unwrap();
            let watch = if replay { &mut again } else { &mut *watch };
            let mut names = Vec::new();
            while names.len() < expected.len() {
                let events = watch.next().await.unwrap();
                names.extend(events.iter().map(|event| event.key.parts().unwrap().join("/")));
            }
            assert_eq!(names, expected);
            assert!(watch.next().now_or_never().is_none());
        }
    }
}

/// A batch always holds whole commits, so that its last revision is one to resume from.
pub(super) async fn commits_are_not_torn(store: &SharedStore) {
    const COMMITS: u64 = 40;
    const WIDTH: usize = 7;
    let mut watch = store.watch(&Key::everything(), 0).unwrap();
    let writer = async {
        for step in 0..COMMITS {
            let names: Vec<_> = (0..WIDTH).map(|index| format!("{step}-{index}")).collect();
            commit(store, names.iter().map(|name| set(&[name], "v")).collect()).await;
        }
    };
    let reader = async {
        let mut seen = 0;
        while seen < COMMITS {
            let events = watch.next().await.unwrap();
            assert_eq!(events.len() % WIDTH, 0, "a commit was torn in two");
            seen = events.last().unwrap().revision;
        }
    };
    join!(writer, reader);
}

/// Who has seen an event can read, list and watch at its revision.
pub(super) async fn what_is_watched_can_be_read(store: &SharedStore) {
    const COMMITS: u64 = 40;
    let mut watch = store.watch(&Key::everything(), 0).unwrap();
    let writer = async {
        for step in 0..COMMITS {
            commit(store, vec![set(&["a"], &step.to_string())]).await;
        }
    };
    let reader = async {
        let mut seen = 0;
        while seen < COMMITS {
            for event in watch.next().await.unwrap() {
                seen = event.revision;
                assert!(store.revision() >= seen);
                assert!(store.get(&key(&["a"])).unwrap().unwrap().revision >= seen);
                let page = store.list(&key(&["a"]), None, 0, Some(seen)).unwrap();
                assert_eq!(&page.entries[0].value, event.value());
                let newest = store.list(&key(&["a"]), None, 0, None).unwrap().revision;
                assert!(store.watch(&key(&["a"]), newest).is_ok());
            }
        }
    };
    join!(writer, reader);
}

pub(super) async fn compaction_ends_no_watch(store: &SharedStore) {
    let mut watch = store.watch(&Key::everything(), 0).unwrap();
    commit(store, vec![set(&["a"], "1")]).await;
    commit(store, vec![set(&["a"], "2")]).await;
    store.compact(2).await.unwrap();
    commit(store, vec![set(&["a"], "3")]).await;
    assert_eq!(events_through(&mut watch, 3).await.len(), 3);
}

pub(super) async fn a_slow_watcher_is_cut_off(store: &SharedStore) {
    const WIDTH: usize = 1000;
    /// Far beyond any bound of a backlog.
    const COMMITS: usize = 200;
    let mut slow = store.watch(&Key::everything(), 0).unwrap();
    let mut quick = store.watch(&Key::everything(), 0).unwrap();
    let mut idle = store.watch(&key(&["other"]), 0).unwrap();
    let names: Vec<_> = (0..WIDTH).map(|index| index.to_string()).collect();
    let mut cut_off = None;
    for step in 1..=COMMITS {
        commit(store, names.iter().map(|name| set(&["x", name], "v")).collect()).await;
        assert_eq!(events_through(&mut quick, step as u64).await.len(), WIDTH);
        // The slow one looks every twenty commits only.
        if step % 20 == 0 && cut_off.is_none() {
            cut_off = slow.next().await.err().map(|end| (end, step));
        }
        if cut_off.is_some() {
            break;
        }
    }
    let (end, step) = cut_off.expect("a slow watcher is ended");
    assert_eq!(end, WatchEnd::TooSlow);
    assert_eq!(slow.next().await, Err(WatchEnd::TooSlow), "and stays ended");
    assert!(idle.next().now_or_never().is_none(), "others go on");
    let mut again = store.watch(&Key::everything(), step as u64 - 1).unwrap();
    assert_eq!(again.next().await.unwrap().len(), WIDTH, "and it can begin again");
}

pub(super) async fn closing_ends_watches_after_their_events(store: &SharedStore) {
    let mut watch = store.watch(&Key::everything(), 0).unwrap();
    commit(store, vec![set(&["a"], "1")]).await;
    store.close().await;
    assert_eq!(watch.next().await.unwrap().len(), 1);
    assert_eq!(watch.next().await, Err(WatchEnd::Closed));
    let mut late = store.watch(&Key::everything(), 1).unwrap();
    assert_eq!(late.next().await, Err(WatchEnd::Closed));
}
