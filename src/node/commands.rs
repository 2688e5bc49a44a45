//! Commands of probes and hooks: a container's own program once more, in its sandbox and on its
//! account, as `exec` runs it. It ends when nobody waits for it any more.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::Shared;
use super::pods::PodEntry;
use crate::runtime::{ExecSpec, LogSink, LogStream, RuntimeEvent};

/// Of what a command writes so much is told (kubelet's maxProbeMessageLength).
const MOST_TOLD_BYTES: usize = 1024;
/// A start and an end.
const EVENTS: usize = 2;

/// The first bytes of what a command writes; the rest is dropped.
#[derive(Default)]
struct Told(Mutex<Vec<u8>>);

impl LogSink for Told {
    fn write(&self, _: LogStream, bytes: &[u8]) {
        let mut told = self.0.lock();
        let room = MOST_TOLD_BYTES.saturating_sub(told.len());
        told.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// Runs a command to its end.
///
/// # Errors
/// Why it was not run, or how it failed and what it wrote.
pub async fn run(
    node: &Shared,
    entry: &PodEntry,
    container: &str,
    command: &[String],
) -> Result<(), String> {
    let asked = command.first().map(String::as_str).unwrap_or_default();
    let ended = || format!("container {container:?} is not running");
    let running = entry.running(container).ok_or_else(ended)?;
    if !running.programs.has(asked) {
        return Err(running.programs.advice(asked));
    }
    let guest = running.container.upgrade().ok_or_else(ended)?;
    let told = Arc::new(Told::default());
    let spec = ExecSpec {
        id: node.ids.uid(),
        args: command.to_vec(),
        logs: told.clone(),
        stdin: None,
        tty: false,
    };
    let (events, mut ends) = mpsc::channel(EVENTS);
    // Dropped with this future, and the command with it.
    let _command = guest.exec(spec, events).await.map_err(|error| format!("exec: {error}"))?;
    drop(guest);
    while let Some(event) = ends.recv().await {
        let RuntimeEvent::Exited { exit, .. } = event else { continue };
        if exit.code == 0 {
            return Ok(());
        }
        let told = String::from_utf8_lossy(&told.0.lock()).trim_end().to_string();
        let why = if told.is_empty() { exit.message } else { told };
        return Err(format!("command {asked:?} exited with {}: {why}", exit.code));
    }
    Err("the node stops".into())
}
