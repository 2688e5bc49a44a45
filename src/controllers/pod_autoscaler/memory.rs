//! What an autoscaler remembers: what it recommended and did within the last windows. Knows no
//! rules.

use jiff::{SignedDuration, Timestamp};

use crate::api::selector::Selector;

/// Recommendations of less time are kept as one, lowest and highest: so many are bounded, however
/// often somebody changes the autoscaler.
const BUCKET: SignedDuration = SignedDuration::from_secs(10);
/// The longest period of a policy, which validation allows.
const MOST_PERIOD: SignedDuration = SignedDuration::from_secs(1_800);

/// Of one autoscaler.
#[derive(Default)]
pub struct Memory {
    uid: String,
    /// The pods of its target when it was last looked at.
    pub selector: Option<Selector>,
    recommendations: Vec<Recommendation>,
    changes: Vec<Change>,
    /// A new number that is being written.
    pub pending: Option<Rescale>,
    /// In whole seconds, as a status tells it.
    pub last_rescale: Option<Timestamp>,
}

struct Recommendation {
    since: Timestamp,
    at: Timestamp,
    lowest: i32,
    highest: i32,
}

/// Replicas that were added or taken away within one second.
#[derive(Default)]
struct Change {
    at: Timestamp,
    added: i64,
    removed: i64,
}

/// A new number of replicas.
pub struct Rescale {
    pub from: i32,
    pub to: i32,
    pub why: String,
    pub at: Timestamp,
}

impl Memory {
    /// Before everything else: the number that an autoscaler finds is its first recommendation.
    pub fn begin(&mut self, uid: &str, replicas: i32, now: Timestamp) {
        if self.uid != uid {
            *self = Memory { uid: uid.into(), ..Memory::default() };
        }
        // A clock that was set back must not make anything last longer.
        for one in &mut self.recommendations {
            (one.since, one.at) = (one.since.min(now), one.at.min(now));
        }
        self.changes.iter_mut().for_each(|one| one.at = one.at.min(now));
        self.pending = None;
        if self.recommendations.is_empty() {
            self.recommend(replicas, now, SignedDuration::ZERO);
        }
    }

    /// Adds a recommendation, and forgets those that are older than `kept`.
    pub fn recommend(&mut self, replicas: i32, now: Timestamp, kept: SignedDuration) {
        self.recommendations.retain(|one| now.duration_since(one.at) <= kept);
        match self.recommendations.last_mut() {
            Some(last) if now.duration_since(last.since) < BUCKET => {
                last.at = now;
                last.lowest = last.lowest.min(replicas);
                last.highest = last.highest.max(replicas);
            }
            _ => {
                let one =
                    Recommendation { since: now, at: now, lowest: replicas, highest: replicas };
                self.recommendations.push(one);
            }
        }
    }

    /// The lowest and the highest recommendation that are younger than a window.
    pub fn within(&self, window: SignedDuration, now: Timestamp) -> Option<(i32, i32)> {
        let young = self.recommendations.iter().filter(|one| now.duration_since(one.at) < window);
        young.map(|one| (one.lowest, one.highest)).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// A new number was written.
    pub fn rescaled(&mut self, rescale: &Rescale) {
        let now = rescale.at;
        self.last_rescale = Timestamp::from_second(now.as_second()).ok();
        self.changes.retain(|one| now.duration_since(one.at) <= MOST_PERIOD);
        let second = now.as_second();
        if self.changes.last().is_none_or(|last| last.at.as_second() != second) {
            self.changes.push(Change { at: now, ..Change::default() });
        }
        let Some(last) = self.changes.last_mut() else { return };
        let change = i64::from(rescale.to) - i64::from(rescale.from);
        last.added += change.max(0);
        last.removed += (-change).max(0);
    }

    /// By how many replicas the present number is above the one that a period began with.
    pub fn grown(&self, period_seconds: i32, now: Timestamp) -> i64 {
        let period = SignedDuration::from_secs(period_seconds.into());
        let young = self.changes.iter().filter(|one| now.duration_since(one.at) < period);
        young.map(|one| one.added - one.removed).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn rescale(from: i32, to: i32, second: i64) -> Rescale {
        Rescale { from, to, why: String::new(), at: at(second) }
    }

    const WINDOW: SignedDuration = SignedDuration::from_secs(60);

    #[test]
    fn recommendations_last_as_long_as_their_window() {
        let mut memory = Memory::default();
        memory.begin("a", 5, at(0));
        memory.recommend(9, at(15), WINDOW);
        memory.recommend(2, at(30), WINDOW);
        assert_eq!(memory.within(WINDOW, at(30)), Some((2, 9)));
        assert_eq!(memory.within(SignedDuration::ZERO, at(30)), None);
        assert_eq!(memory.within(WINDOW, at(74)), Some((2, 9)));
        assert_eq!(memory.within(WINDOW, at(75)), Some((2, 2)));
        // Another autoscaler of the same name knows nothing of it.
        memory.begin("b", 3, at(31));
        assert_eq!(memory.within(WINDOW, at(31)), Some((3, 3)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut memory = Memory::default();
        for second in 0..10_000 {
            memory.begin("a", 1, at(second));
            memory.recommend(i32::try_from(second % 7).unwrap(), at(second), WINDOW);
            memory.rescaled(&rescale(1, 2, second));
            memory.rescaled(&rescale(2, 1, second));
        }
        assert!(memory.recommendations.len() <= 8, "{}", memory.recommendations.len());
        assert!(memory.changes.len() <= 1_802, "{}", memory.changes.len());
        assert_eq!(memory.within(WINDOW, at(9_999)), Some((0, 6)));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_last_longer() {
        let mut memory = Memory::default();
        memory.begin("a", 9, at(10_000));
        memory.rescaled(&rescale(1, 4, 10_000));
        memory.begin("a", 1, at(100));
        assert_eq!(memory.grown(60, at(100)), 3);
        assert_eq!((memory.grown(60, at(161)), memory.within(WINDOW, at(161))), (0, None));
    }
}
