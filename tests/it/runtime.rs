//! The runtime with real guests: text guests assembled here, and small built ones.

mod abuse;
mod cache;
pub mod clients;
mod commands;
mod density;
mod fake;
pub mod harness;
mod held;
mod http;
mod http_ending;
mod http_limits;
mod http_reuse;
mod http_wire;
pub mod inspect;
mod limits;
pub mod network;
mod outbound;
mod workload;
