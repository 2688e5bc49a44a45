//! The stories of `tests/sim` are played: they come out well, and always the same.

use super::engine::shrink;
use super::engine::stage::play;
use super::engine::story::Story;
use super::engine::themes::THEMES;

/// Seeds of each theme.
const DEFAULT_SEEDS: u64 = 1;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("WASMFLEET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WASMFLEET_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS * THEMES.len() as u64),
    }
}

/// Whatever fails, the bounds of all controllers hold, and everything comes to rest.
#[test]
fn stories_come_out_well() {
    for seed in seeds() {
        let story = Story::of(seed);
        let outcome = play(&story);
        if outcome.failure.is_some() {
            let (shorter, outcome) = shrink::shrink(&story, outcome, shrink::MOST_TRIES);
            let why = outcome.failure.unwrap_or_default();
            panic!("WASMFLEET_SIM_SEED={seed} fails: {why}\nmade shorter: {shorter}");
        }
    }
}

/// What is stored is the same, byte for byte, when a story is played again.
#[test]
fn stories_are_played_again_identically() {
    for theme in THEMES {
        let story = Story::themed(theme, 7);
        let (first, again) = (play(&story), play(&story));
        assert_eq!(first, again, "{}", theme.name);
        assert!(first.revision > 50, "{} is a story: {first:?}", theme.name);
    }
}
