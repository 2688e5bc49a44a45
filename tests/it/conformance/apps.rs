//! The cases of sig-apps.

mod cron_jobs;
mod disruption;

use super::Case;

pub const CASES: &[&[Case]] = &[cron_jobs::CASES, disruption::CASES];
