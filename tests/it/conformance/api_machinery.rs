//! The cases of sig-api-machinery.

mod watchers;

use super::Case;

pub const CASES: &[&[Case]] = &[watchers::CASES];
