//! Plays stories of the simulation (`tests/sim`), as many as are asked for, in one thread.
//!
//! `cargo run --release --example simulate -- --seeds 1000`; `--seed 7` plays one of them again.

// The tests use more of it.
#[allow(dead_code, unused_imports)]
#[path = "../tests/sim/mod.rs"]
mod sim;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;

use sim::shrink::{MOST_TRIES, shrink};
use sim::stage::{Outcome, play};
use sim::story::Story;
use sim::themes::THEMES;

/// Plays seeded stories of a cluster whose parts fail, and looks whether the controllers keep their
/// promises. Ends with 1 after the first story that fails, made shorter.
#[derive(Parser)]
struct Args {
    /// How many stories to play.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Plays this one alone, twice, and prints its steps.
    #[arg(long)]
    seed: Option<u64>,
    /// Only stories of this theme; `help` lists them.
    #[arg(long)]
    theme: Option<String>,
    /// Goes on after a story that fails.
    #[arg(long)]
    keep_going: bool,
    /// Plants known bugs, one after the other, and plays so many stories at most to find each, of the
    /// theme that is to find it. Needs the feature `planted`, or a debug build.
    #[arg(long)]
    planted: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.theme.as_deref().is_some_and(|name| THEMES.iter().all(|theme| theme.name != name)) {
        let names: Vec<&str> = THEMES.iter().map(|theme| theme.name).collect();
        eprintln!("themes: {}", names.join(", "));
        return ExitCode::from(2);
    }
    if args.planted {
        return find_planted(&args);
    }
    let seeds = match args.seed {
        Some(seed) => seed..seed + 1,
        None => args.from..args.from.saturating_add(args.seeds),
    };
    let begin = Instant::now();
    let (mut time, mut stories, mut commits, mut failed) = (Duration::ZERO, 0, 0, 0);
    for seed in seeds {
        let story = story(args.theme.as_deref(), seed);
        if args.seed.is_some() {
            println!("{story}");
        }
        let outcome = play(&story);
        stories += 1;
        time += outcome.time;
        commits += outcome.revision;
        if args.seed.is_some() && play(&story) != outcome {
            println!("seed {seed} comes out otherwise when it is played again");
        }
        if outcome.failure.is_some() {
            failed += 1;
            tell_failure(&story, outcome);
            if !args.keep_going {
                break;
            }
        }
    }
    let real = begin.elapsed();
    // Stories that are played twice or made shorter take real time only.
    println!(
        "{stories} stories, {failed} failed: {:.0} s of virtual time and {commits} commits in \
         {:.1} s, {:.0} times real time",
        time.as_secs_f64(),
        real.as_secs_f64(),
        time.as_secs_f64() / real.as_secs_f64()
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn story(theme: Option<&str>, seed: u64) -> Story {
    let theme = THEMES.iter().find(|one| Some(one.name) == theme);
    theme.map_or_else(|| Story::of(seed), |theme| Story::themed(theme, seed))
}

fn tell_failure(story: &Story, outcome: Outcome) {
    let (seed, theme) = (story.seed, story.theme.name);
    println!("seed {seed} ({theme}) fails: {}", outcome.failure.as_deref().unwrap_or_default());
    let (shorter, outcome) = shrink(story, outcome, MOST_TRIES);
    println!("made shorter, it fails: {}", outcome.failure.unwrap_or_default());
    println!("{shorter}play it again with --seed {seed} --theme {theme:?}\n");
}

#[cfg(any(debug_assertions, feature = "planted"))]
fn find_planted(args: &Args) -> ExitCode {
    use sim::bugs::BUGS;
    let mut missed = 0;
    for (bug, theme) in BUGS {
        let mut seeds = args.from..args.from.saturating_add(args.seeds);
        let found = seeds.find_map(|seed| {
            wasmfleet::base::planted::plant(Some(bug));
            let theme = args.theme.as_deref().unwrap_or(theme);
            let failure = play(&story(Some(theme), seed)).failure;
            wasmfleet::base::planted::plant(None);
            failure.map(|why| (seed, why))
        });
        match found {
            Some((seed, why)) => println!("found: {bug} (seed {seed}): {why}"),
            None => {
                missed += 1;
                println!("missed: {bug}");
            }
        }
    }
    println!("{} of {} planted bugs are found", BUGS.len() - missed, BUGS.len());
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(not(any(debug_assertions, feature = "planted")))]
fn find_planted(_: &Args) -> ExitCode {
    eprintln!("no bugs are compiled in: build with --features planted");
    ExitCode::from(2)
}
