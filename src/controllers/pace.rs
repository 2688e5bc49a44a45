//! How often one controller writes about one key: a controller cannot loop hot, whether by a bug of
//! its own or since somebody undoes what it does.
//!
//! ```text
//!   the plan writes                                    it is performed
//!   something that the key's last plans did not write  at once
//!   only what they wrote, in turns (a pod flaps)       at once
//!   once more what was written last: it was undone     a few times at once, then after waits that
//!                                                      double, up to MOST_WAIT
//!   one object more often than its tokens allow        when there is a token again
//! ```
//!
//! What is "the same": the action, its object, and its content without times and versions, while
//! the object that the key names has the same generation (so that whoever asks for something new
//! waits for nothing). Of a creation only what it is named after counts, and a deletion of one more
//! object is neither new nor a repeat. Pure: the caller tells the time.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::time::Instant;

use super::plan::{Action, Write};
use crate::api::ObjectKey;
use crate::client::Patch;

/// Writes of one object in a row, and a second from then on. A rollout of hundreds of pods stays
/// below: what comes more often is one status that follows many events.
const BURST: f64 = 100.0;
const PER_SECOND: f64 = 20.0;
/// The same write is done so often without a wait.
const FREE_REPEATS: u32 = 10;
/// Something new makes up for so many repeats. Not for all: in a fight, too, a status shows numbers
/// now and then that it did not show before.
const NEW_UNDOES: u32 = 2;
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// So long, at most, does somebody who undoes a write have their way; and so long is what they left
/// there when they stop.
pub(super) const MOST_WAIT: Duration = Duration::from_secs(10);
/// A key that was not written about for so long is forgotten.
const FORGET: Duration = Duration::from_secs(60);
/// After so many repeats the object's Events tell of it, and again after so many more (ten minutes).
const TOLD_REPEATS: u32 = 15;
const TOLD_AGAIN: u32 = 60;
/// What is remembered of a key: contents, and objects.
const MOST_RECENT: usize = 64;
const MOST_OBJECTS: usize = 64;

/// The paces of one controller's keys.
#[derive(Default)]
pub(super) struct Pace(Mutex<HashMap<ObjectKey, Track>>);

struct Track {
    /// By the object's hash.
    objects: HashMap<u64, Written>,
    /// Contents that were written lately, the newest last.
    recent: VecDeque<u64>,
    /// Plans that only repeated, less those that did not.
    repeats: u32,
    generation: i64,
    last: Instant,
}

struct Written {
    content: u64,
    tokens: f64,
    at: Instant,
}

/// What a plan is about to write, as hashes of objects and contents.
pub(super) struct Prints {
    all: Vec<Print>,
    /// Of the object that the key names.
    generation: i64,
}

struct Print {
    object: u64,
    content: u64,
    action: Action,
}

/// Whether a plan may be performed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Word {
    Go,
    /// It repeats, for so many times in a row that somebody should know.
    GoAndTell,
    /// Plan again after this time.
    Wait(Duration),
}

impl Prints {
    /// `generation` is that of the object that the key names.
    pub(super) fn of(writes: &[Write], generation: i64) -> Prints {
        let mut prints: Vec<Print> = Vec::new();
        for write in writes {
            // Many creations of a plan are one.
            if let Some(print) = print(write, generation)
                && !prints.iter().any(|known| known.object == print.object)
            {
                prints.push(print);
            }
            if prints.len() == MOST_OBJECTS {
                break;
            }
        }
        Prints { all: prints, generation }
    }
}

impl Pace {
    /// Whether a plan with these writes may be performed now.
    pub(super) fn check(&self, key: &ObjectKey, prints: &Prints, now: Instant) -> Word {
        let tracks = self.0.lock();
        let Some(track) = tracks.get(key).filter(|track| !track.is_old(now)) else {
            return Word::Go;
        };
        let named = prints.all.iter().filter(|print| print.action != Action::Create);
        let written = named.filter_map(|print| track.objects.get(&print.object));
        let tokens = written.map(|one| one.tokens(now)).fold(BURST, f64::min);
        if tokens < 1.0 {
            // A millisecond more than exactly, so that rounding never makes a tight loop.
            return Word::Wait(Duration::from_secs_f64((1.0 - tokens) / PER_SECOND + 0.001));
        }
        if !track.repeats(prints) {
            return Word::Go;
        }
        let repeats = track.repeats + 1;
        let wait = wait(repeats).saturating_sub(now.saturating_duration_since(track.last));
        let told = repeats.checked_sub(TOLD_REPEATS).map(|more| more % TOLD_AGAIN);
        match told {
            _ if !wait.is_zero() => Word::Wait(wait),
            Some(0) => Word::GoAndTell,
            _ => Word::Go,
        }
    }

    /// A plan with these writes was performed.
    pub(super) fn wrote(&self, key: &ObjectKey, prints: Prints, now: Instant) {
        if prints.all.is_empty() {
            return;
        }
        let mut tracks = self.0.lock();
        let track = tracks.entry(key.clone()).or_insert_with(|| Track::new(now));
        if track.is_old(now) {
            *track = Track::new(now);
        }
        if track.repeats(&prints) {
            track.repeats = track.repeats.saturating_add(1);
        } else if track.is_new(&prints) {
            track.repeats = track.repeats.saturating_sub(NEW_UNDOES);
        }
        if track.generation != prints.generation {
            (track.generation, track.repeats) = (prints.generation, 0);
        }
        track.last = now;
        for print in prints.all {
            track.note(&print, now);
        }
    }

    /// Forgets the keys that were quiet for long.
    pub(super) fn sweep(&self, now: Instant) {
        self.0.lock().retain(|_, track| !track.is_old(now));
    }
}

impl Track {
    fn new(now: Instant) -> Track {
        Track {
            objects: HashMap::new(),
            recent: VecDeque::new(),
            repeats: 0,
            generation: 0,
            last: now,
        }
    }

    fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= FORGET
    }

    /// Whether something is written that was not lately. To delete one more pod is nothing new: who
    /// replaces pods that fail at once deletes another each time.
    fn is_new(&self, prints: &Prints) -> bool {
        let mut lasting = prints.all.iter().filter(|print| print.action != Action::Delete);
        lasting.any(|print| !self.recent.contains(&print.content))
    }

    /// Whether nothing is new, and something is what was written last of its object.
    fn repeats(&self, prints: &Prints) -> bool {
        let again = |print: &Print| {
            self.objects.get(&print.object).is_some_and(|last| last.content == print.content)
        };
        !self.is_new(prints) && prints.all.iter().any(again)
    }

    fn note(&mut self, print: &Print, now: Instant) {
        if print.action != Action::Delete {
            self.recent.retain(|content| *content != print.content);
            self.recent.push_back(print.content);
            if self.recent.len() > MOST_RECENT {
                self.recent.pop_front();
            }
        }
        if self.objects.len() >= MOST_OBJECTS && !self.objects.contains_key(&print.object) {
            // Those that have all their tokens back are nothing to remember.
            self.objects.retain(|_, one| one.tokens(now) < BURST);
            if self.objects.len() >= MOST_OBJECTS {
                return;
            }
        }
        let full = Written { content: print.content, tokens: BURST, at: now };
        let one = self.objects.entry(print.object).or_insert(full);
        let tokens = (one.tokens(now) - 1.0).max(0.0);
        *one = Written { content: print.content, tokens, at: now };
    }
}

impl Written {
    fn tokens(&self, now: Instant) -> f64 {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        (self.tokens + passed * PER_SECOND).min(BURST)
    }
}

/// How long after the last one a repeat may come.
fn wait(repeats: u32) -> Duration {
    let Some(doublings) = repeats.checked_sub(FREE_REPEATS + 1) else { return Duration::ZERO };
    FIRST_WAIT.saturating_mul(1 << doublings.min(16)).min(MOST_WAIT)
}

/// `None` for what writes nothing by itself, and for the deletion of all of a collection, whose
/// repeats back off as conflicts.
fn print(write: &Write, generation: i64) -> Option<Print> {
    let (action, target) = write.subject()?;
    let mut object = DefaultHasher::new();
    target.hash(&mut object);
    let mut content = DefaultHasher::new();
    generation.hash(&mut content);
    match write {
        Write::Create { object: new, .. } => {
            new.meta_text("generateName").hash(&mut object);
            // A name that was generated from the content is told by its beginning.
            new.name().hash(&mut object);
        }
        Write::Update { object: new, .. } => {
            // The other part of the object is not written.
            let part = target.subresource.as_deref();
            let written = |name: &str| match part {
                None => name != "status",
                Some("status") => name == "status",
                Some(_) => true,
            };
            for (name, value) in new.fields().iter().filter(|(name, _)| written(name)) {
                hash_field(name, value, &mut content);
            }
        }
        Write::Patch { patch, .. } => match patch {
            Patch::Json(value) | Patch::Merge(value) | Patch::Strategic(value) => {
                hash_value(value, &mut content);
            }
            Patch::Apply { config, .. } => hash_value(config, &mut content),
        },
        Write::Delete { .. } => "delete".hash(&mut content),
        Write::Absent { .. } | Write::Alive { .. } | Write::DeleteAll { .. } | Write::Then => {
            return None;
        }
    }
    matches!(action, Action::Create).hash(&mut object);
    let object = object.finish();
    object.hash(&mut content);
    Some(Print { object, content: content.finish(), action })
}

/// Times differ in what is the same otherwise, and versions always do. How many pods are on their
/// way out is nobody's progress: who fights over a size makes as many as it likes.
fn hash_field(name: &str, value: &Value, hasher: &mut DefaultHasher) {
    let is_passing =
        matches!(name, "resourceVersion" | "managedFields" | "generation" | "terminating")
            || name.ends_with("Time")
            || name.ends_with("Timestamp")
            || name == "terminatingReplicas";
    if !is_passing {
        name.hash(hasher);
        hash_value(value, hasher);
    }
}

fn hash_value(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Null => 0u8.hash(hasher),
        Value::Bool(value) => (1u8, value).hash(hasher),
        Value::Number(number) => (2u8, number).hash(hasher),
        Value::String(text) => (3u8, text).hash(hasher),
        Value::Array(items) => {
            (4u8, items.len()).hash(hasher);
            items.iter().for_each(|item| hash_value(item, hasher));
        }
        Value::Object(fields) => {
            5u8.hash(hasher);
            fields.iter().for_each(|(name, value)| hash_field(name, value, hasher));
        }
    }
}

#[cfg(test)]
#[path = "pace_tests.rs"]
mod tests;
