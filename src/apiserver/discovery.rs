//! API server: discovery.
