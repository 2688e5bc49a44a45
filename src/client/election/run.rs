//! The election's loop: reads the lease, lets [`Elector`] decide, writes, tells the gate.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use tokio::time::Instant;

use super::{Elector, Gate, NAMESPACE, Step, Timing};
use crate::api::ApiError;
use crate::api::error::Reason;
use crate::base::SharedClock;
use crate::base::tasks::Stop;
use crate::client::event::Notice;
use crate::client::{Client, SharedApi};

/// A call without an answer after this time has failed (and may have happened).
pub(super) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// The least wait between two looks, whoever doubts the term.
const LEAST_WAIT: Duration = Duration::from_millis(100);

/// Where notices about the lease go; must not block.
pub type Tell = Arc<dyn Fn(Notice) + Send + Sync>;

/// One contender for one lease.
pub struct Election {
    elector: Elector,
    name: String,
    client: Client,
    clock: SharedClock,
    gate: Gate,
    tell: Tell,
    /// The term that was told of.
    told: bool,
}

impl Election {
    /// `manager` is who writes the lease.
    pub fn new(
        api: SharedApi,
        (name, manager): (&str, &'static str),
        identity: String,
        timing: Timing,
        clock: SharedClock,
        tell: Tell,
    ) -> Election {
        Election {
            elector: Elector::new(name, identity, timing),
            name: name.into(),
            client: Client::new(api, manager),
            clock,
            gate: Gate::default(),
            tell,
            told: false,
        }
    }

    pub fn gate(&self) -> Gate {
        self.gate.clone()
    }

    /// Looks once; tells how long until the next look.
    pub async fn attempt(&mut self) -> Duration {
        let asked = Instant::now();
        let wrote = match self.look(asked).await {
            Ok(wrote) => wrote,
            Err(error) => {
                tracing::debug!(lease = self.name, %error, "the lease was not written");
                None
            }
        };
        let now = Instant::now();
        let term = self.elector.term(now);
        let ends = self.told && term.is_none();
        self.gate.set(term);
        if ends {
            self.told = false;
            tracing::warn!(lease = self.name, "leads no more: another does, or no renewal came");
        }
        if let Some(lease) = &wrote
            && !self.told
        {
            self.told = true;
            let identity = self.elector.identity();
            tracing::info!(lease = self.name, identity, "leads");
            let message = format!("{identity} became leader");
            (self.tell)(Notice::normal(lease, "LeaderElection", message));
        }
        self.elector.wait(wrote.is_some())
    }

    async fn look(&mut self, asked: Instant) -> Result<Option<Lease>, ApiError> {
        let found = match limited(self.client.get::<Lease>(NAMESPACE, &self.name)).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let step = self.elector.step(found.as_ref(), Instant::now(), self.clock.now());
        let lease = match &step {
            Step::Create(lease) => limited(self.client.create(lease)).await?,
            Step::Update(lease) => limited(self.client.update(lease)).await?,
            Step::Wait => return Ok(None),
        };
        self.elector.wrote(&lease, asked);
        Ok(Some(lease))
    }

    /// Contends until it is told to stop, and gives the lease back then. `wait` is what the last
    /// [`Election::attempt`] told.
    pub async fn run(mut self, mut wait: Duration, stop: Stop) {
        loop {
            let began = Instant::now();
            let gate = self.gate.clone();
            let woken = async {
                gate.doubted().await;
                tokio::time::sleep_until(began + LEAST_WAIT).await;
            };
            tokio::select! {
                biased;
                () = stop.wait() => break,
                () = woken => {}
                () = tokio::time::sleep(wait) => {}
            }
            wait = tokio::select! {
                biased;
                () = stop.wait() => break,
                wait = self.attempt() => wait,
            };
        }
        self.gate.set(None);
        if let Err(error) = self.release().await {
            tracing::debug!(lease = self.name, %error, "the lease was not given back");
        }
    }

    async fn release(&mut self) -> Result<(), ApiError> {
        let found = limited(self.client.get::<Lease>(NAMESPACE, &self.name)).await?;
        if let Some(lease) = self.elector.release(&found, self.clock.now()) {
            limited(self.client.update(&lease)).await?;
        }
        Ok(())
    }
}

async fn limited<T>(call: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
    let late = |_| Err(ApiError::new(504, Reason::Timeout, "the API did not answer in time"));
    tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or_else(late)
}
