//! The Common Expression Language as Kubernetes speaks it: rules of custom resources, admission
//! policies, conditions of webhooks.
//!
//! ```text
//!   text ─ lexer ─▶ tokens ─ parser ─▶ ast ─ check (types, overloads) ─▶ Program ─ eval ─▶ Value
//! ```
//!
//! Owns the language (cel-spec's langdef.md), the functions of cel-go's standard library and of
//! Kubernetes (`lib`, one file a library, rows of a table), and the bounds: expressions have a
//! limited length and depth, values a limited depth, and every step costs ([`cost`]), so that no
//! expression and no object makes an evaluation long. Knows nothing of what the expressions are for:
//! [`admission`] has the variables that policies and webhooks share, `api/custom` those of custom
//! resources.

pub mod admission;
mod ast;
mod check;
pub mod convert;
pub mod cost;
mod env;
pub mod estimate;
mod estimate_calls;
mod eval;
mod fold;
mod functions;
mod lexer;
mod lib;
mod macros;
pub mod openapi;
mod operand;
mod parser;
mod program;
pub mod schema;
#[cfg(test)]
mod tests;
pub mod types;
pub mod value;

pub use env::Env;
pub use eval::{Error, Evaluation, NoVariables, Variables};
pub use lib::authz::{Authorizer, Check, Decision};
pub use program::{CompileError, Program};
pub use types::Type;
pub use value::Value;

/// The signatures of all functions and operators, as the libraries write them.
pub fn signatures() -> Vec<&'static str> {
    lib::all().into_iter().map(|row| row.signature).collect()
}
