//! The built programs, driven as users drive them: `wasmfleet` in processes of its own, `wasmctl`,
//! and plain HTTP. The clusters are of [`crate::cluster`].

mod abuse;
mod api_access;
mod bad_input;
mod compiled;
mod containers;
mod fencing;
mod full_disk;
mod inside;
mod leaks;
mod leaving;
mod programs;
mod rollout;
mod scale_to_zero;
mod separate;
mod small_node;
mod static_pods;
mod wasmctl;
mod worlds;
