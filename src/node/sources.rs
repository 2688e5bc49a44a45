//! Fetches the ConfigMaps, Secrets and tokens that a pod's volumes and environments need. They
//! are read when a pod starts and again on a slow period; the node watches none of them.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use serde_json::json;

use super::Shared;
use super::pod_state::spec;
use super::tokens::Holding;
use crate::api::{ApiError, Gvr, Object};
use crate::client::{Target, WriteOptions};
use crate::volumes::{Need, Objects};

mod held;

pub use held::{Freshness, Held};

/// Requests of one pod under way at once.
const PARALLEL_FETCHES: usize = 8;

enum Found {
    ConfigMap(String, Arc<ConfigMap>),
    Secret(String, Arc<Secret>),
    Claim(String, Arc<PersistentVolumeClaim>, Option<Arc<PersistentVolume>>),
    Token((String, i64), Arc<str>),
    Nothing,
}

/// Gets what exists; that something is missing is for the one who needs it to judge.
pub async fn fetch(
    node: &Shared,
    pod: &Pod,
    needs: &[Need],
    fresh: Freshness,
) -> Result<Objects, ApiError> {
    let mut objects = Objects::default();
    let wanted: Vec<_> = needs.iter().map(|need| fetch_one(node, pod, need, fresh)).collect();
    let found = stream::iter(wanted).buffer_unordered(PARALLEL_FETCHES);
    for found in found.try_collect::<Vec<Found>>().await? {
        match found {
            Found::ConfigMap(name, map) => drop(objects.config_maps.insert(name, map)),
            Found::Secret(name, secret) => drop(objects.secrets.insert(name, secret)),
            Found::Claim(name, claim, volume) => {
                objects.claims.insert(name, claim);
                let named = volume.and_then(|one| Some((one.metadata.name.clone()?, one)));
                objects.volumes.extend(named);
            }
            Found::Token(key, token) => drop(objects.tokens.insert(key, token)),
            Found::Nothing => {}
        }
    }
    Ok(objects)
}

async fn fetch_one(
    node: &Shared,
    pod: &Pod,
    need: &Need,
    fresh: Freshness,
) -> Result<Found, ApiError> {
    let client = &node.client;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let now = || node.clock.now();
    let result = match need {
        Need::ConfigMap(name) => {
            let ask = || client.get::<ConfigMap>(namespace, name);
            let map = node.config_maps.get((namespace, name), fresh, now, ask).await;
            map.map(|map| Found::ConfigMap(name.clone(), map))
        }
        Need::Secret(name) => {
            let ask = || client.get::<Secret>(namespace, name);
            let secret = node.secrets.get((namespace, name), fresh, now, ask).await;
            secret.map(|secret| Found::Secret(name.clone(), secret))
        }
        Need::Claim(name) => claim(node, namespace, name).await,
        Need::OwnClaim(volume) => {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            claim(node, namespace, &format!("{pod}-{volume}")).await
        }
        Need::Token { audience, expiration_seconds } => {
            // Its own 404 names the service account, which the user wants to see.
            let owner = TokenOwner::of(pod);
            let token = token(node, owner, audience, *expiration_seconds).await?;
            return Ok(Found::Token((audience.clone(), *expiration_seconds), token));
        }
    };
    match result {
        Err(error) if error.is_not_found() => Ok(Found::Nothing),
        other => other,
    }
}

/// A claim and its volume. A volume that this node may not read is as good as none.
async fn claim(node: &Shared, namespace: &str, name: &str) -> Result<Found, ApiError> {
    let claim = node.client.get::<PersistentVolumeClaim>(namespace, name).await?;
    let volume = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let volume = match volume.filter(|volume| !volume.is_empty()) {
        Some(volume) => match node.client.get::<PersistentVolume>("", volume).await {
            Ok(volume) => Some(Arc::new(volume)),
            Err(error) if error.is_not_found() || error.code == 403 => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    Ok(Found::Claim(name.to_string(), Arc::new(claim), volume))
}

/// The pod that a token is bound to, and whom it stands for.
#[derive(Clone, Copy)]
pub(super) struct TokenOwner<'a> {
    pub(super) namespace: &'a str,
    pub(super) pod: &'a str,
    pub(super) uid: &'a str,
    pub(super) service_account: &'a str,
}

impl<'a> TokenOwner<'a> {
    fn of(pod: &'a Pod) -> TokenOwner<'a> {
        let meta = &pod.metadata;
        TokenOwner {
            namespace: meta.namespace.as_deref().unwrap_or_default(),
            pod: meta.name.as_deref().unwrap_or_default(),
            uid: meta.uid.as_deref().unwrap_or_default(),
            service_account: spec(pod).service_account_name.as_deref().unwrap_or("default"),
        }
    }
}

/// The token that the pod holds, or another one where its time has come.
pub(super) async fn token(
    node: &Shared,
    owner: TokenOwner<'_>,
    audience: &str,
    seconds: i64,
) -> Result<Arc<str>, ApiError> {
    let (uid, now) = (owner.uid, node.clock.now());
    let held = node.tokens.get(uid, audience, seconds, now);
    if let Holding::Fresh(token) = held {
        return Ok(token);
    }
    match (request_token(node, owner, audience, seconds).await, held) {
        (Ok((token, life_seconds)), _) => {
            node.tokens.put(uid, (audience, seconds), &token, life_seconds, now);
            Ok(token)
        }
        (Err(_), Holding::Old(token)) => Ok(token),
        (Err(error), _) => Err(error),
    }
}

/// A token bound to the pod (authentication.k8s.io/v1 TokenRequest), and its life in seconds.
async fn request_token(
    node: &Shared,
    owner: TokenOwner<'_>,
    audience: &str,
    seconds: i64,
) -> Result<(Arc<str>, i64), ApiError> {
    let client = &node.client;
    let target = Target {
        resource: Gvr::new("", "v1", "serviceaccounts", true),
        namespace: Some(owner.namespace.to_string()),
        name: Some(owner.service_account.to_string()),
        subresource: Some("token".into()),
    };
    let audiences: Vec<&str> = Some(audience).filter(|a| !a.is_empty()).into_iter().collect();
    let request = Object::from_value(json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "spec": {
            "audiences": audiences,
            "expirationSeconds": seconds,
            "boundObjectRef": {
                "kind": "Pod",
                "apiVersion": "v1",
                "name": owner.pod,
                "uid": owner.uid,
            },
        },
    }))?;
    let options = WriteOptions { field_manager: client.manager.into(), ..WriteOptions::default() };
    let answer = client.api.create(&target, request, &options).await?.object()?;
    let life = answer.at(&["spec", "expirationSeconds"]).and_then(|life| life.as_i64());
    match answer.at(&["status", "token"]).and_then(|token| token.as_str()) {
        Some(token) => Ok((token.into(), life.unwrap_or(seconds))),
        None => Err(ApiError::internal("the answer to a TokenRequest holds no token")),
    }
}
