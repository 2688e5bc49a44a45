//! The cases of sig-apps.

use super::Case;

pub const CASES: &[&[Case]] = &[];
