//! What the node tells of containers as Events, in kubelet's words. The steps of a start that went
//! well are only told while there are few: at a thousand pods at once they would be most of what
//! the control plane writes. Trouble, starts and stops are always told.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};

use super::Shared;
use super::pod_state::spec;
use crate::client::event::{Notice, Severity, reference};

/// Steps told at once, and how fast they come back. Source of the idea: kubelet's eventBurst and
/// eventRecordQPS, 100 and 50 a second for all its Events.
const BURST_STEPS: u32 = 100;
const STEPS_A_SECOND: u32 = 10;

/// A token bucket for the Events of one node.
pub struct Chatter {
    tokens: f64,
    at: Timestamp,
}

impl Chatter {
    pub fn new(now: Timestamp) -> Chatter {
        Chatter { tokens: f64::from(BURST_STEPS), at: now }
    }

    fn allows(&mut self, now: Timestamp) -> bool {
        let passed = Duration::try_from(now.duration_since(self.at)).unwrap_or(Duration::ZERO);
        let tokens = self.tokens + passed.as_secs_f64() * f64::from(STEPS_A_SECOND);
        self.tokens = tokens.min(f64::from(BURST_STEPS));
        self.at = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

impl Shared {
    pub(super) fn tell(&self, notice: Notice) {
        (self.notices)(notice);
    }

    /// Tells something of one container.
    pub(super) fn tell_of(
        &self,
        pod: &Pod,
        container: &str,
        severity: Severity,
        reason: &'static str,
        message: String,
    ) {
        let regarding = container_reference(pod, container);
        self.tell(Notice { regarding, severity, reason: reason.into(), message });
    }

    /// Tells a step of a container's start, while such are few.
    pub(super) fn tell_step(
        &self,
        pod: &Pod,
        container: &str,
        reason: &'static str,
        message: String,
    ) {
        if self.chatter.lock().allows(self.clock.now()) {
            self.tell_of(pod, container, Severity::Normal, reason, message);
        }
    }
}

/// A container as Events name it.
pub(super) fn container_reference(pod: &Pod, container: &str) -> ObjectReference {
    let mut inits = spec(pod).init_containers.iter().flatten();
    let is_init = inits.any(|init| init.name == container);
    let mut debug = spec(pod).ephemeral_containers.iter().flatten();
    let list = match is_init {
        true => "initContainers",
        false if debug.any(|one| one.name == container) => "ephemeralContainers",
        false => "containers",
    };
    let field_path = Some(format!("spec.{list}{{{container}}}"));
    ObjectReference { field_path, ..reference(pod) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_while_they_are_few() {
        let mut now = Timestamp::UNIX_EPOCH;
        let mut chatter = Chatter::new(now);
        let told = (0..1000).filter(|_| chatter.allows(now)).count();
        assert_eq!(told, 100);
        now += Duration::from_secs(2);
        assert_eq!((0..1000).filter(|_| chatter.allows(now)).count(), 20);
    }
}
