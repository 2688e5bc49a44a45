//! The Pod Security Standards (KEP-2579): what a namespace's labels ask of its Pods, and which of
//! it a Pod lacks, in the words of k8s.io/pod-security-admission. Pure.
//!
//! The checks look at the spec alone. Most of what they forbid is refused for Wasm programs anyway,
//! or means nothing to them; what the restricted level demands must still be written down.

mod baseline;
mod policy;
mod restricted;
mod subject;

pub use policy::{Level, LevelVersion, PREFIX, Policy};
pub use subject::Subject;

/// The newest version that the checks know, as the minor of 1.x.
const NEWEST: u32 = 35;

/// Why a Pod does not pass a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub reason: &'static str,
    /// Which containers or values; may be empty.
    pub detail: String,
}

type Look = fn(&Subject) -> Option<Violation>;

/// One check, in the versions in which it changed.
struct Check {
    /// Upstream's name, by which checks are ordered.
    id: &'static str,
    /// The minor from which on each form holds, ascending.
    since: &'static [(u32, Look)],
    /// The check of the baseline that this one of the restricted level stands for.
    instead_of: &'static str,
}

impl Check {
    fn at(&self, minor: u32) -> Option<Look> {
        let forms = self.since.iter().rev();
        forms.clone().find(|(since, _)| *since <= minor).map(|(_, look)| *look)
    }
}

/// Everything of a level that a Pod lacks.
pub fn violations(wanted: LevelVersion, pod: &Subject) -> Vec<Violation> {
    let minor = wanted.minor.unwrap_or(NEWEST).min(NEWEST);
    let restricted: &[Check] = match wanted.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => &[],
        Level::Restricted => restricted::CHECKS,
    };
    let replaced = |id: &str| {
        restricted.iter().any(|check| check.instead_of == id && check.at(minor).is_some())
    };
    let baseline = baseline::CHECKS.iter().filter(|check| !replaced(check.id));
    let looks = baseline.chain(restricted).filter_map(|check| check.at(minor));
    looks.filter_map(|look| look(pod)).collect()
}

/// `host namespaces (hostPID=true), privileged (…)`.
pub fn details(violations: &[Violation]) -> String {
    let text = |one: &Violation| match one.detail.as_str() {
        "" => one.reason.to_string(),
        detail => format!("{} ({detail})", one.reason),
    };
    violations.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// The same without what differs from Pod to Pod.
pub fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|one| one.reason).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
