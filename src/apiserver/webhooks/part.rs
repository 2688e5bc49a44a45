//! Webhooks and subresources whose object is not of the resource's kind: a Scale, an Eviction, a
//! Binding, a TokenRequest.

use super::{Asking, Gvk, Operation, Question, Rounds, write_options};
use crate::api::{ApiError, Object};
use crate::apiserver::service::{ApiServer, Call};
use crate::apiserver::write::WriteParams;

pub const SCALE: Gvk<'static> = ("autoscaling", "v1", "Scale");
pub const EVICTION: Gvk<'static> = ("policy", "v1", "Eviction");
pub const BINDING: Gvk<'static> = ("", "v1", "Binding");
pub const TOKEN_REQUEST: Gvk<'static> = ("authentication.k8s.io", "v1", "TokenRequest");

impl ApiServer {
    /// Asks the webhooks about such an object, mutating ones first, and answers with what they made
    /// of it. The caller checks it afterwards.
    pub(in crate::apiserver) async fn ask_about_part(
        &self,
        call: &Call,
        kind: Gvk<'static>,
        mut object: Object,
        old: Option<&Object>,
        params: &WriteParams,
        warnings: &mut Vec<String>,
    ) -> Result<Object, ApiError> {
        if params.asking == Asking::Skip {
            return Ok(object);
        }
        let table = self.hooks.of(call);
        let (group, version, name) = kind;
        let api_version = match group {
            "" => version.to_string(),
            group => format!("{group}/{version}"),
        };
        object.set("apiVersion", api_version.into());
        object.set("kind", name.into());
        if object.name().is_empty() {
            object.set_meta("name", call.name.clone());
        }
        if object.namespace().is_empty() && !call.namespace.is_empty() {
            object.set_meta("namespace", call.namespace.clone());
        }
        let operation = if old.is_some() { Operation::Update } else { Operation::Create };
        let question = Question {
            call,
            operation,
            part: Some(kind),
            old,
            dry_run: params.dry_run,
            options: write_options(params, operation),
        };
        let settle = |object: Object| {
            crate::api::meta::check_types(&object)?;
            Ok(object)
        };
        if let Some(changed) = self.change_by_policies(&question, &object, false, &settle)? {
            object = changed;
        }
        let mut rounds = Rounds::default();
        for round in 0..2 {
            let Some(table) = &table else { break };
            if round == 1 {
                rounds.next(&object);
            }
            let asked = self
                .ask_mutating(table, &question, Some(object), &settle, &mut rounds, warnings)
                .await?;
            object = asked.unwrap_or_else(|| unreachable!("an object went in"));
            if !rounds.changed {
                break;
            }
        }
        self.ask_policies(&question, Some(&object), warnings)?;
        if let Some(table) = table {
            self.ask_validating(&table, &question, Some(&object), warnings).await?;
        }
        Ok(object)
    }

    /// Asks about a connection. Nobody can change it: what they patch has no effect, as upstream's
    /// (the options that it dials with are made of the URL before).
    pub(in crate::apiserver) async fn ask_connect(
        &self,
        question: &Question<'_>,
        options: &Object,
        warnings: &mut Vec<String>,
    ) -> Result<(), ApiError> {
        let table = self.hooks.of(question.call);
        if let Some(table) = &table {
            let mut rounds = Rounds::default();
            let asked = Some(options.clone());
            self.ask_mutating(table, question, asked, &Ok, &mut rounds, warnings).await?;
        }
        self.ask_policies(question, Some(options), warnings)?;
        if let Some(table) = &table {
            self.ask_validating(table, question, Some(options), warnings).await?;
        }
        Ok(())
    }
}
