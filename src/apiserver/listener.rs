//! API server: listener.
