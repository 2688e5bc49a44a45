//! API server: join.
