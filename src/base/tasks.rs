//! The one shutdown path: every long-running task is spawned here, is told to stop at the same
//! moment, and is waited for within a bound. None of them may end before: who runs them waits for
//! [`Tasks::first_end`] and ends the process, because half a daemon looks like a whole one.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// The tasks of one daemon or one node; cloned by `Arc`.
pub struct Tasks {
    stop: watch::Sender<bool>,
    ended: watch::Sender<Option<Ended>>,
    running: Mutex<Vec<(&'static str, JoinHandle<()>)>>,
}

/// A task that ended though nobody told it to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub name: &'static str,
    pub panicked: bool,
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.panicked { "panicked" } else { "ended by itself" };
        write!(f, "the task {:?} {how}", self.name)
    }
}

/// Resolves when the tasks are told to stop; cheap to clone.
#[derive(Clone)]
pub struct Stop(watch::Receiver<bool>);

impl Default for Tasks {
    fn default() -> Self {
        let (stop, ended) = (watch::Sender::new(false), watch::Sender::new(None));
        Tasks { stop, ended, running: Mutex::new(Vec::new()) }
    }
}

impl Tasks {
    /// Spawns a task that is cancelled at its next await when the tasks stop. Work that must end
    /// well takes a [`Stop`] and uses [`Tasks::spawn_until_done`].
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        // Boxed, as below: a future that is moved into another one takes its place twice.
        let (stop, task) = (self.stop(), Box::pin(task));
        self.spawn_until_done(name, async move {
            tokio::select! {
                biased;
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
        let end = End { name, stop: self.stop(), ended: self.ended.clone() };
        let task = Box::pin(task);
        let task = async move {
            let _end = end;
            task.await;
        };
        let mut running = self.running.lock();
        running.retain(|(_, handle)| !handle.is_finished());
        running.push((name, tokio::spawn(task)));
    }

    /// Waits for the first task that ends, or panics, before the tasks are told to stop.
    pub async fn first_end(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
            Ok(Some(ended)) => ended,
            // The sender lives as long as self, and what was waited for is there.
            _ => std::future::pending().await,
        }
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

/// Dropped with a task, however that went.
struct End {
    name: &'static str,
    stop: Stop,
    ended: watch::Sender<Option<Ended>>,
}

impl Drop for End {
    fn drop(&mut self) {
        if self.stop.is_set() {
            return;
        }
        let ended = Ended { name: self.name, panicked: std::thread::panicking() };
        self.ended.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(ended);
            is_first
        });
    }
}

impl Stop {
    /// Waits until the tasks are told to stop.
    pub async fn wait(&self) {
        let mut receiver = self.0.clone();
        // An error means that the owner is gone, which is a stop as well.
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    /// A stop that follows this one after a delay. Must be called in a tokio runtime.
    pub fn delayed(&self, delay: Duration) -> Stop {
        if delay.is_zero() {
            return self.clone();
        }
        let (sender, receiver) = watch::channel(false);
        let stop = self.clone();
        tokio::spawn(async move {
            stop.wait().await;
            tokio::time::sleep(delay).await;
            sender.send_replace(true);
        });
        Stop(receiver)
    }

    pub fn is_set(&self) -> bool {
        *self.0.borrow()
    }
}

/// Aborts its task when it is dropped.
pub struct Task(pub tokio::task::AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
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

    #[tokio::test]
    async fn an_end_before_the_stop_is_told_and_one_after_it_is_not() {
        let tasks = Tasks::default();
        tasks.spawn("forever", std::future::pending());
        tasks.spawn("short", async {});
        let ended = tasks.first_end().await;
        assert_eq!(ended, Ended { name: "short", panicked: false });
        let tasks = Tasks::default();
        tasks.spawn("bad", async { panic!("on purpose") });
        assert_eq!(tasks.first_end().await.to_string(), "the task \"bad\" panicked");
        let tasks = Tasks::default();
        tasks.spawn("forever", std::future::pending());
        tasks.shut_down(Duration::from_secs(1)).await;
        assert!(futures::FutureExt::now_or_never(tasks.first_end()).is_none());
    }
}
