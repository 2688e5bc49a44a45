//! API server: nodes.
