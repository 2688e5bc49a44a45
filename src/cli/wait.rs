//! `wasmctl wait`: until objects are created, deleted, or have a condition or a value. Each is watched;
//! the time holds for all of them together. What is looked at, and the words, are kubectl's.
//! Source: k8s.io/kubectl pkg/cmd/wait.

use std::time::Duration;

use anyhow::bail;
use jiff::SignedDuration;
use serde_json::Value;
use tokio::time::Instant;

use super::args::{DryRun, WaitArgs};
use super::discovery::text;
use super::report::Report;
use super::session::Session;
use super::targets::{self, Target};
use super::watch;
use crate::api::ApiError;
use crate::api::jsonpath::{Template, plain};

/// What a negative time means: a week.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// For the one look at an object where no time is left to wait for it.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

const PATH_FORM: &str = "jsonpath wait format must be --for=jsonpath='{.status.readyReplicas}'=3 or \
                         --for=jsonpath='{.status.readyReplicas}'";
const PATH_VALUE: &str = "jsonpath wait has to have a value after equal sign, like \
                          --for=jsonpath='{.status.readyReplicas}'=3";
const PATH_TEXT: &str = "unexpected path string, expected a 'name1.name2' or '.name1.name2' or \
                         '{name1.name2}' or '{.name1.name2}'";

/// What is waited for.
#[derive(Debug)]
enum Wanted {
    Created,
    Deleted,
    Condition { name: String, status: String },
    Path { template: Template, value: Option<String> },
}

pub async fn run(session: &Session, args: &WaitArgs) -> anyhow::Result<()> {
    let wanted = Wanted::parse(&args.wanted)?;
    let mut report = Report::new(args.output.as_deref(), DryRun::None)?;
    let limit = match args.timeout < SignedDuration::ZERO {
        true => LONGEST,
        false => args.timeout.unsigned_abs().min(LONGEST),
    };
    let deadline = Instant::now() + limit;
    let targets = targets::resolve(session, &args.targets).await?;
    if targets.is_empty() && !matches!(wanted, Wanted::Deleted) {
        bail!("no matching resources found");
    }
    for target in &targets {
        match wait(session, target, &wanted, limit, deadline).await {
            Ok(Some(object)) => {
                report.done(&target.selected.title(), "condition met", object)?;
            }
            // It was gone before: there was nothing to wait for.
            Ok(None) => {}
            Err(error) => report.fail(error),
        }
    }
    report.finish()
}

/// Answers with the object as it was wanted, or as it was before it was deleted.
async fn wait(
    session: &Session,
    target: &Target,
    wanted: &Wanted,
    limit: Duration,
    deadline: Instant,
) -> anyhow::Result<Option<Value>> {
    let gvr = &target.selected.resource.gvr;
    let name = target.selected.name.as_deref().unwrap_or_default();
    let late = format!("timed out waiting for the condition on {}/{name}", gvr.resource);
    // Those that come after the time is over are looked at, too.
    let looks_once = Instant::now() >= deadline;
    let mut first_seen = None::<Value>;
    let mut is_first = true;
    let look = |live: Option<&Value>| {
        let is_first = std::mem::take(&mut is_first);
        if let (true, Some(live)) = (is_first, live) {
            first_seen = Some(live.clone());
        }
        let met = match (wanted, live) {
            (Wanted::Created, Some(live)) => Some(Some(live.clone())),
            (Wanted::Created, None) => None,
            (Wanted::Deleted, _) => {
                let uid = |object: &Value| text(object, "/metadata/uid").to_string();
                let is_there = live.is_some() && live.map(uid) == first_seen.as_ref().map(uid);
                (!is_there).then(|| first_seen.clone())
            }
            // What is deleted meanwhile may come again.
            (_, None) if is_first => return Err(ApiError::not_found(gvr, name).into()),
            (_, None) => None,
            (_, Some(live)) => wanted.holds(live)?.then(|| Some(live.clone())),
        };
        if met.is_none() && looks_once {
            match limit.is_zero() {
                true => bail!("condition not met for {}/{name}", gvr.resource),
                false => bail!("{late}"),
            }
        }
        Ok(met)
    };
    let until = watch::until(session, &target.selected, target.namespace.as_deref(), look);
    let by = if looks_once { Instant::now() + LOOK_LIMIT } else { deadline };
    match tokio::time::timeout_at(by, until).await {
        Ok(met) => met,
        Err(_) => bail!("{late}"),
    }
}

impl Wanted {
    fn parse(text: &str) -> anyhow::Result<Wanted> {
        match text.to_lowercase().as_str() {
            "create" => return Ok(Wanted::Created),
            "delete" => return Ok(Wanted::Deleted),
            _ => {}
        }
        if let Some(condition) = text.strip_prefix("condition=") {
            let (name, status) = condition.split_once('=').unwrap_or((condition, "true"));
            let (name, status) = (name.to_lowercase(), status.to_lowercase());
            return Ok(Wanted::Condition { name, status });
        }
        match text.strip_prefix("jsonpath=") {
            Some(path) => Wanted::path(path),
            None => bail!("unrecognized condition: {text:?}"),
        }
    }

    fn path(text: &str) -> anyhow::Result<Wanted> {
        let (path, value) = match &split(text)[..] {
            [path] => (path.clone(), None),
            [path, value] => match value.trim_matches(['\'', '"']) {
                "" => bail!(PATH_VALUE),
                value => (path.clone(), Some(value.trim().to_string())),
            },
            _ => bail!(PATH_FORM),
        };
        let inner = path.strip_prefix('{').and_then(|path| path.strip_suffix('}'));
        let path = inner.unwrap_or(&path);
        let path = path.strip_prefix('.').unwrap_or(path);
        if path.contains(['{', '}']) {
            bail!(PATH_TEXT);
        }
        if path.is_empty() {
            bail!("jsonpath expression cannot be empty");
        }
        Ok(Wanted::Path { template: Template::parse(&format!("{{.{path}}}"))?, value })
    }

    /// Whether an object that exists is as wanted.
    fn holds(&self, object: &Value) -> anyhow::Result<bool> {
        match self {
            Wanted::Created => Ok(true),
            Wanted::Deleted => Ok(false),
            Wanted::Condition { name, status } => Ok(has_condition(object, name, status)),
            Wanted::Path { template, value } => {
                let found = match template.find(object)[..] {
                    [] => return Ok(false),
                    [one] => one,
                    _ => bail!("given jsonpath expression matches more than one value"),
                };
                let Some(value) = value else { return Ok(true) };
                if found.is_object() || found.is_array() {
                    bail!("jsonpath leads to a nested object or list which is not supported");
                }
                Ok(plain(found).trim() == value)
            }
        }
    }
}

/// Splits at each `=` that stands alone: `==` is part of a filter.
fn split(text: &str) -> Vec<String> {
    // No text of a command line has a NUL.
    let marked = text.replace("==", "\0");
    marked.split('=').map(|part| part.replace('\0', "==")).collect()
}

/// Whether the condition is there, and as of what the object's spec is now.
fn has_condition(object: &Value, name: &str, status: &str) -> bool {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
    let condition = conditions.into_iter().flatten().find(|condition| {
        text(condition, "/type").to_lowercase() == name
            && condition.get("status").is_some_and(Value::is_string)
    });
    let Some(condition) = condition else { return false };
    let number = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_i64);
    let seen = number(condition, "/observedGeneration")
        .or_else(|| number(object, "/status/observedGeneration"));
    let is_old = match (seen, number(object, "/metadata/generation")) {
        (Some(seen), Some(generation)) => seen < generation,
        _ => false,
    };
    !is_old && text(condition, "/status").to_lowercase() == status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(text: &str) -> String {
        Wanted::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn what_is_waited_for_is_said_as_to_kubectl() {
        assert!(matches!(Wanted::parse("Delete").unwrap(), Wanted::Deleted));
        assert!(matches!(Wanted::parse("create").unwrap(), Wanted::Created));
        for text in ["jsonpath=.a=b", "jsonpath={.a}", "jsonpath={.a[?(@.b==\"c\")].d}=e"] {
            assert!(matches!(Wanted::parse(text).unwrap(), Wanted::Path { .. }), "{text}");
        }
        for text in ["", "foo", "condition"] {
            assert_eq!(refusal(text), format!("unrecognized condition: {text:?}"));
        }
        assert_eq!(refusal("jsonpath="), "jsonpath expression cannot be empty");
        assert_eq!(refusal("jsonpath={.a}=b=c"), PATH_FORM);
        for text in ["jsonpath={.a}=", "jsonpath={.a}=''"] {
            assert_eq!(refusal(text), PATH_VALUE);
        }
        for text in ["jsonpath={.a", "jsonpath={.a}{.b}", "jsonpath='{.a}'='b'"] {
            assert_eq!(refusal(text), PATH_TEXT);
        }
    }

    #[test]
    fn conditions_are_as_of_the_present_spec() {
        let holds =
            |text: &str, object: &Value| Wanted::parse(text).unwrap().holds(object).unwrap();
        let mut object = json!({"metadata": {"generation": 2}, "status": {"conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Idle", "status": "False"}]}});
        assert!(holds("condition=ready", &object) && holds("condition=Ready=TRUE", &object));
        assert!(holds("condition=Idle=false", &object) && !holds("condition=Idle", &object));
        assert!(!holds("condition=Other", &object) && !holds("condition=Ready", &json!({})));
        object["status"]["observedGeneration"] = json!(1);
        assert!(!holds("condition=Ready", &object));
        object["status"]["conditions"][0]["observedGeneration"] = json!(2);
        assert!(holds("condition=Ready", &object) && !holds("condition=Idle=False", &object));
    }

    #[test]
    fn values_are_single_and_plain() {
        let object = json!({"status": {"phase": "Running", "ready": 3, "ok": true,
            "list": [{"a": 1}, {"a": 2}]}});
        let holds = |path: &str| {
            let wanted = Wanted::parse(&format!("jsonpath={path}")).unwrap();
            wanted.holds(&object).map_err(|error| error.to_string())
        };
        for path in ["{.status.phase}=Running", "{.status.ready}=3", "status.ok=true", "{.status}"]
        {
            assert_eq!(holds(path), Ok(true), "{path}");
        }
        for path in ["{.status.phase}=Failed", "{.status.none}", "{.status.none}=1"] {
            assert_eq!(holds(path), Ok(false), "{path}");
        }
        assert_eq!(holds("{.status.list[?(@.a==2)].a}=2"), Ok(true));
        assert!(holds("{.status.list[*].a}=1").unwrap_err().contains("more than one value"));
        assert!(holds("{.status.list}=1").unwrap_err().contains("nested object or list"));
    }
}
