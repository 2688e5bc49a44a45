//! The tasks of one HTTP container: spawned, counted, ended together.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// A set of running tasks that can be waited for and aborted as one.
#[derive(Default)]
pub struct Tasks {
    running: Mutex<Running>,
    one_ended: Notify,
}

#[derive(Default)]
struct Running {
    next: u64,
    closed: bool,
    handles: HashMap<u64, AbortHandle>,
}

struct Ended(Arc<Tasks>, u64);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.running.lock().handles.remove(&self.1);
        self.0.one_ended.notify_waiters();
    }
}

impl Tasks {
    /// Spawns on the current runtime; after [`Self::abort`] the future is dropped instead.
    pub fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        // The lock is held over the spawn: a task that ends at once must find itself listed.
        let mut running = self.running.lock();
        if running.closed {
            return;
        }
        let id = running.next;
        running.next += 1;
        let ended = Ended(self.clone(), id);
        let handle = tokio::spawn(async move {
            let _ended = ended;
            task.await;
        });
        running.handles.insert(id, handle.abort_handle());
    }

    /// Returns when no task is running.
    pub async fn wait(&self) {
        loop {
            let ended = self.one_ended.notified();
            if self.running.lock().handles.is_empty() {
                return;
            }
            ended.await;
        }
    }

    /// Aborts every task and refuses new ones.
    pub fn abort(&self) {
        let mut running = self.running.lock();
        running.closed = true;
        for handle in running.handles.values() {
            handle.abort();
        }
    }
}

/// Spawns the streams of HTTP/2 connections into the container's set.
#[derive(Clone)]
pub struct TaskExecutor(pub Arc<Tasks>);

impl<F> hyper::rt::Executor<F> for TaskExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
