//! The cases of sig-cli, with the real kubectl.

mod controllers;
mod kubectl;
mod kubectl_logs;

use super::Case;

pub const CASES: &[&[Case]] = &[controllers::CASES, kubectl::CASES, kubectl_logs::CASES];
