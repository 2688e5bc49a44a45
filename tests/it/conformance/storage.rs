//! The cases of sig-storage.

use super::Case;

pub const CASES: &[&[Case]] = &[];
