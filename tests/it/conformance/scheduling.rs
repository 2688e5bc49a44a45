//! The cases of sig-scheduling.

use super::Case;

pub const CASES: &[&[Case]] = &[];
