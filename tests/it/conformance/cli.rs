//! The cases of sig-cli.

use super::Case;

pub const CASES: &[&[Case]] = &[];
