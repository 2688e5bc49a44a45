//! The cases of sig-apps.

mod cron_jobs;
mod deployments;
mod disruption;
mod replica_sets;
mod replication_controllers;

use super::Case;

pub const CASES: &[&[Case]] = &[
    cron_jobs::CASES,
    deployments::CASES,
    disruption::CASES,
    replica_sets::CASES,
    replication_controllers::CASES,
];
