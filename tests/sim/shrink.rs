//! Makes a failing story shorter: steps are left out as long as what is left still fails.

use super::stage::{Outcome, play};
use super::story::Story;

/// Stories played at most for one that is made shorter.
pub const MOST_TRIES: usize = 60;

/// The shortest story found that fails, with how it fails. Whole halves are left out first, then
/// smaller parts.
pub fn shrink(story: &Story, outcome: Outcome, most_tries: usize) -> (Story, Outcome) {
    let (mut story, mut outcome) = (story.clone(), outcome);
    let mut part = story.steps.len().div_ceil(2);
    let mut tries = 0;
    while part > 0 {
        let mut at = 0;
        while at < story.steps.len() && tries < most_tries {
            let mut shorter = story.clone();
            let end = (at + part).min(shorter.steps.len());
            shorter.steps.drain(at..end);
            tries += 1;
            let played = play(&shorter);
            if played.failure.is_some() {
                (story, outcome) = (shorter, played);
            } else {
                at += part;
            }
        }
        part = if part == 1 { 0 } else { part.div_ceil(2) };
    }
    (story, outcome)
}
