//! The cases of sig-cli, with the real kubectl.

mod kubectl;

use super::Case;

pub const CASES: &[&[Case]] = &[kubectl::CASES];
