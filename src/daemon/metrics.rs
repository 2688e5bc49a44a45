//! Numbers of the whole process, and of parts that know nothing of Prometheus.

use std::sync::Arc;

use jiff::Timestamp;

use crate::base::durations::Distribution;
use crate::base::metrics::{Looked, Metrics, Sample};
use crate::client::election::Gate;
use crate::controllers::{Driver, Stats};
use crate::engine::service::{self as compiler, CompileService};
use crate::store::SharedStore;

/// What every Prometheus client library tells of its process, read from `/proc`.
pub fn show_process(metrics: &Metrics, started: Timestamp) {
    metrics.look(
        "process_cpu_seconds",
        "User and system CPU time of this process, in seconds",
        Looked::Counter,
        || cpu_seconds().map(Sample::plain).unwrap_or_default(),
    );
    metrics.look(
        "process_resident_memory_bytes",
        "Resident memory of this process, in bytes",
        Looked::Gauge,
        || resident_bytes().map(Sample::plain).unwrap_or_default(),
    );
    metrics.look(
        "process_open_fds",
        "Open file descriptors of this process",
        Looked::Gauge,
        || {
            let open = std::fs::read_dir("/proc/self/fd").map(Iterator::count);
            open.map(|count| Sample::plain(count as f64)).unwrap_or_default()
        },
    );
    let seconds = started.as_millisecond() as f64 / 1000.0;
    metrics.look(
        "process_start_time_seconds",
        "When this process started, in seconds since 1970",
        Looked::Gauge,
        move || Sample::plain(seconds),
    );
}

/// How far the store is.
pub fn show_store(metrics: &Metrics, store: SharedStore) {
    metrics.look(
        "wasmfleet_store_revision",
        "The store's newest revision; each commit has one of its own",
        Looked::Gauge,
        move || Sample::plain(store.revision() as f64),
    );
}

/// How each controller fares, under client-go's and controller-runtime's names where they have some.
pub fn show_controllers(metrics: &Metrics, driver: &Arc<Driver>) {
    let show = |name, help, kind, label: &'static str, value: fn(&Stats) -> u64| {
        let driver = driver.clone();
        metrics.look(name, help, kind, move || {
            let sample = |stats: &Stats| Sample {
                labels: vec![(label, stats.controller.to_string())],
                value: value(stats) as f64,
            };
            driver.stats().iter().map(sample).collect()
        });
    };
    let of_queue = |name, help, kind, value| show(name, help, kind, "name", value);
    let (counter, gauge) = (Looked::Counter, Looked::Gauge);
    of_queue("workqueue_depth", "Keys of a controller that wait", gauge, |s| s.waiting as u64);
    of_queue("workqueue_adds", "Keys put into the queue", counter, |s| s.adds);
    of_queue("workqueue_retries", "Keys that came again after a failure or a conflict", counter, {
        Stats::retries
    });
    let of_controller = |name, help, value| show(name, help, counter, "controller", value);
    of_controller("controller_runtime_reconcile_errors", "Plans that failed", |s| s.failures);
    of_queue("wasmfleet_controller_reconciles", "Looks at a key", counter, |s| s.reconciles);
    of_queue("wasmfleet_controller_writes", "Writes that succeeded", counter, |s| s.writes);
    let help = "Plans that failed, conflicts left out";
    of_queue("wasmfleet_controller_failures", help, counter, |s| s.failures);
    let help = "Writes that met a newer object";
    of_queue("wasmfleet_controller_conflicts", help, counter, |s| s.conflicts);
    let help = "Plans put off since they would have written the same once more, or too often";
    of_queue("wasmfleet_controller_held", help, counter, |s| s.held);
    let help = "Panics of a controller; each is a bug";
    of_queue("wasmfleet_controller_panics", help, counter, |s| s.panics);
    let durations = |name, help, value: fn(&Stats) -> Distribution| {
        let driver = driver.clone();
        metrics.look_at_durations(name, help, move || {
            let one = |stats: &Stats| (vec![("name", stats.controller.to_string())], value(stats));
            driver.stats().iter().map(one).collect()
        });
    };
    let help = "How long a key waits in the queue before its turn, in seconds";
    durations("workqueue_queue_duration_seconds", help, |stats| stats.waited.clone());
    let help = "How long a key's turn takes, its writes with it, in seconds";
    durations("workqueue_work_duration_seconds", help, |stats| stats.worked.clone());
}

/// Which of the loops this process leads.
pub fn show_leases(metrics: &Metrics, leases: [(&'static str, Gate); 2]) {
    let help = "Whether this process leads (1) or follows (0), by lease";
    metrics.look("leader_election_master_status", help, Looked::Gauge, move || {
        let sample = |(name, gate): &(&str, Gate)| Sample {
            labels: vec![("name", name.to_string())],
            value: f64::from(u8::from(gate.term().is_some())),
        };
        leases.iter().map(sample).collect()
    });
}

/// What is compiled for nodes.
pub fn show_compiler(metrics: &Metrics, service: Arc<CompileService>) {
    let show = |name, help, kind, value: fn(&compiler::Stats) -> u64| {
        let service = service.clone();
        metrics.look(name, help, kind, move || Sample::plain(value(&service.stats()) as f64));
    };
    show(
        "wasmfleet_compiler_compiled",
        "Programs compiled for nodes, each once for each kind of machine",
        Looked::Counter,
        |stats| stats.compiled,
    );
    show(
        "wasmfleet_compiler_failed",
        "Programs that did not compile, or not within the limits",
        Looked::Counter,
        |stats| stats.failed,
    );
    show(
        "wasmfleet_compiler_preempted",
        "Times that a program compiled ahead made room for one that was waited for",
        Looked::Counter,
        |stats| stats.preempted,
    );
    show("wasmfleet_compiler_waiting", "Programs that wait", Looked::Gauge, |stats| {
        stats.waiting as u64
    });
    show("wasmfleet_compiler_running", "Compilers that run", Looked::Gauge, |stats| {
        stats.running as u64
    });
}

/// The text after the program's name in `/proc/self/stat`, whose name may have spaces.
fn stat() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/stat").ok()?;
    Some(text.rsplit_once(") ")?.1.to_string())
}

fn cpu_seconds() -> Option<f64> {
    let stat = stat()?;
    // utime and stime are fields 14 and 15; the state after the name is field 3.
    let ticks: u64 = stat.split(' ').skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum();
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn resident_bytes() -> Option<f64> {
    let stat = stat()?;
    // Field 24, in pages.
    let pages: u64 = stat.split(' ').nth(21)?.parse().ok()?;
    Some((pages * rustix::param::page_size() as u64) as f64)
}
