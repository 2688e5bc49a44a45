//! API server: artifacts.
