//! Wasmfleet: Kubernetes for WebAssembly.
//!
//! The rooms, in reading order. Arrows of who imports whom are in ARCHITECTURE.md and are held by
//! `tests/it/tidy.rs`.

pub mod base;

pub mod api;

pub mod store;

pub mod client;

pub mod apiserver;

pub mod controllers;
pub mod scheduler;

pub mod artifact;
pub mod engine;
pub mod images;
pub mod runtime;
pub mod volumes;

pub mod node;
pub mod proxy;

pub mod cli;
pub mod daemon;
