//! What the run prints: the score by SIG, what failed and why, what is not ported and why.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::names::{self, Name};
use super::runner::Outcome;

pub type Outcomes = BTreeMap<(&'static str, &'static str), Outcome>;

/// How many of a class passed, and how many there are; of these SIGs, or of all if there are none.
pub fn passed(outcomes: &Outcomes, class: &str, sigs: &[&str]) -> (usize, usize) {
    let is_meant = |name: &Name| sigs.is_empty() || sigs.contains(&name.sig);
    let of_class = || names::all().filter(|name| name.class == class).filter(is_meant);
    let passed = of_class()
        .filter(|name| matches!(outcomes.get(&(name.sig, name.name)), Some(Outcome::Passed)));
    (passed.count(), of_class().count())
}

/// Whether every case had the tools that it needs.
pub fn lacks_no_tool(outcomes: &Outcomes) -> bool {
    !outcomes.values().any(|outcome| matches!(outcome, Outcome::NotTested(_)))
}

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
            let ran = names.iter().filter_map(|name| found(name));
            let ran: Vec<_> =
                ran.filter(|outcome| !matches!(outcome, Outcome::NotServed(_))).collect();
            let passed = ran.iter().filter(|outcome| matches!(outcome, Outcome::Passed)).count();
            let (total, ran) = (names.len(), ran.len());
            let _ = writeln!(out, "{sig} {class}: {total} tests, {ran} run, {passed} passed");
        }
        for name in &of_class {
            let _ = match found(name) {
                Some(Outcome::Passed) => Ok(()),
                Some(Outcome::Failed(why)) => writeln!(out, "FAILED {}\n    {why}", name.name),
                Some(Outcome::NotTested(why)) => writeln!(out, "not tested {}: {why}", name.name),
                Some(Outcome::NotServed(what)) => {
                    writeln!(out, "not run {}: {what} is not served", name.name)
                }
                None if name.why_not.is_empty() => writeln!(out, "not run {}", name.name),
                None => writeln!(out, "not ported {}: {}", name.name, name.why_not),
            };
        }
        let (passed, total) = passed(outcomes, class, &[]);
        let _ = writeln!(out, "conformance {class}: {passed} of {total}");
    }
    out
}
