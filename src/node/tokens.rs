//! The tokens that pods hold: each is asked for when its pod starts, and again once most of its life
//! is over, so that the slow look at volumes asks the API for none in between.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;

/// The part of a token's life after which another is asked for, in percent (as kubelet's manager),
/// and the longest time that one is kept.
const RENEWED_AFTER_PERCENT: i64 = 80;
const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

/// See the module's documentation.
#[derive(Default)]
pub struct PodTokens(Mutex<HashMap<String, Vec<Held>>>);

struct Held {
    audience: String,
    /// As the pod asks for.
    asked_seconds: i64,
    token: Arc<str>,
    renew_at: Timestamp,
    expires_at: Timestamp,
}

/// What a pod holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Holding {
    Nothing,
    /// Good for long enough.
    Fresh(Arc<str>),
    /// Valid, to be used where no other is to be had.
    Old(Arc<str>),
}

impl PodTokens {
    pub fn get(&self, pod_uid: &str, audience: &str, seconds: i64, now: Timestamp) -> Holding {
        let pods = self.0.lock();
        let mut list = pods.get(pod_uid).into_iter().flatten();
        match list.find(|held| held.is_for(audience, seconds)) {
            Some(held) if now < held.renew_at => Holding::Fresh(held.token.clone()),
            Some(held) if now < held.expires_at => Holding::Old(held.token.clone()),
            _ => Holding::Nothing,
        }
    }

    /// Keeps a token that was issued at `now` for `life_seconds`, which the API may have changed.
    pub fn put(
        &self,
        pod_uid: &str,
        (audience, asked_seconds): (&str, i64),
        token: &Arc<str>,
        life_seconds: i64,
        now: Timestamp,
    ) {
        let after = |seconds: i64| {
            now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
        };
        let most = life_seconds / 100 * RENEWED_AFTER_PERCENT;
        let mut pods = self.0.lock();
        let list = pods.entry(pod_uid.to_string()).or_default();
        list.retain(|held| !held.is_for(audience, asked_seconds));
        list.push(Held {
            audience: audience.to_string(),
            asked_seconds,
            token: token.clone(),
            renew_at: after(most.min(MAX_AGE.as_secs())),
            expires_at: after(life_seconds),
        });
    }

    /// The pod is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.0.lock().remove(pod_uid);
    }
}

impl Held {
    fn is_for(&self, audience: &str, seconds: i64) -> bool {
        self.audience == audience && self.asked_seconds == seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_it_expires() {
        let tokens = PodTokens::default();
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        tokens.put("p", ("", 3607), &"one".into(), 3600, at(0));
        tokens.put("p", ("vault", 600), &"two".into(), 600, at(0));
        let get = |second: i64| tokens.get("p", "", 3607, at(second));
        assert_eq!(get(2879), Holding::Fresh("one".into()));
        assert_eq!(get(2880), Holding::Old("one".into()));
        assert_eq!(get(3600), Holding::Nothing);
        assert_eq!(tokens.get("p", "vault", 600, at(1)), Holding::Fresh("two".into()));
        assert_eq!(tokens.get("p", "vault", 601, at(1)), Holding::Nothing);
        tokens.put("p", ("", 3607), &"three".into(), 3600, at(2880));
        assert_eq!(get(2881), Holding::Fresh("three".into()));
        tokens.forget("p");
        assert_eq!(get(2881), Holding::Nothing);
        // Long lives are no reason to keep a token for ever.
        tokens.put("p", ("", 1 << 32), &"long".into(), 1 << 32, at(0));
        assert_eq!(tokens.get("p", "", 1 << 32, at(86_400)), Holding::Old("long".into()));
    }
}
