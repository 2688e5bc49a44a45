//! The cases of sig-storage.

mod csi;
mod immutable;

use super::Case;

pub const CASES: &[&[Case]] = &[csi::CASES, immutable::CASES];
