//! The vocabulary: objects, kinds, errors, and the pure rules of the Kubernetes API.
//!
//! No tokio, no I/O, no clock in here. Wire types come from `k8s-openapi`.

pub mod apply;
pub mod cel;
pub mod cron;
pub mod custom;
pub mod duration;
pub mod error;
pub mod field;
pub mod jsonpath;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod object;
pub mod patch;
pub mod placement;
pub mod pod_security;
pub mod proto;
pub mod quantity;
pub mod regexp;
pub mod registry;
pub mod resource;
#[cfg(test)]
pub mod samples;
pub mod schema;
pub mod selector;
pub mod simulated;
pub mod strict;
pub mod table;
pub mod tags;
pub mod typegraph;
pub mod usage;
pub mod why;

pub use error::ApiError;
pub use object::{Object, ObjectKey, Raw};
pub use resource::{Gvr, Kind, KindInfo};
