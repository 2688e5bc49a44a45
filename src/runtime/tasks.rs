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
    /// `None` while it is being spawned.
    handles: HashMap<u64, Option<AbortHandle>>,
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
        let id = {
            let mut running = self.running.lock();
            if running.closed {
                return;
            }
            running.next += 1;
            let id = running.next;
            // Listed before it is spawned: a task that ends at once must find itself.
            running.handles.insert(id, None);
            id
        };
        let ended = Ended(self.clone(), id);
        // Boxed: a future that is moved into another one takes its place twice.
        let task = Box::pin(task);
        // Without the lock: a runtime that is going down drops the future within this call.
        let handle = tokio::spawn(async move {
            let _ended = ended;
            task.await;
        });
        let mut running = self.running.lock();
        if running.closed {
            handle.abort();
        } else if let Some(listed) = running.handles.get_mut(&id) {
            *listed = Some(handle.abort_handle());
        }
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
        for handle in running.handles.values().flatten() {
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

#[cfg(test)]
mod tests {
    use super::*;

    struct SpawnsWhenDropped(tokio::runtime::Handle, Arc<Tasks>);

    impl Drop for SpawnsWhenDropped {
        fn drop(&mut self) {
            let _runtime = self.0.enter();
            self.1.spawn(std::future::pending());
        }
    }

    #[test]
    fn a_runtime_that_is_going_down_drops_what_is_spawned() {
        let runtime = tokio::runtime::Builder::new_multi_thread().build().expect("a runtime");
        let tasks = Arc::new(Tasks::default());
        let last = SpawnsWhenDropped(runtime.handle().clone(), tasks.clone());
        runtime.spawn(async move {
            let _last = last;
            std::future::pending::<()>().await;
        });
        drop(runtime);
        assert!(tasks.running.lock().handles.is_empty());
    }
}
