//! The cases of sig-node.

mod classes;
mod config;
mod dra;
mod environment;
mod ephemeral_containers;
mod expansion;
mod image_volumes;
mod init_containers;
mod lifecycle_hooks;
mod nodes;
mod pod_generation;
mod pod_templates;
mod pods;
mod probes;
mod runtime;
mod taints;

use super::Case;

pub const CASES: &[&[Case]] = &[
    classes::CASES,
    config::CASES,
    dra::CASES,
    environment::CASES,
    ephemeral_containers::CASES,
    expansion::CASES,
    image_volumes::CASES,
    init_containers::CASES,
    lifecycle_hooks::CASES,
    nodes::CASES,
    pod_generation::CASES,
    pod_templates::CASES,
    pods::CASES,
    probes::CASES,
    runtime::CASES,
    taints::CASES,
];
