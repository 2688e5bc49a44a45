//! The API server: one pipeline for every kind (authorize, decode, default, admit, validate,
//! commit), offered over HTTPS and, in the same process, as a [`crate::client::Api`].

pub mod artifacts;
pub mod authn;
pub mod authz;
pub mod discovery;
pub mod http;
pub mod join;
pub mod listener;
pub mod nodes;
pub mod openapi;
pub mod pki;
pub mod service;
pub mod user;

pub use user::User;

/// The body of every response.
pub type Body = http_body_util::combinators::BoxBody<bytes::Bytes, std::io::Error>;

/// A body of bytes that are there already.
pub fn full(bytes: impl Into<bytes::Bytes>) -> Body {
    use http_body_util::BodyExt;
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}
