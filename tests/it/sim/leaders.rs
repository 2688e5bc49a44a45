//! Two control planes over one store, of which one leads: whichever is paused, wakes up or loses its
//! lease, the terms' writes come one term after the other (`tests/sim/truth/terms.rs` looks).

use super::engine::stage::play;
use super::engine::story::Story;
use super::engine::themes::THEMES;

const STORIES: u64 = 6;

#[test]
fn of_two_leaders_one_writes() {
    let theme = THEMES.iter().find(|theme| theme.name == "two leaders").expect("it is a theme");
    let (mut terms, mut refused) = (0, 0);
    for seed in 0..STORIES {
        let outcome = play(&Story::themed(theme, seed));
        assert_eq!(outcome.failure, None, "seed {seed}");
        terms += outcome.terms;
        refused += outcome.refused;
    }
    // Two leases; each has a first term.
    assert!(terms > 4 * STORIES as usize, "the leases went from one to the other: {terms} terms");
    assert!(refused > 0, "no write of a finished term was refused");
}
