//! The simulator's heartbeat: one Lease for all its nodes, so that fifty thousand cost what one does.
//! Who holds it stands for the nodes: of two simulators of one name the second one ends. At its end it
//! takes the Lease with it, so that the name is free at once.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::{RETRY, Shared};
use crate::api::ApiError;
use crate::base::tasks::Stop;
use crate::client::DeleteOptions;

/// The namespace of node heartbeats.
const NAMESPACE: &str = "kube-node-lease";
/// How long the end waits for the answer to the Lease's removal.
const REMOVAL_LIMIT: Duration = Duration::from_secs(2);

/// Why the Lease was not renewed.
enum Failure {
    Api(ApiError),
    /// Another process holds it, and its last heartbeat is so long ago.
    Held {
        by: String,
        silent_for: Duration,
    },
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Failure {
        Failure::Api(error)
    }
}

/// Renews the Lease until the stop, and then removes it, or until another simulator has it.
pub async fn keep(shared: Arc<Shared>, stop: Stop) {
    let mut uid = None;
    tokio::select! {
        biased;
        () = stop.wait() => {}
        () = keep_renewing(&shared, &mut uid) => {}
    }
    let Some(uid) = uid else { return };
    let options = DeleteOptions { uid: Some(uid), ..DeleteOptions::default() };
    let name = &shared.options.name;
    let removed = tokio::select! {
        removed = shared.client.delete::<Lease>(NAMESPACE, name, &options) => removed,
        () = shared.clock.sleep(REMOVAL_LIMIT) => Err(ApiError::unavailable("no answer in time")),
    };
    if let Err(error) = removed
        && !error.is_not_found()
    {
        tracing::warn!(simulator = name, %error, "the lease was not removed");
    }
}

/// Tells the uid of the Lease that is held.
async fn keep_renewing(shared: &Shared, uid: &mut Option<String>) {
    let (mut held, name) = (None, &shared.options.name);
    loop {
        match renew(shared, held.take()).await {
            Ok(lease) => {
                uid.clone_from(&lease.metadata.uid);
                held = Some(lease);
                shared.leased.send_replace(true);
                shared.clock.sleep(shared.options.lease.period).await;
            }
            Err(Failure::Held { by, silent_for }) => {
                *uid = None;
                let seconds = silent_for.as_secs();
                shared.fail(format!(
                    "there is a simulator {name} already: {by}, whose last heartbeat was {seconds} s \
                     ago; stop that one, or wait until its Lease is over if it is gone, or give this \
                     one another name (--name sim-…)"
                ));
                return std::future::pending().await;
            }
            Err(Failure::Api(error)) => {
                tracing::warn!(simulator = name, %error, "no lease");
                shared.clock.sleep(RETRY).await;
            }
        }
    }
}

/// Updates the Lease as last seen; anything unexpected is read again at the next try.
async fn renew(shared: &Shared, held: Option<Lease>) -> Result<Lease, Failure> {
    let (client, options) = (&shared.client, &shared.options);
    let lease = match held {
        Some(lease) => Some(lease),
        None => match client.get::<Lease>(NAMESPACE, &options.name).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        },
    };
    let spec = lease.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default();
    let now = shared.clock.now();
    if let Some((by, silent_for)) = other_holder(&spec, &options.holder, now) {
        return Err(Failure::Held { by, silent_for });
    }
    let seconds = i32::try_from(options.lease.duration.as_secs()).unwrap_or(i32::MAX);
    let spec = LeaseSpec {
        holder_identity: Some(options.holder.clone()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(now)),
        ..spec
    };
    match lease {
        Some(lease) => Ok(client.update(&Lease { spec: Some(spec), ..lease }).await?),
        None => {
            let metadata = ObjectMeta {
                name: Some(options.name.clone()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            };
            Ok(client.create(&Lease { metadata, spec: Some(spec) }).await?)
        }
    }
}

/// Who else holds a Lease, and how long ago that one was heard of.
fn other_holder(spec: &LeaseSpec, own: &str, now: Timestamp) -> Option<(String, Duration)> {
    let by = spec.holder_identity.clone().filter(|by| !by.is_empty() && by != own)?;
    let silent_for = now.duration_since(spec.renew_time.as_ref()?.0);
    let holds_for = SignedDuration::from_secs(spec.lease_duration_seconds.unwrap_or(0).into());
    (silent_for < holds_for).then(|| (by, silent_for.try_into().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_its_holders_until_it_is_over() {
        let at = |second: i64| Timestamp::from_second(1_000 + second).unwrap();
        let spec = LeaseSpec {
            holder_identity: Some("a".into()),
            lease_duration_seconds: Some(40),
            renew_time: Some(MicroTime(at(0))),
            ..LeaseSpec::default()
        };
        assert_eq!(other_holder(&spec, "a", at(1)), None);
        let held = |seconds| Some(("a".to_string(), Duration::from_secs(seconds)));
        assert_eq!(other_holder(&spec, "b", at(39)), held(39));
        assert_eq!(other_holder(&spec, "b", at(-5)), held(0), "its clock is ahead");
        assert_eq!(other_holder(&spec, "b", at(40)), None);
        assert_eq!(other_holder(&LeaseSpec::default(), "b", at(0)), None);
    }
}
