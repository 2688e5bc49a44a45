//! The cases of sig-instrumentation.

mod core_events;
mod events;

use super::Case;

pub const CASES: &[&[Case]] = &[core_events::CASES, events::CASES];
