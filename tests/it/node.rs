//! The node agent against a real API server over a store in memory and a runtime that runs
//! scripts. Time is virtual unless a test needs sockets.

mod admission;
mod ephemeral;
mod fencing;
mod harness;
mod hooks;
mod lifecycle;
mod logs;
mod probes;
mod registration;
mod restarts;
mod simulated;
mod static_pods;
mod termination;
mod volumes;
mod workload;
