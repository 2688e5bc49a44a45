//! Wasmfleet: Kubernetes for WebAssembly.
//!
//! The rooms, in reading order. Arrows of who imports whom are in ARCHITECTURE.md and are held by
//! `tests/it/tidy.rs`. Which rooms a program has is said here, by the package's features.

pub mod base;

pub mod api;

#[cfg(feature = "control-plane")]
pub mod store;

pub mod client;

#[cfg(feature = "control-plane")]
pub mod apiserver;

#[cfg(feature = "control-plane")]
pub mod controllers;
#[cfg(feature = "control-plane")]
pub mod scheduler;

pub mod artifact;
#[cfg(feature = "node")]
pub mod engine;
pub mod images;
#[cfg(feature = "node")]
pub mod runtime;
#[cfg(feature = "node")]
pub mod volumes;

#[cfg(feature = "node")]
pub mod node;
#[cfg(feature = "node")]
pub mod proxy;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "node")]
pub mod daemon;
