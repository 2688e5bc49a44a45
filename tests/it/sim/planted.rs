//! Known bugs of controllers and schedulers, planted one after the other: the stories of the simulation
//! find them. A test lists which, and with what seed.

#![cfg(any(debug_assertions, feature = "planted"))]

use std::collections::BTreeSet;
use std::path::Path;

use wasmfleet::base::planted::plant;

use super::engine::bugs::BUGS;
use super::engine::stage::play;
use super::engine::story::Story;
use super::engine::themes::THEMES;

/// Stories that are played at most to find one.
const MOST_STORIES: u64 = 16;

#[test]
fn planted_bugs_are_found() {
    assert!(BUGS.len() >= 20);
    let mut missed = Vec::new();
    for (bug, name) in BUGS {
        let theme = THEMES.iter().find(|theme| theme.name == *name).expect("the theme is one");
        let found = (0..MOST_STORIES).find_map(|seed| {
            plant(Some(bug));
            let failure = play(&Story::themed(theme, seed)).failure;
            plant(None);
            failure.map(|why| (seed, why))
        });
        match found {
            Some((seed, why)) => {
                let why: String = why.chars().take(100).collect();
                println!("found: {bug} ({name}, seed {seed}: {why})");
            }
            None => missed.push(*bug),
        }
    }
    println!("{} of {} planted bugs are found", BUGS.len() - missed.len(), BUGS.len());
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// The table has every bug that is planted, and no other.
#[test]
fn every_planted_bug_is_in_the_table() {
    let mut files = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut planted = BTreeSet::new();
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let names = text.split("planted(\"").skip(1).filter_map(|rest| rest.split('"').next());
        planted.extend(names.map(str::to_string));
    }
    let table: BTreeSet<String> = BUGS.iter().map(|(bug, _)| bug.to_string()).collect();
    assert_eq!(planted, table);
}
