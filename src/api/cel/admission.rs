//! The variables that admission policies and conditions of webhooks share
//! (k8s.io/apiserver/pkg/admission/plugin/cel), and conditions themselves.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::convert::untyped;
use super::cost::{Budget, MATCH_CONDITIONS_BUDGET};
use super::env::Env;
use super::eval::Variables;
use super::lib::authz::{self, AUTHORIZER, Authorizer, Check, RESOURCE_CHECK};
use super::program::{CompileError, Program};
use super::types::{Struct, Type};
use super::value::{Key, Value};

/// Which variables there are beside `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Declared {
    pub params: bool,
    pub authorizer: bool,
}

/// What an expression is evaluated on.
#[derive(Clone, Debug, Default)]
pub struct Inputs<'a> {
    /// None on deletion.
    pub object: Option<&'a Json>,
    /// None on creation.
    pub old_object: Option<&'a Json>,
    /// The AdmissionRequest without its objects.
    pub request: Option<&'a Json>,
    pub params: Option<&'a Json>,
    /// None for what is in no namespace.
    pub namespace: Option<&'a Json>,
    /// What the request itself is about: `authorizer.requestResource`.
    pub resource: Check,
}

/// Conditions, compiled: all of them must hold.
#[derive(Clone, Debug, Default)]
pub struct Conditions(Vec<(String, Program)>);

/// What conditions came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Matched {
    Yes,
    /// This condition does not hold.
    No(String),
    /// None says no, and one could not be decided.
    Failed(String),
}

/// What expressions may name; objects have the given types, or any.
pub fn env(declared: Declared, object: Type, params: Type) -> Env {
    let mut env = Env::new()
        .with("object", object.clone())
        .with("oldObject", object)
        .with("request", request_type())
        .with("namespaceObject", namespace_type());
    if declared.params {
        env = env.with("params", params);
    }
    if declared.authorizer {
        env = env
            .with("authorizer", Type::Opaque(AUTHORIZER))
            .with("authorizer.requestResource", Type::Opaque(RESOURCE_CHECK));
    }
    env
}

/// The env of `matchConditions` of webhooks.
pub fn webhook_env() -> Env {
    env(Declared { params: false, authorizer: true }, Type::Dyn, Type::Dyn)
}

/// The variables' values. Those that an env does not declare do no harm.
pub fn variables(inputs: &Inputs) -> BTreeMap<String, Value> {
    let or_null = |json: Option<&Json>| json.map_or(Value::Null, untyped);
    let pairs = [
        ("object", or_null(inputs.object)),
        ("oldObject", or_null(inputs.old_object)),
        ("request", or_null(inputs.request)),
        ("params", or_null(inputs.params)),
        ("namespaceObject", inputs.namespace.map_or(Value::Null, namespace_value)),
        ("authorizer", authz::authorizer()),
        ("authorizer.requestResource", authz::about(inputs.resource.clone())),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_string(), value)).collect()
}

impl Conditions {
    /// Names with their expressions.
    ///
    /// # Errors
    /// The index of the first one that is no condition, and why.
    pub fn compile<'a>(
        conditions: impl IntoIterator<Item = (&'a str, &'a str)>,
        env: &Env,
    ) -> Result<Conditions, (usize, CompileError)> {
        let compile = |(index, (name, expression)): (usize, (&str, &str))| {
            let program = Program::compile_as(expression, env, &[Type::Bool]);
            program.map(|program| (name.to_string(), program)).map_err(|error| (index, error))
        };
        conditions.into_iter().enumerate().map(compile).collect::<Result<_, _>>().map(Conditions)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One that says no decides, whatever the others came to
    /// (k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions/matcher.go).
    pub fn matched(
        &self,
        variables: &dyn Variables,
        authorizer: Option<&dyn Authorizer>,
    ) -> Matched {
        let mut budget = Budget::new(MATCH_CONDITIONS_BUDGET);
        let mut failed = None;
        for (name, program) in &self.0 {
            match program.run(variables, authorizer, &mut budget) {
                Ok(Value::Bool(true)) => {}
                Ok(Value::Bool(false)) => return Matched::No(name.clone()),
                Ok(_) => {
                    failed.get_or_insert_with(|| format!("condition {name:?} is no bool"));
                }
                Err(error) => {
                    let source = program.source();
                    failed.get_or_insert_with(|| {
                        format!("expression '{source}' resulted in error: {error}")
                    });
                    if error.is_cost() {
                        break;
                    }
                }
            }
        }
        failed.map_or(Matched::Yes, Matched::Failed)
    }
}

fn request_type() -> Type {
    let text = || Type::String;
    let texts = || Type::list(Type::String);
    let kind = |name: &str, last: &str| {
        Struct::of(name, &[("group", text()), ("version", text()), (last, text())])
    };
    let user = [
        ("username", text()),
        ("uid", text()),
        ("groups", texts()),
        ("extra", Type::map(Type::String, texts())),
    ];
    let fields = [
        ("kind", kind("kubernetes.GroupVersionKind", "kind")),
        ("resource", kind("kubernetes.GroupVersionResource", "resource")),
        ("subResource", text()),
        ("requestKind", kind("kubernetes.GroupVersionKind", "kind")),
        ("requestResource", kind("kubernetes.GroupVersionResource", "resource")),
        ("requestSubResource", text()),
        ("name", text()),
        ("namespace", text()),
        ("operation", text()),
        ("userInfo", Struct::of("kubernetes.UserInfo", &user)),
        ("dryRun", Type::Bool),
        ("options", Type::Dyn),
    ];
    Struct::of("kubernetes.AdmissionRequest", &fields)
}

fn namespace_type() -> Type {
    let text = || Type::String;
    let texts = || Type::map(Type::String, Type::String);
    let metadata = [
        ("name", text()),
        ("generateName", text()),
        ("namespace", text()),
        ("labels", texts()),
        ("annotations", texts()),
        ("UID", text()),
        ("creationTimestamp", Type::Timestamp),
        ("deletionGracePeriodSeconds", Type::Int),
        ("deletionTimestamp", Type::Timestamp),
        ("generation", Type::Int),
        ("resourceVersion", text()),
        ("finalizers", Type::list(Type::String)),
    ];
    let condition = [
        ("status", text()),
        ("type", text()),
        ("lastTransitionTime", Type::Timestamp),
        ("message", text()),
        ("reason", text()),
    ];
    let condition = Struct::of("kubernetes.NamespaceCondition", &condition);
    let status = [("conditions", Type::list(condition)), ("phase", text())];
    let spec = [("finalizers", Type::list(Type::String))];
    let fields = [
        ("metadata", Struct::of("kubernetes.NamespaceMetadata", &metadata)),
        ("spec", Struct::of("kubernetes.NamespaceSpec", &spec)),
        ("status", Struct::of("kubernetes.NamespaceStatus", &status)),
    ];
    Struct::of("kubernetes.Namespace", &fields)
}

/// A Namespace with its times as times.
fn namespace_value(json: &Json) -> Value {
    timed(untyped(json))
}

/// Fields that end like times become times.
fn timed(value: Value) -> Value {
    match value {
        Value::Map(map) => {
            let pairs = map.entries().iter().map(|(key, value)| {
                let Key::String(name) = key else { return (key.clone(), value.clone()) };
                let time = match value {
                    Value::String(text) if name.ends_with("imestamp") || name.ends_with("Time") => {
                        text.parse().ok().map(Value::Timestamp)
                    }
                    Value::Map(_) | Value::List(_)
                        if !matches!(&**name, "labels" | "annotations") =>
                    {
                        Some(timed(value.clone()))
                    }
                    _ => None,
                };
                let name = if &**name == "uid" { "UID".into() } else { name.clone() };
                (Key::String(name), time.unwrap_or_else(|| value.clone()))
            });
            Value::map(pairs.collect())
        }
        Value::List(list) => Value::list(list.items().iter().cloned().map(timed).collect()),
        other => other,
    }
}
