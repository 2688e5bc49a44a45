//! What a Service tells while an autoscaler has its pods at zero: two conditions of its status, by
//! which controllers and proxies agree without asking each other.
//!
//! ```text
//!   ScaledToZero   the controller's: connections are held instead of refused
//!   Awaited        a proxy's: one is held. Set once, however many wait; the controller removes it
//!                  when a pod is ready, or when none came.
//! ```

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// An autoscaler has the pods behind the Service at zero, or they are on their way back.
pub const SCALED_TO_ZERO: &str = "wasmfleet.dev/ScaledToZero";
/// A connection waits for a pod.
pub const AWAITED: &str = "wasmfleet.dev/Awaited";

/// Whether a condition is true.
pub fn holds(service: &Service, kind: &str) -> bool {
    let conditions = service.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|one| one.type_ == kind && one.status == "True")
}

/// A condition that is true.
pub fn condition(kind: &str, reason: &str, message: &str, now: Timestamp) -> Condition {
    Condition {
        last_transition_time: Time(now),
        message: message.into(),
        observed_generation: None,
        reason: reason.into(),
        status: "True".into(),
        type_: kind.into(),
    }
}
