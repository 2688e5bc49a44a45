//! Prepared code in memory: each artifact once, what is in use always, what was used last a while.
//!
//! It keeps and shares; how code is made is given to it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::prepared::PreparedCode;

/// Native code kept although no container uses it, in bytes.
const KEPT_BYTES: usize = 128 << 20;
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
    /// Why the artifact can never be run, once that is known.
    invalid: Mutex<Option<String>>,
}

impl Slot {
    pub fn invalid(&self) -> Option<String> {
        self.invalid.lock().clone()
    }

    pub fn set_invalid(&self, message: String) {
        *self.invalid.lock() = Some(message);
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
