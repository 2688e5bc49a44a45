//! What a container and its guests tell each other while they run: that it shall end, and whether
//! the guest is ready. One for all instances of a container, and for what runs beside it.

use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep_until};

use super::container::Reporter;

/// See the module's documentation.
pub struct Signals {
    /// When what still runs is killed; `None` while nobody told the container to end.
    stop_by: watch::Sender<Option<Instant>>,
    /// What the guest said last. Held while it is reported, so that reports keep their order.
    ready: Mutex<Option<bool>>,
    reporter: parking_lot::Mutex<Option<Reporter>>,
}

impl Default for Signals {
    fn default() -> Self {
        let stop_by = watch::Sender::new(None);
        Self { stop_by, ready: Mutex::default(), reporter: parking_lot::Mutex::default() }
    }
}

impl Signals {
    /// From now on, readiness is reported there.
    pub fn connect(&self, reporter: &Reporter) {
        *self.reporter.lock() = Some(reporter.clone());
    }

    /// The container has ended: nothing more is reported, and nobody waits for it.
    pub fn disconnect(&self) {
        *self.reporter.lock() = None;
    }

    /// Tells the guests to end within `grace`; a later call may only shorten it.
    pub fn stop(&self, grace: Duration) {
        let by = Instant::now() + grace;
        self.stop_by.send_modify(|stop_by| {
            *stop_by = Some(stop_by.map_or(by, |earlier| earlier.min(by)));
        });
    }

    /// Returns once the container was told to end.
    pub async fn stopping(&self) {
        // The sender is ours: there is no error.
        let _ = self.stop_by.subscribe().wait_for(Option::is_some).await;
    }

    /// Until what still runs is killed.
    pub fn remaining(&self) -> Option<Duration> {
        self.stop_by.borrow().map(|by| by.saturating_duration_since(Instant::now()))
    }

    /// Returns when the grace is over.
    pub async fn overdue(&self) {
        let mut stop_by = self.stop_by.subscribe();
        loop {
            let Some(by) = *stop_by.borrow_and_update() else {
                let _ = stop_by.changed().await;
                continue;
            };
            tokio::select! {
                () = sleep_until(by) => return,
                _ = stop_by.changed() => {}
            }
        }
    }

    /// Takes what a guest says of itself, and reports it if it is news.
    pub async fn set_ready(&self, ready: bool) {
        let mut last = self.ready.lock().await;
        if *last == Some(ready) {
            return;
        }
        *last = Some(ready);
        let reporter = self.reporter.lock().clone();
        if let Some(reporter) = reporter {
            reporter.readiness(ready).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::RuntimeEvent;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_nearest_end_counts() {
        let signals = Arc::new(Signals::default());
        assert_eq!(signals.remaining(), None);
        let began = Instant::now();
        let overdue = tokio::spawn({
            let signals = signals.clone();
            async move { signals.overdue().await }
        });
        signals.stop(Duration::from_secs(30));
        signals.stopping().await;
        signals.stop(Duration::from_secs(5));
        signals.stop(Duration::from_secs(60));
        assert_eq!(signals.remaining(), Some(Duration::from_secs(5)));
        overdue.await.expect("it ends");
        assert_eq!(began.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn only_news_of_readiness_is_reported() {
        let (events, mut reported) = tokio::sync::mpsc::channel(8);
        let clock: super::super::Clock = Arc::new(jiff::Timestamp::now);
        let signals = Signals::default();
        signals.connect(&Reporter { id: "c".to_owned(), events, clock });
        for ready in [true, true, false, false, true] {
            signals.set_ready(ready).await;
        }
        signals.disconnect();
        signals.set_ready(false).await;
        let mut told = Vec::new();
        while let Some(event) = reported.recv().await {
            let RuntimeEvent::Readiness { ready, .. } = event else { panic!("{event:?}") };
            told.push(ready);
        }
        assert_eq!(told, [true, false, true]);
    }
}
