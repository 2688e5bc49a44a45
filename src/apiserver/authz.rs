//! API server: authz.
