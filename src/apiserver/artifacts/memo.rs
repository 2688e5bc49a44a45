//! What was read of the registry's records, so that a Deployment of a thousand replicas reads that of its
//! image once. Of tags that are not there nothing is kept: names that nobody pushed are any number.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Record;

/// Records are a few hundred bytes, with the imports and exports of a program: a few MB at most.
const MOST: usize = 1024;

/// Records by repository and version.
#[derive(Default)]
pub(super) struct Memo {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    repositories: HashMap<String, HashMap<String, Arc<Record>>>,
    count: usize,
    /// Of changes: what was read before one is not kept after it.
    changes: u64,
}

impl Memo {
    /// What is known, or what `read` reads.
    ///
    /// # Errors
    /// Those of `read`.
    pub(super) fn get_or_read(
        &self,
        repository: &str,
        version: &str,
        read: impl FnOnce() -> io::Result<Option<Record>>,
    ) -> io::Result<Option<Arc<Record>>> {
        let changes = {
            let state = self.state.lock();
            let versions = state.repositories.get(repository);
            if let Some(record) = versions.and_then(|versions| versions.get(version)) {
                return Ok(Some(record.clone()));
            }
            state.changes
        };
        let Some(record) = read()?.map(Arc::new) else { return Ok(None) };
        let mut state = self.state.lock();
        if state.changes == changes {
            if state.count >= MOST {
                state.repositories.clear();
                state.count = 0;
            }
            let versions = state.repositories.entry(repository.to_string()).or_default();
            let is_new = versions.insert(version.to_string(), record.clone()).is_none();
            state.count += usize::from(is_new);
        }
        Ok(Some(record))
    }

    /// After each change of a repository's files, also one that failed halfway.
    pub(super) fn forget(&self, repository: &str) {
        let mut state = self.state.lock();
        state.changes += 1;
        if let Some(versions) = state.repositories.remove(repository) {
            state.count -= versions.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(digest: &str) -> Record {
        Record { digest: digest.into(), ..Record::default() }
    }

    fn ask(memo: &Memo, version: &str, there: Option<&str>) -> Option<String> {
        let found = memo.get_or_read("hello", version, || Ok(there.map(record))).unwrap();
        found.map(|record| record.digest.clone())
    }

    #[test]
    fn a_record_is_read_once_until_its_repository_changes() {
        let memo = Memo::default();
        assert_eq!(ask(&memo, "v1", None), None);
        assert_eq!(ask(&memo, "v1", Some("a")).as_deref(), Some("a"));
        assert_eq!(ask(&memo, "v1", Some("b")).as_deref(), Some("a"));
        memo.forget("other");
        assert_eq!(ask(&memo, "v1", Some("b")).as_deref(), Some("a"));
        memo.forget("hello");
        assert_eq!(ask(&memo, "v1", Some("b")).as_deref(), Some("b"));
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let memo = Memo::default();
        let read = || {
            memo.forget("hello");
            Ok(Some(record("old")))
        };
        memo.get_or_read("hello", "v1", read).unwrap();
        assert_eq!(ask(&memo, "v1", Some("new")).as_deref(), Some("new"));
    }

    #[test]
    fn the_number_of_records_is_bounded() {
        let memo = Memo::default();
        for n in 0..3 * MOST {
            ask(&memo, &format!("v{n}"), Some("a"));
        }
        let state = memo.state.lock();
        let kept: usize = state.repositories.values().map(HashMap::len).sum();
        assert!(kept == state.count && kept <= MOST, "{kept}");
    }
}
