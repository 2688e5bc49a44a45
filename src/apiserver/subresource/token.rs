//! `serviceaccounts/token`: a token of an account, for a time and for audiences, bound to a Pod or
//! a Node if asked (pkg/registry/core/serviceaccount/storage/token.go).

use jiff::SignedDuration;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::bearer::API_AUDIENCES;
use super::super::service::{Answer, ApiServer, Call, Stored, read_error, timestamp};
use super::super::tokens::{Bound, Claims, ISSUER, Reference};
use super::super::webhooks::TOKEN_REQUEST;
use super::super::write::{WriteParams, body_object, check_uid};
use super::super::{User, authz, keys};
use crate::api::field::{Errors, Path};
use crate::api::{ApiError, Gvr, Object, Raw};

/// How long tokens may be valid, in seconds, and how long they are if nobody says.
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
const DEFAULT_SECONDS: i64 = 3600;
/// Audiences of one token, and the bytes of each: a token goes into a header.
const MAX_AUDIENCES: usize = 32;
const MAX_AUDIENCE_BYTES: usize = 256;

const PODS: Gvr = Gvr::new("", "v1", "pods", true);
const NODES: Gvr = Gvr::new("", "v1", "nodes", false);

/// What is looked at of an object that a token is to be bound to: every pod that starts asks.
#[derive(Deserialize)]
struct Referent {
    metadata: Reference,
    #[serde(default)]
    spec: PodHead,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodHead {
    node_name: Option<String>,
    service_account_name: Option<String>,
}

impl ApiServer {
    pub(super) async fn request_token(
        &self,
        call: &Call,
        body: Value,
        params: &WriteParams,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "create")?;
        let mut warnings = Vec::new();
        let body = body_object(body)?;
        check_request(call, &body)?;
        let asked = self.ask_about_part(call, TOKEN_REQUEST, body, None, params, &mut warnings);
        let request = read_request(call, asked.await?)?;
        let account = self.stored(call)?;
        check_uid(call, request.metadata.uid.as_deref().unwrap_or_default(), &account.object)?;
        validate(call, &request)?;
        let spec = &request.spec;
        let bound = self.bound_to(call, &account, spec.bound_object_ref.as_ref())?;
        let audiences = match &spec.audiences[..] {
            [] => API_AUDIENCES.iter().map(ToString::to_string).collect(),
            named => named.to_vec(),
        };
        let seconds = spec.expiration_seconds.unwrap_or(DEFAULT_SECONDS);
        let now = self.clock.now();
        let expires = now.checked_add(SignedDuration::from_secs(seconds));
        let expires = expires.map_err(ApiError::internal)?;
        let token = if params.dry_run {
            String::new()
        } else {
            let signed = self.tokens.sign(&Claims {
                aud: audiences.clone(),
                exp: now.as_second().saturating_add(seconds),
                iat: now.as_second(),
                iss: ISSUER.into(),
                jti: self.ids.uid(),
                bound,
                nbf: now.as_second(),
                sub: User::service_account(&call.namespace, &call.name).name,
            });
            signed.map_err(ApiError::internal)?
        };
        let answer = json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"name": call.name, "namespace": call.namespace,
                "creationTimestamp": timestamp(now)},
            "spec": {"audiences": audiences, "expirationSeconds": seconds,
                "boundObjectRef": spec.bound_object_ref},
            "status": {"token": token, "expirationTimestamp": timestamp(expires)},
        });
        Ok(Answer::other(201, answer.to_string()).warn(warnings))
    }

    /// What the token is tied to. A node's agent is given tokens for the Pods on its node only
    /// (upstream's NodeRestriction).
    fn bound_to(
        &self,
        call: &Call,
        account: &Stored,
        object: Option<&BoundObjectReference>,
    ) -> Result<Bound, ApiError> {
        let forbidden = |why: &str| ApiError::forbidden(&call.info.gvr, &call.name, why);
        let agent = authz::node_name(&call.user);
        let mut bound = Bound {
            namespace: call.namespace.clone(),
            node: None,
            pod: None,
            serviceaccount: Reference {
                name: account.object.name().into(),
                uid: account.object.uid().into(),
            },
        };
        let Some(object) = object else {
            return match agent {
                Some(_) => Err(forbidden("node requested token not bound to a pod")),
                None => Ok(bound),
            };
        };
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (name, uid) = (text(&object.name), text(&object.uid));
        let (version, kind) = (text(&object.api_version), text(&object.kind));
        match (version.as_str(), kind.as_str()) {
            ("v1", "Pod") => {
                if agent.is_some() && uid.is_empty() {
                    return Err(forbidden("node requested token with a pod binding without a uid"));
                }
                let pod = self.referent(&PODS, &call.namespace, &name, &uid)?;
                let node = pod.spec.node_name.filter(|node| !node.is_empty());
                if agent.is_some() && agent != node.as_deref() {
                    let why = "node requested token bound to a pod scheduled on a different node";
                    return Err(forbidden(why));
                }
                if pod.spec.service_account_name.as_deref() != Some(&call.name) {
                    return Err(ApiError::bad_request(format!(
                        "cannot bind token for serviceaccount {:?} to pod running with different \
                         serviceaccount name.",
                        call.name
                    )));
                }
                bound.pod = Some(pod.metadata);
                bound.node = match node {
                    Some(node) => Some(self.node_reference(node)?),
                    None => None,
                };
            }
            ("v1", "Node") if agent.is_none() => {
                bound.node = Some(self.referent(&NODES, "", &name, &uid)?.metadata);
            }
            _ if agent.is_some() => {
                return Err(forbidden("node requested token not bound to a pod"));
            }
            _ => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to type {version}/{kind}",
                    call.name
                )));
            }
        }
        Ok(bound)
    }

    /// The object that a token is to be bound to.
    fn referent(
        &self,
        resource: &Gvr,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Referent, ApiError> {
        let missing = || ApiError::not_found(resource, name);
        let info = self.registry().by_gvr(resource).cloned().ok_or_else(missing)?;
        let entry = self.store.get(&keys::object(&info, namespace, name));
        let entry = entry.map_err(read_error)?.ok_or_else(missing)?;
        let object: Referent = Raw(entry.value).decode()?;
        if uid.is_empty() || uid == object.metadata.uid {
            return Ok(object);
        }
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The \
             object might have been deleted and then recreated"
        );
        Err(ApiError::conflict(resource, name, why))
    }

    /// A Pod's Node, which may be gone already.
    fn node_reference(&self, name: String) -> Result<Reference, ApiError> {
        match self.referent(&NODES, "", &name, "") {
            Ok(node) => Ok(node.metadata),
            Err(error) if error.is_not_found() => Ok(Reference { name, uid: String::new() }),
            Err(error) => Err(error),
        }
    }
}

/// Refuses what is another kind's, or another account's.
fn check_request(call: &Call, object: &Object) -> Result<(), ApiError> {
    let bad = |why: String| Err(ApiError::bad_request(why));
    match (object.api_version(), object.kind()) {
        ("" | "authentication.k8s.io/v1", "" | "TokenRequest") => {}
        (version, kind) => return bad(format!("expected a TokenRequest, not {version} {kind}")),
    }
    if !object.name().is_empty() && object.name() != call.name {
        return bad("the name of the TokenRequest does not match the name on the URL".into());
    }
    if !object.namespace().is_empty() && object.namespace() != call.namespace {
        return bad("the namespace of the TokenRequest does not match that on the URL".into());
    }
    Ok(())
}

/// The request as admission left it.
fn read_request(call: &Call, mut object: Object) -> Result<TokenRequest, ApiError> {
    check_request(call, &object)?;
    object.set("apiVersion", "authentication.k8s.io/v1".into());
    object.set("kind", "TokenRequest".into());
    object.remove("status");
    object.meta_mut();
    object.typed().map_err(|error| ApiError::bad_request(error.message))
}

fn validate(call: &Call, request: &TokenRequest) -> Result<(), ApiError> {
    let mut errors = Errors::default();
    let spec = Path::new("spec");
    let path = spec.child("expirationSeconds");
    match request.spec.expiration_seconds {
        Some(seconds) if seconds < MIN_SECONDS => {
            errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
        }
        Some(seconds) if seconds > MAX_SECONDS => {
            errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        _ => {}
    }
    let audiences = &request.spec.audiences;
    let path = spec.child("audiences");
    if audiences.len() > MAX_AUDIENCES || audiences.iter().any(|a| a.len() > MAX_AUDIENCE_BYTES) {
        let detail = "may not have more than 32 audiences of 256 bytes each";
        errors.invalid(&path, audiences.len(), detail);
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&call.info, &call.name, errors.into_vec()))
}
