//! The cases of sig-architecture.

use super::Case;

pub const CASES: &[&[Case]] = &[];
