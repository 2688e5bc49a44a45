//! API server: http.
