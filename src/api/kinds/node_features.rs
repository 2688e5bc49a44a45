//! What a node's runtime offers to programs, and what the programs of a pod need of it: names such as
//! `wasm32-wasip1` (modules of WASI preview 1), `wasi:http/proxy@0.2` (a world) or
//! `wasi:keyvalue@0.2.0-draft` (a package of host interfaces).
//!
//! A node lists its own in `status.declaredFeatures` (KEP-5328). A pod has an annotation, which
//! admission writes for programs of the cluster's registry, and users for those of others.

/// The annotation of a Pod: features separated by commas.
pub const NEEDS: &str = "wasmfleet.dev/features";

/// The features that an annotation lists.
pub fn parse(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty())
}
