//! For which machines code is compiled: a triple, and a level of its CPU.
//!
//! Code for one machine's very CPU would run on no other. A level is what many share: for x86-64 those
//! of its psABI, for all others the baseline. A node names the highest one that its CPU has, so that
//! machines of the same level share code, and a faster one is not held back by a slower one.

use std::fmt;

use sha2::{Digest, Sha256};

/// A level of an architecture's CPUs: Cranelift's flags, and the CPU features that they need.
struct Level {
    name: &'static str,
    flags: &'static [&'static str],
    /// Whether this machine's CPU has it.
    here: fn() -> bool,
}

/// The baseline of every architecture.
const BASELINE: Level = Level { name: "v1", flags: &[], here: || true };

/// x86-64-v2 and -v3 of the psABI, as far as Cranelift uses what they have.
const X86_64: &[Level] = &[
    BASELINE,
    Level {
        name: "v2",
        flags: &["has_sse3", "has_ssse3", "has_sse41", "has_sse42", "has_popcnt"],
        here: x86_64_v2,
    },
    Level {
        name: "v3",
        flags: &[
            "has_sse3",
            "has_ssse3",
            "has_sse41",
            "has_sse42",
            "has_popcnt",
            "has_avx",
            "has_avx2",
            "has_fma",
            "has_bmi1",
            "has_bmi2",
            "has_lzcnt",
        ],
        here: x86_64_v3,
    },
];

/// Every architecture, by the name that Rust has for it, and its triple.
static MACHINES: &[(&str, &str, &[Level])] = &[
    ("x86_64", "x86_64-unknown-linux-gnu", X86_64),
    ("aarch64", "aarch64-unknown-linux-gnu", &[BASELINE]),
    ("riscv64", "riscv64gc-unknown-linux-gnu", &[BASELINE]),
    ("s390x", "s390x-unknown-linux-gnu", &[BASELINE]),
];

#[cfg(target_arch = "x86_64")]
fn x86_64_v2() -> bool {
    use std::arch::is_x86_feature_detected as has;
    has!("sse3") && has!("ssse3") && has!("sse4.1") && has!("sse4.2") && has!("popcnt")
}

#[cfg(target_arch = "x86_64")]
fn x86_64_v3() -> bool {
    use std::arch::is_x86_feature_detected as has;
    let vectors = has!("avx") && has!("avx2") && has!("fma");
    x86_64_v2() && vectors && has!("bmi1") && has!("bmi2") && has!("lzcnt")
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_64_v2() -> bool {
    false
}

#[cfg(not(target_arch = "x86_64"))]
fn x86_64_v3() -> bool {
    false
}

/// What code is compiled for. Only machines of the table can be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    triple: &'static str,
    cpu: &'static str,
}

/// A machine that nothing is compiled for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no compiler for {0}")]
pub struct UnknownTarget(String);

impl Target {
    /// The machine of this process; `None` where nothing is compiled for its like.
    pub fn here() -> Option<Target> {
        let (_, triple, levels) =
            MACHINES.iter().find(|(arch, ..)| *arch == std::env::consts::ARCH)?;
        let level = levels.iter().rev().find(|level| (level.here)())?;
        Some(Target { triple, cpu: level.name })
    }

    /// The target of these names.
    ///
    /// # Errors
    /// When the table has none.
    pub fn named(triple: &str, cpu: &str) -> Result<Target, UnknownTarget> {
        let machine = MACHINES.iter().find(|(_, known, _)| *known == triple);
        let found = machine.and_then(|(_, triple, levels)| {
            let level = levels.iter().find(|level| level.name == cpu)?;
            Some(Target { triple, cpu: level.name })
        });
        let name = || format!("{triple} {cpu}").chars().take(100).collect();
        found.ok_or_else(|| UnknownTarget(name()))
    }

    pub fn triple(&self) -> &'static str {
        self.triple
    }

    pub fn cpu(&self) -> &'static str {
        self.cpu
    }

    /// Cranelift's flags for the CPU.
    pub fn flags(&self) -> &'static [&'static str] {
        let levels = MACHINES.iter().find(|(_, triple, _)| *triple == self.triple).map(|m| m.2);
        let level = levels.and_then(|levels| levels.iter().find(|level| level.name == self.cpu));
        level.map_or(&[], |level| level.flags)
    }

    /// Whether a program without `all-arch` compiles for it, and a machine like this one runs it.
    pub fn is_native(&self) -> bool {
        Target::here().is_some_and(|here| here.triple == self.triple)
    }

    /// Hex sha256 over wasmtime's version, our settings and the target: what code must have been
    /// compiled with.
    pub fn settings_hash(&self) -> String {
        hex::encode(Sha256::digest(super::settings_text(&self.to_string())))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.triple, self.cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_target_and_others_have_other_hashes() {
        let here = Target::here().expect("a machine of the table");
        assert!(here.is_native());
        assert_eq!(Target::named(here.triple(), here.cpu()), Ok(here));
        let arm = Target::named("aarch64-unknown-linux-gnu", "v1").expect("known");
        let riscv = Target::named("riscv64gc-unknown-linux-gnu", "v1").expect("known");
        assert_ne!(arm.settings_hash(), riscv.settings_hash());
        let (old, new) = (
            Target::named("x86_64-unknown-linux-gnu", "v1").expect("known"),
            Target::named("x86_64-unknown-linux-gnu", "v3").expect("known"),
        );
        assert_ne!(old.settings_hash(), new.settings_hash());
        assert!(old.flags().is_empty() && new.flags().contains(&"has_avx2"));
        for bad in [("x86_64", "v1"), ("aarch64-unknown-linux-gnu", "v3"), ("", "")] {
            assert!(Target::named(bad.0, bad.1).is_err(), "{bad:?}");
        }
    }
}
