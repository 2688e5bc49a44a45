//! The precondition of a Binding, between a scheduler and the API server: annotations of the Binding
//! (they are not added to the Pod) by which a node is given a pod only if its scheduler knew of all
//! pods that others gave it.

/// Who binds; differs from scheduler to scheduler.
pub const BINDER: &str = "wasmfleet.dev/binder";
/// The revision as of which the binder knew all Pods when it decided.
pub const SEEN_PODS: &str = "wasmfleet.dev/seen-pods";
