//! What the run prints: the score by SIG, what failed and why, what is not ported and why.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::names::{self, Name};
use super::runner::Outcome;

pub type Outcomes = BTreeMap<(&'static str, &'static str), Outcome>;

pub fn text(outcomes: &Outcomes) -> String {
    let mut out = String::from("\n");
    let found = |name: &Name| outcomes.get(&(name.sig, name.name));
    for class in ["A1", "A2", "B"] {
        let of_class: Vec<Name> = names::all().filter(|name| name.class == class).collect();
        let ported = of_class.iter().filter(|name| found(name).is_some()).count();
        if ported == 0 {
            continue;
        }
        let mut sigs: BTreeMap<&str, Vec<&Name>> = BTreeMap::new();
        for name in &of_class {
            sigs.entry(name.sig).or_default().push(name);
        }
        for (sig, names) in sigs {
            let ran: Vec<_> = names.iter().filter_map(|name| found(name)).collect();
            let passed = ran.iter().filter(|outcome| matches!(outcome, Outcome::Passed)).count();
            let (total, ran) = (names.len(), ran.len());
            let _ = writeln!(out, "{sig} {class}: {total} tests, {ran} run, {passed} passed");
        }
        for name in &of_class {
            let _ = match found(name) {
                Some(Outcome::Passed) => Ok(()),
                Some(Outcome::Failed(why)) => writeln!(out, "FAILED {}\n    {why}", name.name),
                Some(Outcome::NotTested(why)) => writeln!(out, "not tested {}: {why}", name.name),
                None if name.why_not.is_empty() => writeln!(out, "not run {}", name.name),
                None => writeln!(out, "not ported {}: {}", name.name, name.why_not),
            };
        }
        let passed = of_class.iter().filter(|name| matches!(found(name), Some(Outcome::Passed)));
        let _ = writeln!(out, "conformance {class}: {} of {}", passed.count(), of_class.len());
    }
    out
}
