//! The simulator's heartbeat: one Lease for all its nodes, so that fifty thousand cost what one does.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::{RETRY, Shared};
use crate::api::ApiError;

/// The namespace of node heartbeats.
const NAMESPACE: &str = "kube-node-lease";

/// Renews the Lease for ever.
pub async fn keep(shared: Arc<Shared>) {
    let mut held = None;
    loop {
        match renew(&shared, held.take()).await {
            Ok(lease) => {
                held = Some(lease);
                shared.leased.send_replace(true);
                shared.clock.sleep(shared.options.lease_period).await;
            }
            Err(error) => {
                tracing::warn!(simulator = shared.options.name, %error, "no lease");
                shared.clock.sleep(RETRY).await;
            }
        }
    }
}

/// Updates the Lease as last seen; anything unexpected is read again at the next try.
async fn renew(shared: &Shared, held: Option<Lease>) -> Result<Lease, ApiError> {
    let (client, name) = (&shared.client, &shared.options.name);
    let lease = match held {
        Some(lease) => Some(lease),
        None => match client.get::<Lease>(NAMESPACE, name).await {
            Ok(lease) => Some(lease),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        },
    };
    let seconds = i32::try_from(shared.options.lease_duration.as_secs()).unwrap_or(i32::MAX);
    let spec = LeaseSpec {
        holder_identity: Some(name.clone()),
        lease_duration_seconds: Some(seconds),
        renew_time: Some(MicroTime(shared.clock.now())),
        ..lease.as_ref().and_then(|lease| lease.spec.clone()).unwrap_or_default()
    };
    match lease {
        Some(lease) => client.update(&Lease { spec: Some(spec), ..lease }).await,
        None => {
            let metadata = ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            };
            client.create(&Lease { metadata, spec: Some(spec) }).await
        }
    }
}
