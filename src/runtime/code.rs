//! Prepared code in memory: each artifact once, what is in use always, what was used last a while.
//!
//! It keeps and shares; how code is made is given to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::PrepareError;
use super::prepared::PreparedCode;

/// Native code kept although no container uses it, in bytes.
const KEPT_BYTES: usize = 128 << 20;
/// How long it is remembered that compiling exceeded a limit. It may do better next time (the
/// machine was short of memory), but not for each of a hundred replicas.
const LIMIT_REMEMBERED: Duration = Duration::from_secs(300);
/// Artifacts known before the forgotten ones are swept out.
const SWEEP_AT: usize = 1024;

/// The artifacts a process has loaded.
#[derive(Default)]
pub struct CodeCache {
    slots: Mutex<HashMap<String, Arc<Slot>>>,
    recent: Mutex<VecDeque<Arc<PreparedCode>>>,
}

/// The place of one artifact's code.
#[derive(Default)]
pub struct Slot {
    /// Held while the code is made, so that it is made once.
    pub making: Arc<tokio::sync::Mutex<()>>,
    code: Mutex<Weak<PreparedCode>>,
    /// Why there is none, as far as that is known.
    failure: Mutex<Option<Failure>>,
}

enum Failure {
    /// What is wrong with the bytes stays wrong.
    Invalid(String),
    Limit {
        message: String,
        at: Instant,
    },
}

impl Slot {
    /// Why another try would be in vain.
    pub fn failure(&self) -> Option<PrepareError> {
        match self.failure.lock().as_ref()? {
            Failure::Invalid(message) => Some(PrepareError::InvalidModule(message.clone())),
            Failure::Limit { message, at } => (at.elapsed() < LIMIT_REMEMBERED)
                .then(|| PrepareError::CompileLimit(message.clone())),
        }
    }

    /// Remembers a failure, unless it was none of the artifact's.
    pub fn remember(&self, error: &PrepareError) {
        *self.failure.lock() = match error {
            PrepareError::InvalidModule(message) => Some(Failure::Invalid(message.clone())),
            PrepareError::CompileLimit(message) => {
                Some(Failure::Limit { message: message.clone(), at: Instant::now() })
            }
            PrepareError::Internal(_) => None,
        };
    }
}

impl CodeCache {
    pub fn slot(&self, digest: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if slots.len() >= SWEEP_AT {
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || slot.code.lock().strong_count() > 0
            });
        }
        slots.entry(digest.to_owned()).or_default().clone()
    }

    /// The code of a slot, if it is loaded; counts as a use.
    pub fn get(&self, slot: &Slot) -> Option<Arc<PreparedCode>> {
        let code = slot.code.lock().upgrade()?;
        self.touch(&code);
        Some(code)
    }

    pub fn put(&self, slot: &Slot, code: &Arc<PreparedCode>) {
        *slot.code.lock() = Arc::downgrade(code);
        self.touch(code);
    }

    fn touch(&self, code: &Arc<PreparedCode>) {
        let mut recent = self.recent.lock();
        recent.retain(|kept| !Arc::ptr_eq(kept, code));
        recent.push_front(code.clone());
        let mut bytes = 0;
        let mut keep = 0;
        for kept in recent.iter() {
            bytes += kept.size_bytes;
            if bytes > KEPT_BYTES && keep > 0 {
                break;
            }
            keep += 1;
        }
        recent.truncate(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_an_artifact_are_remembered() {
        let slot = Slot::default();
        slot.remember(&PrepareError::Internal("disk".to_owned()));
        assert!(slot.failure().is_none());
        slot.remember(&PrepareError::CompileLimit("too large".to_owned()));
        assert!(matches!(slot.failure(), Some(PrepareError::CompileLimit(_))));
        if let Some(Failure::Limit { at, .. }) = slot.failure.lock().as_mut() {
            *at -= LIMIT_REMEMBERED;
        }
        assert!(slot.failure().is_none(), "after a while it is worth another try");
        slot.remember(&PrepareError::InvalidModule("no module".to_owned()));
        assert!(matches!(slot.failure(), Some(PrepareError::InvalidModule(_))));
    }
}
