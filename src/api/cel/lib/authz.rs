//! What a user may do (k8s.io/apiserver/pkg/cel/library/authz.go): a check is put together step by
//! step, and the evaluation's [`Authorizer`] decides it.

use std::any::Any;

use crate::api::cel::cost::{self, text};
use crate::api::cel::eval::{Error, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::{Opaque, Value};
use crate::api::names::{is_dns1123_label, is_dns1123_subdomain};

/// The type of the variable `authorizer`.
pub const AUTHORIZER: &str = "kubernetes.authorization.Authorizer";
/// The type of `authorizer.requestResource`, with AUTHORIZER's field.
pub const RESOURCE_CHECK: &str = "kubernetes.authorization.ResourceCheck";

/// Decides checks.
pub trait Authorizer {
    fn decide(&self, check: &Check) -> Decision;
}

/// What is asked. Without a path, it is about resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Namespace and name, if it is not the user of the request who is asked about.
    pub service_account: Option<(String, String)>,
    pub path: String,
    pub verb: String,
    pub group: String,
    pub resource: String,
    pub subresource: String,
    pub namespace: String,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub allowed: bool,
    pub reason: String,
}

/// How much of a check is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Authorizer,
    Path,
    Group,
    Resource,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Asking {
    stage: Stage,
    check: Check,
}

impl Opaque for Asking {
    fn type_name(&self) -> &'static str {
        match self.stage {
            Stage::Authorizer => AUTHORIZER,
            Stage::Path => "kubernetes.authorization.PathCheck",
            Stage::Group => "kubernetes.authorization.GroupCheck",
            Stage::Resource => RESOURCE_CHECK,
        }
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Opaque for Decision {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref() == Some(self)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The variable `authorizer`.
pub fn authorizer() -> Value {
    Value::opaque(Asking { stage: Stage::Authorizer, check: Check::default() })
}

/// The variable `authorizer.requestResource`: a check about what the request is about.
pub fn about(check: Check) -> Value {
    Value::opaque(Asking { stage: Stage::Resource, check })
}

/// The next step of a check.
fn step(args: &[Value], stage: Stage, set: fn(&mut Check, String)) -> Result<Value, Error> {
    let [asking, Value::String(value)] = args else { return Err(no_overload()) };
    let Asking { check, .. } = asking.is::<Asking>().ok_or_else(no_overload)?;
    let mut check = check.clone();
    set(&mut check, value.to_string());
    Ok(Value::opaque(Asking { stage, check }))
}

fn wanted(args: &[Value], what: &str) -> Result<(), Error> {
    let text = args.get(1).and_then(Value::as_str).unwrap_or_default();
    if text.trim().is_empty() {
        Err(Error::new(format!("{what} must not be empty")))
    } else {
        Ok(())
    }
}

fn decision(args: &[Value]) -> Result<&Decision, Error> {
    args.first().and_then(Value::is::<Decision>).ok_or_else(no_overload)
}

macro_rules! typed {
    ($text:literal) => {
        concat!(
            "(kubernetes.authorization.ResourceCheck).",
            $text,
            "(string) -> kubernetes.authorization.ResourceCheck"
        )
    };
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(
            "(kubernetes.authorization.Authorizer).path(string) \
             -> kubernetes.authorization.PathCheck",
            Cost::One,
            |_, a| {
                wanted(a, "path")?;
                step(a, Stage::Path, |check, path| check.path = path)
            },
        ),
        row(
            "(kubernetes.authorization.Authorizer).group(string) \
             -> kubernetes.authorization.GroupCheck",
            Cost::One,
            |_, a| step(a, Stage::Group, |check, group| check.group = group),
        ),
        row(
            "(kubernetes.authorization.Authorizer).serviceAccount(string, string) \
             -> kubernetes.authorization.Authorizer",
            Cost::One,
            native!([asking, Value::String(namespace), Value::String(name)] => {
                let Asking { check, .. } = asking.is::<Asking>().ok_or_else(no_overload)?;
                if !is_dns1123_subdomain(name).is_empty() {
                    return Err(Error::new("Invalid service account name"));
                }
                if !is_dns1123_label(namespace).is_empty() {
                    return Err(Error::new("Invalid service account namespace"));
                }
                let service_account = Some((namespace.to_string(), name.to_string()));
                let check = Check { service_account, ..check.clone() };
                Ok(Value::opaque(Asking { stage: Stage::Authorizer, check }))
            }),
        ),
        row(
            "(kubernetes.authorization.GroupCheck).resource(string) \
             -> kubernetes.authorization.ResourceCheck",
            Cost::One,
            |_, a| {
                wanted(a, "resource")?;
                step(a, Stage::Resource, |check, resource| check.resource = resource)
            },
        ),
        row(typed!("subresource"), Cost::One, |_, a| {
            step(a, Stage::Resource, |check, value| check.subresource = value)
        }),
        row(typed!("namespace"), Cost::One, |_, a| {
            step(a, Stage::Resource, |check, value| check.namespace = value)
        }),
        row(typed!("name"), Cost::One, |_, a| {
            step(a, Stage::Resource, |check, value| check.name = value)
        }),
    ];
    // Roles here decide without looking at selectors, so a check with one is the check without.
    for signature in [typed!("fieldSelector"), typed!("labelSelector")] {
        rows.push(row(
            signature,
            Cost::Own,
            native!(run, [asking, Value::String(selector)] => {
                run.meter.charge(cost::LIST + text(selector.len() as u64))?;
                Ok(asking.clone())
            }),
        ));
    }
    rows.extend(decisions());
    rows
}

fn decisions() -> Vec<Row> {
    let checks = [
        "(kubernetes.authorization.PathCheck).check(string) -> kubernetes.authorization.Decision",
        "(kubernetes.authorization.ResourceCheck).check(string) \
         -> kubernetes.authorization.Decision",
    ];
    let check = |signature| {
        row(
            signature,
            Cost::Own,
            native!(run, [asking, Value::String(verb)] => {
                run.meter.charge(cost::AUTHORIZE)?;
                let Asking { check, .. } = asking.is::<Asking>().ok_or_else(no_overload)?;
                let check = Check { verb: verb.to_string(), ..check.clone() };
                let authorizer = run.authorizer.ok_or_else(|| Error::new("nobody authorizes here"))?;
                Ok(Value::opaque(authorizer.decide(&check)))
            }),
        )
    };
    let mut rows: Vec<Row> = checks.into_iter().map(check).collect();
    rows.extend([
        row("(kubernetes.authorization.Decision).allowed() -> bool", Cost::One, |_, a| {
            Ok(Value::Bool(decision(a)?.allowed))
        }),
        row("(kubernetes.authorization.Decision).reason() -> string", Cost::One, |_, a| {
            Ok(Value::string(decision(a)?.reason.as_str()))
        }),
        // Roles are in memory: looking at them never fails.
        row("(kubernetes.authorization.Decision).errored() -> bool", Cost::One, |_, a| {
            decision(a).map(|_| Value::Bool(false))
        }),
        row("(kubernetes.authorization.Decision).error() -> string", Cost::One, |_, a| {
            decision(a).map(|_| Value::string(""))
        }),
    ]);
    rows
}
