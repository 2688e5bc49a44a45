//! The cases of sig-scheduling.

mod limit_ranges;
mod predicates;
mod priority_classes;

use super::Case;

pub const CASES: &[&[Case]] = &[limit_ranges::CASES, predicates::CASES, priority_classes::CASES];
