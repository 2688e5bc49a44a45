//! The cases of sig-scheduling.

mod limit_ranges;
mod predicates;
mod preemption;

use super::Case;

pub const CASES: &[&[Case]] = &[limit_ranges::CASES, predicates::CASES, preemption::CASES];
