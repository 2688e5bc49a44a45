//! Store: conformance.
