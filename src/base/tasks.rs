//! The one shutdown path: every long-running task is spawned here, is told to stop at the same
//! moment, and is waited for within a bound.

use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The tasks of one daemon or one node; cloned by `Arc`.
pub struct Tasks {
    stop: watch::Sender<bool>,
    running: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
}

/// Resolves when the tasks are told to stop; cheap to clone.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Default for Tasks {
    fn default() -> Self {
        Tasks { stop: watch::channel(false).0, running: Mutex::new(Vec::new()) }
    }
}

impl Tasks {
    /// Spawns a task that is cancelled at its next await when the tasks stop. Work that must end
    /// well takes a [`Stop`] and uses [`Tasks::spawn_until_done`].
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop();
        self.spawn_until_done(name, async move {
            tokio::select! {
                () = stop.wait() => {}
                () = task => {}
            }
        });
    }

    /// Spawns a task that ends by itself after it saw [`Stop`].
    pub fn spawn_until_done(
        &self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let mut running = self.running.lock();
        running.retain(|(_, handle)| !handle.is_finished());
        running.push((name, tokio::spawn(task)));
    }

    pub fn stop(&self) -> Stop {
        Stop(self.stop.subscribe())
    }

    /// Tells every task to stop and waits for them, together at most `limit`; those that are not
    /// done by then are aborted and their names are returned.
    pub async fn shut_down(&self, limit: Duration) -> Vec<&'static str> {
        self.stop.send_replace(true);
        let running = std::mem::take(&mut *self.running.lock());
        let deadline = tokio::time::Instant::now() + limit;
        let mut late = Vec::new();
        for (name, mut handle) in running {
            if tokio::time::timeout_at(deadline, &mut handle).await.is_err() {
                handle.abort();
                late.push(name);
            }
        }
        late
    }
}

impl Stop {
    /// Waits until the tasks are told to stop.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        // An error means that the owner is gone, which is a stop as well.
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn stops_all_and_names_the_late() {
        let tasks = Tasks::default();
        tasks.spawn("forever", std::future::pending());
        tasks.spawn_until_done("deaf", std::future::pending());
        assert_eq!(tasks.shut_down(Duration::from_secs(1)).await, ["deaf"]);
        assert!(tasks.stop().is_set());
    }
}
