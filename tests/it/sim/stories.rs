//! The stories of `tests/sim` are played: they come out well, and always the same. A test is a theme,
//! so that they run beside each other.

use super::engine::shrink;
use super::engine::stage::play;
use super::engine::story::Story;
use super::engine::themes::THEMES;

/// Seeds of each theme.
const DEFAULT_SEEDS: u64 = 14;
/// With fewer stories it is no wonder if no leader was overtaken in the middle of a write.
const ENOUGH_TO_MEET: u64 = 6;

/// The seeds that are stories of a theme.
fn seeds(theme: &str) -> impl Iterator<Item = u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let all = match number("WASMFLEET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WASMFLEET_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS * THEMES.len() as u64),
    };
    all.filter(move |seed| Story::of(*seed).theme.name == theme)
}

/// Whatever fails, the bounds of all controllers hold, and everything comes to rest. What is stored of
/// the first story is the same, byte for byte, when it is played again.
fn come_out_well(theme: &str) {
    let (mut stories, mut terms, mut refused) = (0, 0, 0);
    for seed in seeds(theme) {
        let story = Story::of(seed);
        let outcome = play(&story);
        if outcome.failure.is_some() {
            let (shorter, outcome) = shrink::shrink(&story, outcome, shrink::MOST_TRIES);
            let why = outcome.failure.unwrap_or_default();
            panic!("WASMFLEET_SIM_SEED={seed} fails: {why}\nmade shorter: {shorter}");
        }
        if stories == 0 {
            assert!(outcome.revision > 50, "it is a story: {outcome:?}");
            assert_eq!(outcome, play(&story), "seed {seed} comes out otherwise when played again");
        }
        stories += 1;
        terms += outcome.terms as u64;
        refused += outcome.refused;
    }
    let elects = THEMES.iter().any(|one| one.name == theme && one.elects);
    if elects && stories >= ENOUGH_TO_MEET {
        // Two leases; each has a first term.
        assert!(terms > 3 * stories, "the leases went from one to the other: {terms} terms");
        assert!(refused > 0, "no write of a finished term was refused");
    }
}

macro_rules! themes {
    ($($test:ident: $theme:literal,)*) => {
        $(
            #[test]
            fn $test() {
                come_out_well($theme);
            }
        )*

        const PLAYED: &[&str] = &[$($theme),*];
    };
}

themes! {
    rollouts: "rollouts",
    recreations: "recreations",
    sets: "sets",
    set_trouble: "set trouble",
    daemons: "daemons",
    jobs: "jobs",
    cron: "cron",
    budgets: "budgets",
    deletions: "deletions",
    full_nodes: "full nodes",
    priorities: "priorities",
    node_loss: "node loss",
    crashes: "crashes",
    chaos: "chaos",
    two_leaders: "two leaders",
}

#[test]
fn each_theme_is_played() {
    assert!(THEMES.iter().map(|theme| theme.name).eq(PLAYED.iter().copied()));
}
