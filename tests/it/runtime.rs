//! The runtime with real guests: text guests assembled here, and small built ones.

mod cache;
mod commands;
mod density;
mod fake;
mod harness;
mod http;
mod limits;
mod network;
