//! The cases of sig-network.

mod endpoint_slices;
mod services;

use super::Case;

pub const CASES: &[&[Case]] = &[endpoint_slices::CASES, services::CASES];
