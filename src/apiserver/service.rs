//! API server: service.
