//! Exec, attach and port-forward: the client's connection switches to a protocol of streams, and
//! what comes over it goes to the pod's node through the tunnel, and back.
//!
//! ```text
//!   client ──WebSocket channels──┐                 ┌─ exec, attach: one request, frames in it
//!          ──SPDY/3.1────────────┼─ this module ───┤
//!          ──SPDY in WebSocket───┘                 └─ port-forward: one request a connection
//! ```
//!
//! [`options`] reads the query, [`wire`] settles the protocol. [`channels`] and [`spdy`] are the two
//! forms in which a client has the streams of a command, [`bridge`] joins either to the node;
//! [`forward`] does the same for ports. Everything waits for whoever is slower.

mod bridge;
mod channels;
mod dial;
mod forward;
mod options;
pub(super) mod proxy;
mod spdy;
mod websocket_io;
mod wire;

use std::sync::Arc;

use http::{HeaderMap, Response};
use hyper::upgrade::OnUpgrade;
use serde_json::Value;

use super::lanes::Place;
use super::request::{Query, ResourcePath, Verb};
use super::service::{ApiServer, Call};
use super::subresource::{log, method_not_allowed};
use super::webhooks::{Operation, Question};
use super::{Body, websocket};
use crate::api::{ApiError, Object};
use crate::base::tasks::Stop;

use options::Options;

/// What connects to a pod, the kind of its options, and how it is done.
pub(super) const CONNECTS: &[(&str, &str)] = &[
    ("attach", "PodAttachOptions"),
    ("exec", "PodExecOptions"),
    ("portforward", "PodPortForwardOptions"),
];

/// One request that connects, beside its call.
pub(super) struct Connecting<'a> {
    pub verb: Verb,
    pub headers: &'a HeaderMap,
    pub query: &'a Query,
    pub upgrade: Option<OnUpgrade>,
    pub stop: Option<Stop>,
    pub place: Place,
}

/// Whether a subresource of pods connects.
pub(super) fn connects(path: &ResourcePath) -> bool {
    let gvr = &path.info.gvr;
    let of_pods = gvr.group.is_empty() && gvr.resource == "pods";
    of_pods && CONNECTS.iter().any(|(name, _)| *name == path.subresource)
}

impl ApiServer {
    /// Answers with a switch of protocols; the streams live on in a task.
    ///
    /// # Errors
    /// 400 for options that make no sense and requests that want no switch, 403 where the client
    /// speaks no protocol that is spoken here, what the node says, and what admission says.
    pub(super) async fn connect(
        self: &Arc<Self>,
        call: &Call,
        request: Connecting<'_>,
    ) -> Result<Response<Body>, ApiError> {
        if !matches!(request.verb, Verb::Get | Verb::Create) {
            return Err(method_not_allowed());
        }
        if websocket::is_requested(request.headers) {
            // A WebSocket begins with a GET whatever it does; who may only read must not run
            // commands by it (upstream's AuthorizePodWebsocketUpgradeCreatePermission).
            self.authorize(call, "create")?;
        }
        let pod = self.stored(call)?.object;
        let options = Options::of(call, request.query)?;
        let container = match call.subresource.as_str() {
            "portforward" => "",
            _ => log::container_of(&pod, &options.container)?,
        };
        let node = log::node_of(&pod)?;
        self.admit_connect(call, options.object(container)?).await?;
        match call.subresource.as_str() {
            "portforward" => forward::respond(self, call, node, &options, request),
            _ => self.run_command(call, node, container, &options, request).await,
        }
    }

    /// Exec and attach.
    async fn run_command(
        self: &Arc<Self>,
        call: &Call,
        node: &str,
        container: &str,
        options: &Options,
        request: Connecting<'_>,
    ) -> Result<Response<Body>, ApiError> {
        if !(options.stdin || options.stdout || options.stderr) {
            let message = "you must specify at least 1 of stdin, stdout, stderr";
            return Err(ApiError::bad_request(message));
        }
        let wire = wire::of_command(request.headers)?;
        let response = wire.accept(request.headers)?;
        let upgrade = request.upgrade.ok_or_else(websocket::no_upgrade)?;
        let Call { namespace, name, subresource, .. } = call;
        let path = format!("/{subresource}/{namespace}/{name}/{container}{}", options.node_query());
        let node = dial::dial(&self.nodes, node, &path).await?;
        let (stop, place, options) = (request.stop, request.place, options.clone());
        tokio::spawn(async move {
            let work = bridge::run(wire, upgrade, options, node);
            until_stop(stop, work).await;
            drop(place);
        });
        Ok(response)
    }

    /// Webhooks and policies may refuse a connection (CONNECT); they cannot change it.
    async fn admit_connect(&self, call: &Call, options: Object) -> Result<(), ApiError> {
        let kind = options.get("kind").and_then(Value::as_str).unwrap_or_default().to_string();
        let question = Question {
            call,
            operation: Operation::Connect,
            part: Some(("", "v1", &kind)),
            old: None,
            dry_run: false,
            options: Value::Null,
        };
        let mut warnings = Vec::new();
        self.ask_connect(&question, &options, &mut warnings).await
    }
}

/// Runs `work`, which ends early when the server stops.
async fn until_stop(stop: Option<Stop>, work: impl Future<Output = ()>) {
    match stop {
        Some(stop) => tokio::select! {
            () = work => {}
            () = stop.wait() => {}
        },
        None => work.await,
    }
}
