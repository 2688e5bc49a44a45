//! API server: pki.
