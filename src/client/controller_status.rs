//! The page about controllers that a server shows: `/debug/controllers`, as JSON and as a table.
//! Written by the control plane, read by people and by `wasmctl controllers`.

use serde::{Deserialize, Serialize};

/// Where it is.
pub const PATH: &str = "/debug/controllers";

/// All of the page.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllersPage {
    /// The loops that are led by a lease of their own.
    pub leases: Vec<LeaseStatus>,
    pub controllers: Vec<ControllerStatus>,
}

/// Whether this process leads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LeaseStatus {
    /// Of the Lease in kube-system.
    pub name: String,
    pub leads: bool,
    /// Who this process is, as the Lease names it.
    pub identity: String,
}

/// How one controller fares, since its process started.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ControllerStatus {
    pub name: String,
    /// Keys that wait now.
    pub queue: usize,
    /// Keys that come again at a time of their own.
    pub later: usize,
    /// Times that a key was looked at.
    pub reconciles: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// Times that a key came again after a failure or a conflict.
    pub retries: u64,
    pub failures: u64,
    pub conflicts: u64,
    pub panics: u64,
    /// Plans that waited since they would have written the same once more, or too often.
    pub held: u64,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_run: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error_time: Option<String>,
    /// Of the last 256 reconciles with their writes, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p50_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_seconds: Option<f64>,
}

const HEAD: [&str; 11] = [
    "NAME",
    "QUEUE",
    "LATER",
    "RUNS",
    "WRITES",
    "RETRIES",
    "HELD",
    "P50",
    "P99",
    "LAST RUN",
    "LAST ERROR",
];
/// Errors can be long; the JSON form has all of them.
const ERROR_CHARACTERS: usize = 100;

impl ControllersPage {
    /// The page's rows, a head first.
    pub fn rows(&self) -> Vec<Vec<String>> {
        let head = HEAD.map(str::to_string).to_vec();
        std::iter::once(head).chain(self.controllers.iter().map(row)).collect()
    }

    /// One line for each lease.
    pub fn lease_lines(&self) -> Vec<String> {
        let line = |one: &LeaseStatus| {
            let what = if one.leads { "leads" } else { "waits for its lease" };
            format!("{}: {} {what}", one.name, one.identity)
        };
        self.leases.iter().map(line).collect()
    }

    /// The page as plain text.
    pub fn text(&self) -> String {
        let rows = self.rows();
        let width = |n: usize| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
        let mut text = self.lease_lines().join("\n");
        text.push_str("\n\n");
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            text.push_str(cells.collect::<Vec<_>>().join("   ").trim_end());
            text.push('\n');
        }
        text
    }
}

fn row(one: &ControllerStatus) -> Vec<String> {
    let none = || "-".to_string();
    let error = one.last_error.as_ref().map(|text| {
        let line = text.lines().next().unwrap_or_default();
        let text: String = line.chars().take(ERROR_CHARACTERS).collect();
        format!("{} {text}", one.last_error_time.as_deref().unwrap_or_default())
    });
    let counts = [one.queue as u64, one.later as u64, one.reconciles, one.writes, one.retries];
    let mut row = vec![one.name.clone()];
    row.extend(counts.iter().map(u64::to_string));
    row.push(one.held.to_string());
    row.push(one.p50_seconds.map_or_else(none, duration));
    row.push(one.p99_seconds.map_or_else(none, duration));
    row.push(one.last_run.clone().unwrap_or_else(none));
    row.push(error.unwrap_or_else(none));
    row
}

/// Three digits and a unit.
fn duration(seconds: f64) -> String {
    match seconds {
        s if s >= 1.0 => format!("{s:.2}s"),
        s if s >= 1e-3 => format!("{:.1}ms", s * 1e3),
        s => format!("{:.0}µs", s * 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_aligned_and_says_what_is_not_known() {
        let one = ControllerStatus {
            name: "deployment".into(),
            queue: 12,
            last_error: Some("first\nsecond".into()),
            last_error_time: Some("2026-01-01T00:00:00Z".into()),
            p50_seconds: Some(0.0000125),
            p99_seconds: Some(0.25),
            ..ControllerStatus::default()
        };
        let lease = LeaseStatus { name: "x".into(), leads: true, identity: "me".into() };
        let page = ControllersPage { leases: vec![lease], controllers: vec![one] };
        let text = page.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "x: me leads");
        assert!(lines[2].starts_with("NAME         QUEUE   LATER"), "{text}");
        assert!(lines[3].starts_with("deployment   12      0"), "{text}");
        assert!(lines[3].contains("250.0ms   -          2026-01-01T00:00:00Z first"), "{text}");
        let json = serde_json::to_value(&page).unwrap();
        assert_eq!(json["controllers"][0]["p99Seconds"], 0.25);
        assert_eq!(serde_json::from_value::<ControllersPage>(json).unwrap(), page);
    }
}
