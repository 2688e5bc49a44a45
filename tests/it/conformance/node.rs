//! The cases of sig-node.

mod classes;
mod config;
mod nodes;
mod pod_templates;

use super::Case;

pub const CASES: &[&[Case]] = &[classes::CASES, config::CASES, nodes::CASES, pod_templates::CASES];
