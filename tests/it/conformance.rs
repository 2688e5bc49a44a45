//! Kubernetes' conformance tests over the HTTP API, ported one by one under their upstream names.
//! One test starts a cluster, runs all ported cases against it, and prints the score. What a port
//! asserts is what the upstream test asserts (its file is named in the data).
//!
//! `WASMFLEET_CONFORMANCE=Watchers` runs the cases whose name has that text, and tells each.
//! `WASMFLEET_CONFORMANCE_KUBECONFIG=FILE` runs them against the API server of that kubeconfig.

// The verbs are whole, whether or not a case uses each.
#![allow(dead_code)]

mod checks;
mod client;
mod collection;
mod context;
mod names;
mod operations;
mod report;
mod runner;
mod workloads;

mod api_machinery;
mod apps;
mod architecture;
mod auth;
mod cli;
mod instrumentation;
mod network;
mod node;
mod scheduling;
mod storage;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use futures::future::LocalBoxFuture;

#[allow(unused_imports)]
pub use client::{Client, Failure, refused};
#[allow(unused_imports)]
pub use collection::{Collection, Event, Patch, Watch};
pub use context::{Context, eventually};

use crate::cluster::{Cluster, guests};

/// Longer than any case should take, even beside all the others.
const DEADLINE: Duration = Duration::from_secs(180);

/// A conformance test of upstream, ported.
pub struct Case {
    /// Upstream's, as in the data; the SIG is that of the table.
    pub name: &'static str,
    pub run: for<'a> fn(&'a Context) -> LocalBoxFuture<'a, Result<()>>,
    pub deadline: Duration,
    /// `group/version/resource`: a server that lacks one of them does not run the case, nor does it
    /// count.
    pub needs: &'static [&'static str],
}

impl Case {
    /// For cases that upstream calls slow.
    pub const fn within(mut self, seconds: u64) -> Case {
        self.deadline = Duration::from_secs(seconds);
        self
    }

    /// For kinds that are not served everywhere.
    pub const fn needs(mut self, resources: &'static [&'static str]) -> Case {
        self.needs = resources;
        self
    }
}

/// `case!("name", function)`: the row of a table.
macro_rules! case {
    ($name:expr, $function:path) => {
        $crate::conformance::Case {
            name: $name,
            run: |context| Box::pin($function(context)),
            deadline: $crate::conformance::DEADLINE,
            needs: &[],
        }
    };
}
pub(crate) use case;

/// The cases of one SIG, by files.
type Table = (&'static str, &'static [&'static [Case]]);

const TABLES: &[Table] = &[
    ("sig-api-machinery", api_machinery::CASES),
    ("sig-apps", apps::CASES),
    ("sig-architecture", architecture::CASES),
    ("sig-auth", auth::CASES),
    ("sig-cli", cli::CASES),
    ("sig-instrumentation", instrumentation::CASES),
    ("sig-network", network::CASES),
    ("sig-node", node::CASES),
    ("sig-scheduling", scheduling::CASES),
    ("sig-storage", storage::CASES),
];

/// All cases by SIG and name.
fn cases() -> BTreeMap<(&'static str, &'static str), &'static Case> {
    let rows = TABLES.iter().flat_map(|(sig, files)| {
        files.iter().flat_map(|file| file.iter()).map(|case| ((*sig, case.name), case))
    });
    rows.collect()
}

#[test]
fn every_case_has_a_name_of_upstream_once() {
    let known: BTreeSet<_> = names::all().map(|name| (name.sig, name.name)).collect();
    let mut seen = BTreeSet::new();
    for (sig, files) in TABLES {
        for case in files.iter().flat_map(|file| file.iter()) {
            let key = (*sig, case.name);
            assert!(known.contains(&key), "{key:?} is no name of the data");
            assert!(seen.insert(key), "{key:?} is there twice");
        }
    }
    for name in names::all().filter(|name| !name.why_not.is_empty()) {
        assert!(!seen.contains(&(name.sig, name.name)), "{}: ported, and told why not", name.name);
    }
}

/// What README states the score of: a class, and the SIGs that count; none: all.
const STATED: &[(&str, &[&str])] = &[
    ("A1", &[]),
    ("A2", &[]),
    ("B", &[]),
    ("B", &["sig-node", "sig-storage", "sig-apps", "sig-cli"]),
];

/// The number that README states of so many tests, as in `94 of 133`.
fn stated(total: usize) -> usize {
    let readme = include_str!("../../README.md");
    let suffix = format!(" of {total}");
    let before = readme.split(&suffix).next().expect("a first part");
    let word = before.rsplit([' ', '\n', '(']).next();
    let stated = word.and_then(|word| word.trim_matches('*').parse().ok());
    stated.unwrap_or_else(|| panic!("README has no score of {total} conformance tests"))
}

#[test]
fn conformance() {
    let filter = std::env::var("WASMFLEET_CONFORMANCE").unwrap_or_default();
    let other = std::env::var_os("WASMFLEET_CONFORMANCE_KUBECONFIG").map(PathBuf::from);
    let chosen: Vec<_> = cases()
        .into_iter()
        .filter(|((sig, name), _)| format!("{sig} {name}").contains(&filter))
        .collect();
    assert!(!chosen.is_empty(), "no ported case has {filter:?} in its name");
    // So that a list's history goes while a case waits for it.
    let options = ["--history-seconds", "60"];
    let cluster = other.is_none().then(|| {
        let cluster = Cluster::start_with(2, &options);
        for (image, file) in workloads::IMAGES {
            cluster.push(&guests::path(file), image);
        }
        cluster
    });
    let kubeconfig = match (&cluster, other) {
        (Some(cluster), _) => cluster.kubeconfig(),
        (None, other) => other.expect("one of the two"),
    };
    let is_whole = filter.is_empty() && cluster.is_some();
    let outcomes = runner::run(&kubeconfig, chosen, !filter.is_empty());
    let text = report::text(&outcomes);
    // Not `print!`, which the test harness keeps to itself when the test passes.
    let _ = std::io::stderr().write_all(text.as_bytes());
    let failed = outcomes.iter().filter(|(_, outcome)| outcome.is_failure()).count();
    let log = cluster.map(|mut cluster| cluster.program().log()).unwrap_or_default();
    assert!(failed == 0, "{failed} conformance tests fail\n--- end of the server's log\n{log}");
    // A part of the cases, other people's servers and machines without kubectl have other scores.
    if is_whole && report::lacks_no_tool(&outcomes) {
        for (class, sigs) in STATED {
            let (passed, total) = report::passed(&outcomes, class, sigs);
            let stated = stated(total);
            assert!(passed >= stated, "README states {stated} of {total} tests, {passed} pass");
            if passed > stated {
                let more = format!("README states {stated} of {total} tests: make it {passed}\n");
                let _ = std::io::stderr().write_all(more.as_bytes());
            }
        }
    }
}
