//! The scheduler's benchmarks, by the names of upstream's (kubernetes/test/integration/scheduler_perf):
//! decisions inside (the pure cycle, one thread), and end to end (the built program as a server,
//! simulated nodes, every step durable and visible).
//!
//! `cargo bench --bench scheduler`; `-- NAME…` runs those whose names contain one of the words;
//! `--inside` and `--outside` one side only; `--smoke` everything a hundred times smaller, to see that
//! it works. `rate` (queue to bound at 1,000 pods a second) and `envelope` (5,000 nodes, 150,000 pods,
//! 10,000 Services) run only where they are named.
//!
//! The column of the peer is the rate that upstream's CI demands of kube-scheduler, on its machines.

#[path = "../api/connection.rs"]
#[allow(dead_code, reason = "shared with another driver")]
mod connection;
mod envelope;
mod inside;
#[path = "../common/launch.rs"]
mod launch;
mod outside;
mod pods;
#[path = "../common/program.rs"]
mod program;
mod rate;
#[path = "../api/report.rs"]
#[allow(dead_code, reason = "shared with another driver")]
mod report;
mod rig;
#[path = "../common/stats.rs"]
mod stats;
mod templates;
mod workloads;

use report::{Report, number};
use workloads::{WORKLOADS, Workload};

/// What runs only where it is named.
const EXTRA: [&str; 2] = ["rate", "envelope"];

struct Wanted {
    words: Vec<String>,
    inside: bool,
    outside: bool,
    smoke: bool,
}

fn main() -> anyhow::Result<()> {
    let (flags, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word.starts_with("--"));
    // Cargo adds one of its own.
    let known = ["--bench", "--inside", "--outside", "--smoke"];
    for flag in &flags {
        anyhow::ensure!(known.contains(&flag.as_str()), "no option {flag}; there are {known:?}");
    }
    for word in &words {
        let known = EXTRA.contains(&word.as_str())
            || WORKLOADS.iter().any(|workload| workload.name.contains(word.as_str()));
        anyhow::ensure!(known, "no workload has {word} in its name");
    }
    let has = |flag: &str| flags.iter().any(|one| one == flag);
    let wanted = Wanted {
        inside: has("--inside") || !has("--outside"),
        outside: has("--outside") || !has("--inside"),
        smoke: has("--smoke"),
        words,
    };
    // kube-client, which reads the kubeconfig, asks for the process's provider.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut report = Report::default();
    report.note(format!("the disk makes {:.0} fdatasync a second", stats::fdatasync_rate()?));
    for workload in WORKLOADS.iter().filter(|workload| wanted.has(workload)) {
        let workload = if wanted.smoke { workload.small() } else { workload.clone() };
        if let Some(field) = workload.missing() {
            report.note(format!("{}: not run, this build refuses {field}", workload.name));
            continue;
        }
        if wanted.inside {
            inside(&mut report, &workload)?;
        }
        if wanted.outside {
            // Others are measured all the same.
            if let Err(error) = runtime.block_on(outside::measure(&mut report, &workload)) {
                report.note(format!("{}: failed: {error:#}", workload.name));
            }
        }
    }
    if wanted.names("rate") {
        runtime.block_on(rate::measure(&mut report, wanted.smoke))?;
    }
    if wanted.names("envelope") {
        runtime.block_on(envelope::measure(&mut report, wanted.smoke))?;
    }
    report.print();
    Ok(())
}

fn inside(report: &mut Report, workload: &Workload) -> anyhow::Result<()> {
    let Some(found) = inside::measure(workload)? else { return Ok(()) };
    let what = format!("{}: decisions/s inside", workload.name);
    let gate = workload.gate.map(f64::from);
    report.compare(&what, found.per_second, gate, &format!("≥ {}", workload.aim_inside));
    let what = format!("{}: µs a decision, of {}", workload.name, found.decisions);
    report.row(&what, number(found.micros), None, "-".into(), "");
    Ok(())
}

impl Wanted {
    fn has(&self, workload: &Workload) -> bool {
        let words: Vec<&String> =
            self.words.iter().filter(|w| !EXTRA.contains(&w.as_str())).collect();
        // `rate` alone is no workload, and all of them are many.
        match (self.words.is_empty(), words.is_empty()) {
            (true, _) => true,
            (false, true) => false,
            (false, false) => words.iter().any(|word| workload.name.contains(word.as_str())),
        }
    }

    fn names(&self, extra: &str) -> bool {
        self.words.iter().any(|word| word == extra)
    }
}
