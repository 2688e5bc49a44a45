//! The API server: one pipeline for every kind (authorize, decode, default, admit, validate,
//! commit), offered over HTTPS and, in the same process, as a [`crate::client::Api`].

pub mod admission;
mod admit;
pub mod artifacts;
mod asker;
pub mod authn;
pub mod authz;
mod bearer;
mod binders;
mod body;
mod bootstrap;
mod code;
mod computed;
mod conversion;
mod definitions;
mod delete;
pub mod discovery;
mod fence;
mod filter;
pub mod health;
pub mod housekeep;
pub mod http;
mod impersonation;
pub mod join;
mod keys;
mod labels_note;
mod lanes;
pub mod listener;
mod local;
mod measured;
mod metrics;
mod negotiate;
mod node_graph;
pub mod nodes;
pub mod openapi;
mod openid;
mod options;
mod ownership;
mod patch;
pub mod pki;
pub mod rbac;
pub mod read;
mod reply;
mod request;
mod respond;
mod reviews;
mod routing;
pub mod service;
pub mod spdy;
mod stream;
mod streams;
mod subresource;
mod tables;
pub mod tokens;
mod update;
pub mod user;
mod versions;
mod vital;
pub mod watch;
mod webhooks;
mod websocket;
pub mod write;

pub use service::{ApiServer, Options, Parts};
pub use user::User;

/// The body of every response.
pub type Body = http_body_util::combinators::BoxBody<bytes::Bytes, std::io::Error>;

/// A body of bytes that are there already.
pub fn full(bytes: impl Into<bytes::Bytes>) -> Body {
    use http_body_util::BodyExt;
    http_body_util::Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}
