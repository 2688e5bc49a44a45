//! The cases of sig-network.

mod api_server;
mod endpoint_slices;
mod endpoints;
mod ingress;
mod latency;
mod proxy;
mod service_cidrs;
mod services;

use super::Case;

pub const CASES: &[&[Case]] = &[
    api_server::CASES,
    endpoint_slices::CASES,
    endpoints::CASES,
    ingress::CASES,
    latency::CASES,
    proxy::CASES,
    service_cidrs::CASES,
    services::CASES,
];
