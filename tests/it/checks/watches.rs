//! The guarantees of watches, on what watchers saw
//! (etcd.io/docs, "Watch APIs"; kubernetes.io, API concepts).
//!
//! - Ordered and unique: versions only rise, and nothing comes twice.
//! - Atomic: what one commit changed is not torn by what came later (with one object a commit, that
//!   is the order again).
//! - Resumable: begun again from the last version seen, a watch goes on as if it had not ended.
//! - Reliable: between its beginning and its end a watcher saw every change that it asked for.
//! - Bookmarks: nothing of before one comes after it.
//! - The type of an event fits the object's state before, as the watcher's selector sees it.

use std::collections::BTreeMap;

use super::history::{Kind, Seen, State, States, Version, Watcher};

/// What is wrong with what a watcher saw, given all states of all objects; empty if nothing is.
pub fn check(watcher: &Watcher, states: &States) -> Vec<String> {
    let mut wrong = order(watcher);
    let events: Vec<&Seen> =
        watcher.seen.iter().filter(|seen| matches!(seen, Seen::Event { .. })).collect();
    let last = watcher.seen.iter().filter_map(version_of).max().unwrap_or(watcher.from);
    let expected = expected(watcher, states, last);
    for (n, pair) in expected.iter().zip(&events).enumerate() {
        if pair.0 != *pair.1 {
            wrong.push(format!("event {n} is {:?}, and not {:?}", pair.1, pair.0));
            break;
        }
    }
    if expected.len() != events.len() {
        wrong.push(format!("{} events instead of {}", events.len(), expected.len()));
    }
    wrong
}

fn version_of(seen: &Seen) -> Option<Version> {
    match seen {
        Seen::Event { version, .. } | Seen::Bookmark(version) => Some(*version),
        Seen::Resumed => None,
    }
}

fn order(watcher: &Watcher) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut last = watcher.from;
    for seen in &watcher.seen {
        let Some(version) = version_of(seen) else { continue };
        let fits = match seen {
            Seen::Bookmark(_) => version >= last,
            _ => version > last,
        };
        if !fits {
            wrong.push(format!("{seen:?} after version {last}"));
        }
        last = last.max(version);
    }
    wrong
}

/// What the watcher should have seen up to a version.
fn expected(watcher: &Watcher, states: &States, last: Version) -> Vec<Seen> {
    let wants = |content: u64| !watcher.even_only || content.is_multiple_of(2);
    let mut all: BTreeMap<Version, Seen> = BTreeMap::new();
    for (key, states) in states {
        let mut before: Option<u64> = None;
        for State { version, content } in states {
            let shown = content.or(before).unwrap_or_default();
            let (was, is) = (before.is_some_and(wants), content.is_some_and(wants));
            let kind = match (was, is) {
                (false, true) => Some(Kind::Added),
                (true, true) => Some(Kind::Modified),
                (true, false) => Some(Kind::Deleted),
                (false, false) => None,
            };
            if let Some(kind) = kind.filter(|_| *version > watcher.from && *version <= last) {
                let (key, version) = (key.clone(), *version);
                all.insert(version, Seen::Event { kind, key, version, content: shown });
            }
            before = *content;
        }
    }
    all.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, key: &str, version: Version, content: u64) -> Seen {
        Seen::Event { kind, key: key.into(), version, content }
    }

    fn states() -> States {
        let list = |all: &[(Version, Option<u64>)]| -> Vec<State> {
            let state = |&(version, content)| State { version, content };
            all.iter().map(state).collect()
        };
        States::from([
            ("a".into(), list(&[(2, Some(2)), (4, Some(3)), (6, Some(4)), (8, None)])),
            ("b".into(), list(&[(3, Some(8)), (5, Some(10))])),
        ])
    }

    fn all() -> Vec<Seen> {
        vec![
            event(Kind::Added, "a", 2, 2),
            event(Kind::Added, "b", 3, 8),
            event(Kind::Modified, "a", 4, 3),
            Seen::Bookmark(4),
            event(Kind::Modified, "b", 5, 10),
            Seen::Resumed,
            event(Kind::Modified, "a", 6, 4),
            event(Kind::Deleted, "a", 8, 4),
        ]
    }

    fn verdict(from: Version, even_only: bool, seen: Vec<Seen>) -> Vec<String> {
        check(&Watcher { from, even_only, seen }, &states())
    }

    #[test]
    fn what_is_right_passes() {
        assert_eq!(verdict(0, false, all()), [""; 0]);
        assert_eq!(verdict(4, false, all().split_off(3)), [""; 0]);
        assert_eq!(verdict(0, false, all()[..5].to_vec()), [""; 0]);
        let even = vec![
            event(Kind::Added, "a", 2, 2),
            event(Kind::Added, "b", 3, 8),
            // Its new content is not wanted any more, and is what is shown.
            event(Kind::Deleted, "a", 4, 3),
            event(Kind::Modified, "b", 5, 10),
            event(Kind::Added, "a", 6, 4),
            event(Kind::Deleted, "a", 8, 4),
        ];
        assert_eq!(verdict(0, true, even), [""; 0]);
    }

    #[test]
    fn what_is_wrong_does_not_pass() {
        let changed = |change: &dyn Fn(&mut Vec<Seen>)| {
            let mut seen = all();
            change(&mut seen);
            verdict(0, false, seen)
        };
        type Change<'a> = &'a dyn Fn(&mut Vec<Seen>);
        let wrong: [(&str, Change); 8] = [
            ("a gap", &|seen| drop(seen.remove(2))),
            ("a gap where it was resumed", &|seen| drop(seen.remove(6))),
            ("an event twice", &|seen| seen.insert(6, seen[4].clone())),
            ("another order", &|seen| seen.swap(1, 2)),
            ("a bookmark too early", &|seen| seen[3] = Seen::Bookmark(5)),
            ("a bookmark that goes back", &|seen| seen[3] = Seen::Bookmark(3)),
            ("another type", &|seen| seen[2] = event(Kind::Added, "a", 4, 3)),
            ("another content", &|seen| seen[2] = event(Kind::Modified, "a", 4, 2)),
        ];
        for (what, change) in wrong {
            assert_ne!(changed(change), [""; 0], "{what}");
        }
        assert_ne!(verdict(4, false, all()), [""; 0], "older than where it began");
        assert_ne!(verdict(0, true, all()), [""; 0], "what was not asked for");
    }
}
