//! Numbers of the whole process, and of parts that know nothing of Prometheus.

use std::sync::Arc;

use jiff::Timestamp;

use crate::base::metrics::{Looked, Metrics, Sample};
use crate::controllers::Driver;
use crate::controllers::driver::Stats;
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

/// How each controller fares.
pub fn show_controllers(metrics: &Metrics, driver: Driver) {
    let driver = Arc::new(driver);
    let show = |name, help, kind, value: fn(&Stats) -> u64| {
        let driver = driver.clone();
        metrics.look(name, help, kind, move || {
            let sample = |stats: &Stats| Sample {
                labels: vec![("name", stats.controller.to_string())],
                value: value(stats) as f64,
            };
            driver.stats().iter().map(sample).collect()
        });
    };
    show("workqueue_depth", "Keys of a controller that wait", Looked::Gauge, |stats| {
        stats.waiting as u64
    });
    show(
        "wasmfleet_controller_reconciles",
        "Times that a controller looked at a key",
        Looked::Counter,
        |stats| stats.reconciles,
    );
    show(
        "wasmfleet_controller_failures",
        "Plans of a controller that failed, conflicts left out",
        Looked::Counter,
        |stats| stats.failures,
    );
    show(
        "wasmfleet_controller_conflicts",
        "Writes of a controller that met a newer object",
        Looked::Counter,
        |stats| stats.conflicts,
    );
    show(
        "wasmfleet_controller_panics",
        "Panics of a controller; each is a bug",
        Looked::Counter,
        |stats| stats.panics,
    );
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
