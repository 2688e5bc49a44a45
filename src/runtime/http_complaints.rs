//! Where it is told that an HTTP handler failed at a request: all of it in the container's log, and
//! some of it to the platform, so that who looks at the pod sees that something is wrong.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::host::Sandbox;
use super::stdio::LogWriter;
use super::told::Told;
use super::workload::Platform;

/// Characters of a failure's first line that are told.
const MAX_LINE_CHARACTERS: usize = 400;

/// Of one container; its instances share it.
pub struct Complaints {
    log: LogWriter,
    platform: Arc<dyn Platform>,
    told: Mutex<Told<String>>,
}

impl Complaints {
    pub fn of(sandbox: &Sandbox) -> Complaints {
        Complaints {
            log: sandbox.stderr.clone(),
            platform: sandbox.spec.workload.platform.clone(),
            told: Mutex::default(),
        }
    }

    /// Takes a failure's text, the first line of which says what it is.
    pub fn tell(&self, text: &str) {
        self.log.write_line(text);
        let line = {
            let mut told = self.told.lock();
            let now = Instant::now();
            if !told.has_room(now) {
                return;
            }
            let line = text.lines().next().unwrap_or_default();
            let line: String = line.chars().take(MAX_LINE_CHARACTERS).collect();
            if !told.is_new(&line, now) {
                return;
            }
            line
        };
        self.platform.failed(line);
    }
}
