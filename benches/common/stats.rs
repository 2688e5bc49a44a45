//! Percentiles, what the kernel says a process has used, and what the disk can do.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

const PROBE: Duration = Duration::from_secs(1);

/// p50, p99 and the most, in milliseconds.
#[allow(dead_code, reason = "not every driver prints JSON")]
pub fn latencies(mut times: Vec<Duration>) -> Value {
    times.sort();
    let at = |share: f64| percentile(&times, share);
    json!({"count": times.len(), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0)})
}

/// What `share` of the sorted times does not exceed, in milliseconds.
pub fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = ((last as f64) * share).round() as usize;
    sorted.get(index).map_or(0.0, |time| time.as_secs_f64() * 1e3)
}

/// How often a second the disk makes one small write durable.
pub fn fdatasync_rate() -> anyhow::Result<f64> {
    let mut file = tempfile::tempfile()?;
    let begin = Instant::now();
    let mut count = 0;
    while begin.elapsed() < PROBE {
        file.write_all(&[0; 512])?;
        file.sync_data()?;
        count += 1;
    }
    Ok(f64::from(count) / begin.elapsed().as_secs_f64())
}

/// User and system CPU time of a process in microseconds (/proc/PID/stat, in clock ticks).
pub fn cpu_micros(pid: u32) -> anyhow::Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or_default();
    let per_second = rustix::param::clock_ticks_per_second();
    Ok((ticks(11) + ticks(12)) * 1_000_000 / per_second)
}

/// Resident memory of a process in bytes.
pub fn rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_default();
    Ok(kib * 1024)
}
