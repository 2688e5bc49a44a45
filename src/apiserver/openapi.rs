//! API server: openapi.
