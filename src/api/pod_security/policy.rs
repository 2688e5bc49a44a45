//! The labels of a namespace, and the policy that they are (pod-security-admission/api/helpers.go).

use std::collections::BTreeMap;
use std::fmt;

use crate::api::field::{Errors, Path};

/// What the labels begin with.
pub const PREFIX: &str = "pod-security.kubernetes.io/";

/// From lax to strict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

/// A level as it was in a version of Kubernetes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelVersion {
    pub level: Level,
    /// The minor of 1.x; the latest without one.
    pub minor: Option<u32>,
}

/// What a namespace asks of its Pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Level {
    fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        })?;
        match self.minor {
            Some(minor) => write!(f, ":v1.{minor}"),
            None => f.write_str(":latest"),
        }
    }
}

/// `latest`, or `v1.` and a number without leading zeros; the outer none is neither.
fn parse_version(text: &str) -> Option<Option<u32>> {
    if text == "latest" {
        return Some(None);
    }
    let minor = text.strip_prefix("v1.")?;
    let plain = minor == "0" || !minor.starts_with('0');
    let digits = !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit());
    (plain && digits).then(|| minor.parse().ok().map(Some)).flatten()
}

impl Policy {
    /// The policy of these labels, and what is wrong with them. A policy is always answered: what
    /// cannot be read is enforced as strictly as can be, and warned of not at all.
    pub fn of(labels: &BTreeMap<String, String>, errors: &mut Errors) -> Policy {
        let mut policy = Policy::default();
        let mut read_level = None;
        let mut told = (false, false);
        let metadata = Path::new("metadata");
        let path = metadata.child("labels");
        let modes = [
            ("enforce", &mut policy.enforce, Level::Restricted),
            ("audit", &mut policy.audit, Level::Privileged),
            ("warn", &mut policy.warn, Level::Privileged),
        ];
        for (mode, wanted, otherwise) in modes {
            let label = format!("{PREFIX}{mode}");
            if let Some(text) = labels.get(&label) {
                let level = Level::parse(text);
                wanted.level = level.unwrap_or(otherwise);
                match mode {
                    "enforce" => read_level = level,
                    "warn" => told.0 = true,
                    _ => {}
                }
                if level.is_none() {
                    let detail = "must be one of privileged, baseline, restricted";
                    errors.invalid(&path.key(&label), text, detail);
                }
            }
            let label = format!("{label}-version");
            if let Some(text) = labels.get(&label) {
                let version = parse_version(text);
                wanted.minor = version.flatten();
                told.1 |= mode == "warn";
                if version.is_none() {
                    errors.invalid(&path.key(&label), text, "must be \"latest\" or \"v1.x\"");
                }
            }
        }
        // Who enforces more than they warn of is warned of that too: templates are only warned of.
        if let (Some(level), (false, told_version)) = (read_level, told)
            && level > policy.warn.level
        {
            policy.warn.level = level;
            if !told_version {
                policy.warn.minor = policy.enforce.minor;
            }
        }
        policy
    }

    pub fn is_fully_privileged(&self) -> bool {
        [self.enforce, self.audit, self.warn].iter().all(|one| one.level == Level::Privileged)
    }
}
