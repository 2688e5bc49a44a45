//! The cases of sig-apps.

mod controller_revisions;
mod cron_jobs;
mod daemon_sets;
mod deployments;
mod disruption;
mod jobs;
mod replica_sets;
mod replication_controllers;
mod serving;
mod stateful_health;
mod stateful_sets;

use super::Case;

pub const CASES: &[&[Case]] = &[
    controller_revisions::CASES,
    cron_jobs::CASES,
    daemon_sets::CASES,
    deployments::CASES,
    disruption::CASES,
    jobs::CASES,
    replica_sets::CASES,
    replication_controllers::CASES,
    serving::CASES,
    stateful_health::CASES,
    stateful_sets::CASES,
];
