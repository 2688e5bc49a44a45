//! Scenarios of lists: pages, prefixes, older revisions, compaction.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{commit, delete, key, set};
use crate::store::{Key, Note, Page, ReadError, Revision, SharedStore};

fn names(page: &Page) -> Vec<String> {
    let name = |entry: &crate::store::Entry| entry.key.parts().unwrap_or_default().join("/");
    page.entries.iter().map(name).collect()
}

pub(super) async fn pages(store: &SharedStore) {
    let empty = store.list(&Key::everything(), None, 0, None).unwrap();
    assert_eq!((empty.revision, empty.entries.len(), empty.more), (0, 0, false));
    let ops = (0..10).map(|index| set(&["pods", &format!("p{index}")], "v")).collect();
    commit(store, ops).await;
    commit(store, vec![set(&["nodes", "n"], "v"), set(&["secrets", "s"], "v")]).await;
    let pods = key(&["pods"]);
    let all = store.list(&pods, None, 0, None).unwrap();
    assert_eq!((all.revision, all.entries.len(), all.more), (2, 10, false));
    let first = store.list(&pods, None, 4, None).unwrap();
    assert_eq!(names(&first), ["pods/p0", "pods/p1", "pods/p2", "pods/p3"]);
    assert!(first.more);
    // The rest of the same list does not see what came in between.
    commit(store, vec![set(&["pods", "p55"], "v"), delete(&["pods", "p7"])]).await;
    let after = &first.entries[3].key;
    let rest = store.list(&pods, Some(after), 0, Some(first.revision)).unwrap();
    let expected = ["pods/p4", "pods/p5", "pods/p6", "pods/p7", "pods/p8", "pods/p9"];
    assert_eq!(names(&rest), expected);
    let count = |prefix, after, at| store.count(prefix, after, at).unwrap();
    assert_eq!(count(&pods, Some(after), Some(first.revision)), 6);
    assert_eq!((count(&pods, None, None), count(&Key::everything(), None, None)), (10, 12));
    assert_eq!((rest.revision, rest.more), (2, false));
    let now = store.list(&pods, Some(after), 3, None).unwrap();
    assert_eq!(names(&now), ["pods/p4", "pods/p5", "pods/p55"]);
    assert_eq!((now.revision, now.more), (3, true));
    let exact = store.list(&pods, Some(&key(&["pods", "p8"])), 1, None).unwrap();
    assert_eq!((names(&exact), exact.more), (vec!["pods/p9".to_owned()], false));
    let last = &exact.entries[0].key;
    assert!(store.list(&pods, Some(last), 1, None).unwrap().entries.is_empty());
    assert_eq!(store.list(&pods, Some(&key(&["nodes", "n"])), 0, None).unwrap().entries.len(), 10);
    assert!(store.list(&pods, Some(&key(&["secrets"])), 0, None).unwrap().entries.is_empty());
}

/// A visit sees what a list does, and notes go with the value they are about.
pub(super) async fn visits(store: &SharedStore) {
    let ops = (0..10).map(|index| set(&["pods", &format!("p{index}")], "v")).collect();
    commit(store, ops).await;
    commit(store, vec![set(&["nodes", "n"], "v"), set(&["secrets", "s"], "v")]).await;
    commit(store, vec![set(&["pods", "p3"], "w"), delete(&["pods", "p5"])]).await;
    commit(store, vec![set(&["pods", "p5"], "x"), set(&["pods", "p55"], "x")]).await;
    let pods = key(&["pods"]);
    let afters = [None, Some(key(&["pods", "p3"])), Some(key(&["nodes"])), Some(key(&["q"]))];
    for (after, at) in afters.iter().flat_map(|after| (1..=4).map(move |at| (after, at))) {
        let page = store.list(&pods, after.as_ref(), 0, Some(at)).unwrap();
        let mut seen = Vec::new();
        let mut visit = |key: &Key, value: &Bytes, revision, _: &Note| {
            seen.push((key.clone(), value.clone(), revision));
            ControlFlow::Continue(())
        };
        assert_eq!(store.visit(&pods, after.as_ref(), Some(at), &mut visit).unwrap(), at);
        let listed = page.entries.into_iter().map(|entry| (entry.key, entry.value, entry.revision));
        assert_eq!(seen, listed.collect::<Vec<_>>(), "after {after:?} at {at}");
    }
    let mut visited = 0;
    let mut note_first = |_: &Key, _: &Bytes, _, note: &Note| {
        assert_eq!(note.get(), 0);
        note.set(7);
        visited += 1;
        if visited == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    store.visit(&pods, None, None, &mut note_first).unwrap();
    commit(store, vec![set(&["pods", "p1"], "w")]).await;
    let mut notes = Vec::new();
    let mut read = |_: &Key, _: &Bytes, _, note: &Note| {
        notes.push(note.get());
        ControlFlow::Continue(())
    };
    store.visit(&pods, None, None, &mut read).unwrap();
    assert_eq!(notes[..4], [7, 0, 7, 0]);
    let future = store.visit(&pods, None, Some(99), &mut |_, _, _, _| ControlFlow::Break(()));
    assert!(matches!(future, Err(ReadError::Future { .. })));
}

pub(super) async fn prefixes_and_order(store: &SharedStore) {
    let hostile = ["a", "a\0", "a\0\0", "a\0\u{1}", "a/b", "ab", "", "\u{10ffff}", "a."];
    for name in hostile {
        let ops = vec![set(&["pods", name, "x"], name), set(&[name], name)];
        commit(store, ops).await;
    }
    let mut sorted = hostile.map(str::to_owned).to_vec();
    sorted.sort();
    let page = store.list(&key(&["pods"]), None, 0, None).unwrap();
    let values: Vec<_> = page.entries.iter().map(|entry| entry.value.clone()).collect();
    assert_eq!(values, sorted, "the order of keys is the order of their parts");
    for name in hostile {
        let page = store.list(&key(&["pods", name]), None, 0, None).unwrap();
        assert_eq!(page.entries.len(), 1, "{name:?} sees its own only");
        assert_eq!(page.entries[0].value, name);
        assert_eq!(page.entries[0].key.parts().unwrap(), ["pods", name, "x"]);
    }
}

pub(super) async fn lists_at_older_revisions(store: &SharedStore) {
    commit(store, vec![set(&["a"], "a1"), set(&["b"], "b1")]).await;
    commit(store, vec![set(&["a"], "a2")]).await;
    commit(store, vec![delete(&["b"]), set(&["c"], "c3")]).await;
    commit(store, vec![set(&["b"], "b4")]).await;
    let at = |revision| {
        let page = store.list(&Key::everything(), None, 0, Some(revision)).unwrap();
        assert_eq!(page.revision, revision);
        let entry = |entry: &crate::store::Entry| {
            format!("{}@{}", String::from_utf8_lossy(&entry.value), entry.revision)
        };
        page.entries.iter().map(entry).collect::<Vec<_>>()
    };
    assert!(at(0).is_empty());
    assert_eq!(at(1), ["a1@1", "b1@1"]);
    assert_eq!(at(2), ["a2@2", "b1@1"]);
    assert_eq!(at(3), ["a2@2", "c3@3"]);
    assert_eq!(at(4), ["a2@2", "b4@4", "c3@3"]);
}

/// A long history against a plain model, with pages of odd sizes.
pub(super) async fn every_older_revision_is_exact(store: &SharedStore) {
    type Model = BTreeMap<Key, (String, Revision)>;
    let mut model: Vec<Model> = vec![Model::new()];
    for step in 0_u64..120 {
        // Any fixed mixture of puts and deletions over few keys will do.
        let mut now = model[step as usize].clone();
        let revision = step + 1;
        let mut ops = Vec::new();
        for pick in [step * 7 % 23, step * 5 % 23] {
            let name = pick.to_string();
            let this = key(&["k", &name]);
            if ops.len() == 1 && step * 7 % 23 == pick {
                continue;
            }
            if now.contains_key(&this) && step % 3 == 0 {
                now.remove(&this);
                ops.push(delete(&["k", &name]));
            } else {
                now.insert(this, (step.to_string(), revision));
                ops.push(set(&["k", &name], &step.to_string()));
            }
        }
        assert_eq!(commit(store, ops).await.revision, revision);
        model.push(now);
    }
    for (revision, expected) in model.iter().enumerate() {
        let mut found = Model::new();
        let mut after = None;
        loop {
            let size = revision % 5 + 1;
            let at = Some(revision as Revision);
            let page = store.list(&key(&["k"]), after.as_ref(), size, at).unwrap();
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                let value = String::from_utf8_lossy(&entry.value).into_owned();
                assert!(found.insert(entry.key, (value, entry.revision)).is_none());
            }
            if !page.more {
                break;
            }
        }
        assert_eq!(&found, expected, "at revision {revision}");
    }
}

pub(super) async fn compaction(store: &SharedStore) {
    for step in 1..=6 {
        commit(store, vec![set(&["a"], &step.to_string())]).await;
    }
    store.compact(4).await.unwrap();
    let list = |at| store.list(&Key::everything(), None, 0, Some(at));
    for old in 0..4 {
        let error = list(old).unwrap_err();
        assert!(matches!(error, ReadError::Compacted { asked, oldest: 4 } if asked == old));
        let error = store.watch(&Key::everything(), old).err().unwrap();
        assert!(matches!(error, ReadError::Compacted { asked, oldest: 4 } if asked == old));
    }
    assert_eq!(list(4).unwrap().entries[0].value, "4");
    assert_eq!(list(5).unwrap().entries[0].value, "5");
    let mut watch = store.watch(&Key::everything(), 4).unwrap();
    assert_eq!(super::events_through(&mut watch, 6).await.len(), 2);
    // Going back changes nothing, and beyond the newest is the newest.
    store.compact(2).await.unwrap();
    assert_eq!(list(4).unwrap().entries[0].value, "4");
    store.compact(u64::MAX).await.unwrap();
    assert!(matches!(list(5), Err(ReadError::Compacted { oldest: 6, .. })));
    assert_eq!(list(6).unwrap().entries[0].value, "6");
    assert_eq!(store.get(&key(&["a"])).unwrap().unwrap().revision, 6);
    assert_eq!(commit(store, vec![set(&["a"], "7")]).await.revision, 7);
    assert_eq!(list(6).unwrap().entries[0].value, "6");
}

pub(super) async fn the_future(store: &SharedStore) {
    commit(store, vec![set(&["a"], "1")]).await;
    let error = store.list(&Key::everything(), None, 0, Some(2)).unwrap_err();
    assert!(matches!(error, ReadError::Future { asked: 2, current: 1 }), "{error}");
    let error = store.watch(&Key::everything(), 2).err().unwrap();
    assert!(matches!(error, ReadError::Future { asked: 2, current: 1 }), "{error}");
    assert!(store.watch(&Key::everything(), 1).is_ok());
}
