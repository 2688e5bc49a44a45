//! The cases of sig-auth.

use super::Case;

pub const CASES: &[&[Case]] = &[];
