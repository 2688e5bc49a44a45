//! Why a store takes no more writes, told once to everyone who asks.

use tokio::sync::watch;

pub(super) struct Failure(watch::Sender<Option<String>>);

impl Default for Failure {
    fn default() -> Failure {
        Failure(watch::Sender::new(None))
    }
}

impl Failure {
    /// Notes a failure; the first one counts.
    pub(super) fn set(&self, why: &str) {
        self.0.send_if_modified(|failure| {
            let first = failure.is_none();
            failure.get_or_insert_with(|| why.to_owned());
            first
        });
    }

    pub(super) fn get(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Waits for a failure, for ever if none comes.
    pub(super) async fn wait(&self) -> String {
        let mut receiver = self.0.subscribe();
        match receiver.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(why)) => why,
            // The sender lives as long as self, and what was waited for is there.
            _ => std::future::pending().await,
        }
    }
}
