//! The cases of sig-scheduling.

mod limit_ranges;
mod priority_classes;

use super::Case;

pub const CASES: &[&[Case]] = &[limit_ranges::CASES, priority_classes::CASES];
