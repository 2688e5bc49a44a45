//! API server: authn.
