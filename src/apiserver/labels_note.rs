//! Notes beside stored values: which labels they have, in 64 bits, so that a list with a selector
//! does not look at most of the objects that it does not want.
//!
//! A Bloom filter: each key, and each key with its value, sets two bits. What lacks a bit that a
//! selector needs does not match; what has them all may.

use std::borrow::Cow;
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hasher};

use crate::api::selector::{Operator, Selector};

/// Labels, read in place.
pub(super) type Labels<'a> = HashMap<Cow<'a, str>, Cow<'a, str>>;

/// Set in every note: 0 is none.
const MADE: u64 = 1 << 63;
/// The bits that labels set.
const BITS: u64 = 63;

/// The note of a value with these labels.
pub(super) fn of(labels: &Labels<'_>) -> u64 {
    let bits = labels.iter().map(|(key, value)| bits(key, None) | bits(key, Some(value)));
    bits.fold(MADE, |all, one| all | one)
}

/// What the note of every object has that matches; 0 if the selector asks for no label.
pub(super) fn needed(selector: &Selector) -> u64 {
    let bits = selector.requirements().iter().map(|one| match (one.operator, &one.values[..]) {
        (Operator::Equals | Operator::In, [value]) => bits(&one.key, Some(value)),
        (
            Operator::Equals
            | Operator::In
            | Operator::Exists
            | Operator::GreaterThan
            | Operator::LessThan,
            _,
        ) => bits(&one.key, None),
        (Operator::NotEquals | Operator::NotIn | Operator::DoesNotExist, _) => 0,
    });
    bits.fold(0, |all, one| all | one)
}

fn bits(key: &str, value: Option<&str>) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key.as_bytes());
    hasher.write_u8(value.is_some().into());
    hasher.write(value.unwrap_or_default().as_bytes());
    let hash = hasher.finish();
    1 << (hash % BITS) | 1 << ((hash >> 32) % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matches_has_all_bits_and_most_others_lack_one() {
        let note = |pairs: &[(&'static str, String)]| {
            of(&pairs.iter().map(|(k, v)| (Cow::from(*k), Cow::from(v.clone()))).collect())
        };
        let notes: Vec<u64> = (0..1000)
            .map(|n| note(&[("app", format!("app-{n}")), ("tier", "front".to_owned())]))
            .collect();
        let count = |text: &str| {
            let needed = needed(&Selector::parse(text).unwrap());
            notes.iter().filter(|note| *note & needed == needed).count()
        };
        for text in ["tier=front", "app", "app in (app-1,app-2)", "app!=app-1", "!gone", ""] {
            assert_eq!(count(text), 1000, "{text}");
        }
        assert!((1..100).contains(&count("app=app-7")));
        assert!(count("app=other") < 100 && count("team") < 100);
    }
}
