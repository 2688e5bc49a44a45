//! The cases of sig-network.

mod api_server;
mod endpoint_slices;
mod services;

use super::Case;

pub const CASES: &[&[Case]] = &[api_server::CASES, endpoint_slices::CASES, services::CASES];
