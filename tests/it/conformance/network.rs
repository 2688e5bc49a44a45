//! The cases of sig-network.

use super::Case;

pub const CASES: &[&[Case]] = &[];
