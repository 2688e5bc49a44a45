//! Admission webhooks: programs outside that change or refuse writes
//! (admissionregistration.k8s.io/v1; k8s.io/apiserver/pkg/admission/plugin/webhook).
//!
//! ```text
//!   admitters → mutating webhooks, one after another, by configuration and place in it
//!      → (if one changed the object: admitters and webhooks that want it, once more)
//!      → validation → validating webhooks, side by side → quotas → commit
//! ```
//!
//! Which webhooks there are is a table kept in step with commits ([`feed`]); who of them is asked
//! is decided in [`matching`] and [`conditions`], what is sent and answered in [`review`], over which connections in
//! [`connection`]. [`dispatch`] asks. Knows nothing of what a kind's fields mean.
//!
//! No webhook is asked about webhook configurations and admission policies, so that a broken one
//! can be mended, nor about questions (`SubjectAccessReview` and its like), as upstream does with
//! ExcludeAdmissionWebhookVirtualResources. What the server writes for itself is not asked about.

mod conditions;
mod connection;
mod dispatch;
mod feed;
pub mod matching;
mod part;
pub mod review;

use serde_json::{Map, Value, json};

use super::service::Call;
use super::write::{FieldValidation, WriteParams};
use crate::api::Object;
use crate::api::resource;
use crate::client::{DeleteOptions, remote};

pub use connection::Caller;
pub use dispatch::Rounds;
pub use feed::{Hook, Hooks, Table};
pub use part::{BINDING, EVICTION, SCALE, TOKEN_REQUEST};

/// Whether webhooks are asked about a write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asking {
    #[default]
    Ask,
    /// The write is a part of another one, or the server's own.
    Skip,
}

/// What is done to the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// To a pod: there is no object, but options.
    Connect,
}

impl Operation {
    pub fn name(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

impl From<resource::Operation> for Operation {
    fn from(operation: resource::Operation) -> Operation {
        match operation {
            resource::Operation::Create => Operation::Create,
            resource::Operation::Update
            | resource::Operation::UpdateStatus
            | resource::Operation::UpdateEphemeralContainers => Operation::Update,
        }
    }
}

/// Group, version and kind.
pub type Gvk<'a> = (&'a str, &'a str, &'a str);

/// One write, as webhooks are asked about it; the object itself goes beside it.
pub struct Question<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    /// What the object is, if not of the call's kind: the Scale of `/scale`, say.
    pub part: Option<Gvk<'a>>,
    /// The stored object; none on create.
    pub old: Option<&'a Object>,
    pub dry_run: bool,
    /// CreateOptions and their sisters.
    pub options: Value,
}

impl Question<'_> {
    /// A Namespace is in itself, as upstream has it.
    fn namespace(&self) -> &str {
        match is_namespace(self.call) {
            true => &self.call.name,
            false => &self.call.namespace,
        }
    }
}

fn is_namespace(call: &Call) -> bool {
    call.info.gvr.group.is_empty() && call.info.gvr.resource == "namespaces"
}

/// The options of a write, as clients would have sent them.
pub fn write_options(params: &WriteParams, operation: Operation) -> Value {
    let kind = match (operation, params.forced) {
        (Operation::Create, _) => "CreateOptions",
        (_, Some(_)) => "PatchOptions",
        (_, None) => "UpdateOptions",
    };
    let mut options = Map::new();
    options.insert("kind".into(), kind.into());
    options.insert("apiVersion".into(), "meta.k8s.io/v1".into());
    if params.dry_run {
        options.insert("dryRun".into(), json!(["All"]));
    }
    if operation == Operation::Update && params.forced == Some(true) {
        options.insert("force".into(), true.into());
    }
    if !params.manager.is_empty() {
        options.insert("fieldManager".into(), params.manager.clone().into());
    }
    let validation = match params.field_validation {
        FieldValidation::Ignore => "Ignore",
        FieldValidation::Warn => "Warn",
        FieldValidation::Strict => "Strict",
    };
    options.insert("fieldValidation".into(), validation.into());
    options.into()
}

/// The options of a deletion.
pub fn delete_options(options: &DeleteOptions) -> Value {
    let mut body = remote::delete_body(options);
    body["apiVersion"] = "meta.k8s.io/v1".into();
    body
}
