//! The cases of sig-node.

use super::Case;

pub const CASES: &[&[Case]] = &[];
