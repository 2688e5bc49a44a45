//! The cases of sig-instrumentation.

use super::Case;

pub const CASES: &[&[Case]] = &[];
