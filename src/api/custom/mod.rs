//! Custom resources: kinds whose type is a structural schema in a CustomResourceDefinition.
//!
//! Owns the schema ([`schema`], checked by [`structural`]), what it does to objects ([`prune`],
//! [`default`], [`validate`]; [`cel_rules`] has its rules in CEL), the rules of a version made of it
//! ([`rules`]), and what a definition becomes: rows of the registry ([`definition`]) and a status
//! ([`names`]). Pure; who writes statuses and swaps the registry is the API server.

mod cel_cost;
pub mod cel_rules;
mod cel_validate;
mod complete;
pub mod default;
pub mod definition;
pub mod format;
pub mod names;
pub mod prune;
pub mod rules;
pub mod schema;
pub mod structural;
pub mod validate;

#[cfg(test)]
mod tests;

/// Held by a definition until its objects are gone.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
