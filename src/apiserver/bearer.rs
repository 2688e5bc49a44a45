//! From a bearer token to a user: a token counts as long as the service account, the Pod and the
//! Node that it is bound to exist, by name and uid. Nothing but good signatures is
//! remembered between requests, so a deletion is felt by the next one.

use std::collections::BTreeMap;

use http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::service::{ApiServer, read_error};
use super::tokens::{self, Claims, Reference, Refused};
use super::{User, authn};
use crate::api::ApiError;
use crate::store::{Key, ReadError};

/// How long tokens live on after the time at which a Pod or account that is being deleted is to be
/// gone (pkg/serviceaccount/claims.go), so that its last words are heard.
const LEEWAY_AFTER_DELETION: SignedDuration = SignedDuration::from_secs(60);
/// The audiences of the API.
pub const API_AUDIENCES: &[&str] = &[tokens::ISSUER];

/// Whom a token stands for.
#[derive(Debug)]
pub struct Verified {
    pub user: User,
    /// Those asked for that the token is meant for.
    pub audiences: Vec<String>,
}

/// Why a token stands for nobody.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("invalid bearer token: {0}")]
    Refused(#[from] Refused),
    #[error("invalid bearer token: service account token has been invalidated: {0} is gone")]
    Gone(&'static str),
    /// Nobody knows.
    #[error("{0}")]
    Store(#[from] ReadError),
}

#[derive(Deserialize)]
struct Head {
    metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    uid: String,
    #[serde(default)]
    deletion_timestamp: Option<Timestamp>,
}

impl ApiServer {
    /// The user of a request's bearer token; `None` without one.
    ///
    /// # Errors
    /// 401 for a token that is not valid: who shows a wrong one is nobody, not anonymous.
    pub(super) fn bearer(&self, headers: &HeaderMap) -> Result<Option<User>, ApiError> {
        let Some(token) = authn::bearer_token(headers) else { return Ok(None) };
        match self.verify(token, API_AUDIENCES) {
            Ok(verified) => Ok(Some(verified.user)),
            Err(Failure::Store(error)) => Err(read_error(error)),
            Err(failure) => {
                tracing::debug!(%failure, "a bearer token was refused");
                Err(ApiError::unauthorized())
            }
        }
    }

    /// Whom a token stands for that is meant for one of these audiences.
    pub(super) fn verify(&self, token: &str, audiences: &[&str]) -> Result<Verified, Failure> {
        let now = self.clock.now();
        let claims = self.tokens.read(token, audiences, now)?;
        let bound = &claims.bound;
        let account = &bound.serviceaccount;
        self.check_exists("serviceaccounts", &bound.namespace, account, now)?;
        if let Some(pod) = &bound.pod {
            self.check_exists("pods", &bound.namespace, pod, now)?;
        }
        // Of the Node of a Pod the uid may be unknown; then the Pod answers for it.
        if let Some(node) = bound.node.as_ref().filter(|node| !node.uid.is_empty()) {
            self.check_exists("nodes", "", node, now)?;
        }
        Ok(verified(claims, audiences))
    }

    fn check_exists(
        &self,
        resource: &'static str,
        namespace: &str,
        wanted: &Reference,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let entry = self.store.get(&Key::new(&["", resource, namespace, &wanted.name]))?;
        let head = entry.and_then(|entry| serde_json::from_slice::<Head>(&entry.value).ok());
        let meta = head.map(|head| head.metadata).filter(|meta| meta.uid == wanted.uid);
        let Some(meta) = meta else { return Err(Failure::Gone(resource)) };
        match meta.deletion_timestamp {
            Some(end) if now.duration_since(end) > LEEWAY_AFTER_DELETION => {
                Err(Failure::Gone(resource))
            }
            _ => Ok(()),
        }
    }
}

fn verified(claims: Claims, audiences: &[&str]) -> Verified {
    let Claims { aud, jti, bound, .. } = claims;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: String| {
        extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
    };
    add("credential-id", format!("JTI={jti}"));
    if let Some(pod) = bound.pod {
        add("pod-name", pod.name);
        add("pod-uid", pod.uid);
    }
    if let Some(node) = bound.node {
        add("node-name", node.name);
        if !node.uid.is_empty() {
            add("node-uid", node.uid);
        }
    }
    let user = User::service_account(&bound.namespace, &bound.serviceaccount.name);
    Verified {
        user: User { uid: bound.serviceaccount.uid, extra, ..user },
        audiences: aud.into_iter().filter(|a| audiences.contains(&a.as_str())).collect(),
    }
}
