//! The cases of sig-cli, with the real kubectl.

mod controllers;
mod kubectl;

use super::Case;

pub const CASES: &[&[Case]] = &[controllers::CASES, kubectl::CASES];
