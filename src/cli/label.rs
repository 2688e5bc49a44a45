//! `wasmctl label` and `wasmctl annotate`: `KEY=VALUE` sets, `KEY-` removes.

use anyhow::bail;
use http::Method;
use serde_json::{Map, Value, json};

use super::args::LabelArgs;
use super::discovery::text;
use super::printer;
use super::report;
use super::selection::{self, Selected};
use super::session::Session;
use crate::client::remote::Query;

/// Which of the two maps of an object's metadata.
#[derive(Clone, Copy)]
pub enum What {
    Labels,
    Annotations,
}

impl What {
    fn field(self) -> &'static str {
        match self {
            What::Labels => "labels",
            What::Annotations => "annotations",
        }
    }

    fn done(self) -> &'static str {
        match self {
            What::Labels => "labeled",
            What::Annotations => "annotated",
        }
    }
}

/// A key, and its new value or none.
type Change<'a> = (&'a str, Option<&'a str>);

pub async fn run(session: &Session, args: &LabelArgs, what: What) -> anyhow::Result<()> {
    let (words, changes) = split(&args.words)?;
    let mut failed = Vec::new();
    for one in select(session, args, words).await? {
        failed.extend(change(session, args, what, &one, &changes).await.err());
    }
    report::errors(failed)
}

/// Objects come first, changes after them.
fn split(words: &[String]) -> anyhow::Result<(&[String], Vec<Change<'_>>)> {
    let change = |word: &String| word.contains('=') || word.ends_with('-');
    let first = words.iter().position(change).unwrap_or(words.len());
    let (what, changes) = words.split_at(first);
    let mut parsed: Vec<Change> = Vec::new();
    for word in changes {
        let (key, value) = match (word.split_once('='), word.strip_suffix('-')) {
            (Some((key, value)), _) => (key, Some(value)),
            (None, Some(key)) => (key, None),
            (None, None) => bail!("{word:?} is neither KEY=VALUE nor KEY-; objects come first"),
        };
        if key.is_empty() {
            bail!("{word:?} has no key");
        }
        if parsed.iter().any(|(known, _)| *known == key) {
            bail!("the key {key:?} is given twice");
        }
        parsed.push((key, value));
    }
    if parsed.is_empty() {
        bail!("say what to change: KEY=VALUE to set, or KEY- to remove");
    }
    Ok((what, parsed))
}

async fn select(
    session: &Session,
    args: &LabelArgs,
    words: &[String],
) -> anyhow::Result<Vec<Selected>> {
    if args.selector.is_none() && !args.all {
        return selection::named(session, words).await;
    }
    let mut selected = Vec::new();
    for one in selection::resolve(session, words).await? {
        if one.name.is_some() {
            bail!("a name cannot be given with -l or --all");
        }
        let mut query = Query::default();
        query.add("labelSelector", args.selector.as_deref().unwrap_or_default());
        selected.extend(selection::members(session, &one, &query).await?);
    }
    if selected.is_empty() {
        printer::nothing_found(Some(&session.namespace));
    }
    Ok(selected)
}

async fn change(
    session: &Session,
    args: &LabelArgs,
    what: What,
    one: &Selected,
    changes: &[Change<'_>],
) -> anyhow::Result<()> {
    let path = one.path(Some(&session.namespace));
    let live = session.get_json(&path).await?;
    let patch = patch(&live, what, changes, args.overwrite)?;
    let body = Some(("application/merge-patch+json", patch.to_string().into_bytes()));
    let query = "fieldManager=wasmctl-label";
    let changed = session.json(Method::PATCH, &format!("{path}?{query}"), body).await?;
    let version = |object| text(object, "/metadata/resourceVersion").to_string();
    let same = version(&live) == version(&changed);
    let done = if same { format!("not {}", what.done()) } else { what.done().to_string() };
    Ok(printer::line(&format!("{} {done}", one.title()))?)
}

fn patch(
    live: &Value,
    what: What,
    changes: &[Change<'_>],
    overwrite: bool,
) -> anyhow::Result<Value> {
    let empty = Map::new();
    let now = live.pointer(&format!("/metadata/{}", what.field())).and_then(Value::as_object);
    let now = now.unwrap_or(&empty);
    let mut map = Map::new();
    for (key, value) in changes {
        if let (Some(old), Some(new)) = (now.get(*key).and_then(Value::as_str), value)
            && old != *new
            && !overwrite
        {
            bail!("{key:?} already has a value ({old}), and --overwrite is false");
        }
        map.insert(key.to_string(), json!(value));
    }
    // Without a version: heartbeats change nodes all the time, and are no conflict with this.
    Ok(json!({"metadata": {what.field(): map}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_string).collect()
    }

    #[test]
    fn objects_then_changes() {
        let all = words("pod a b x=1 y=a=b z-");
        let (what, changes) = split(&all).unwrap();
        assert_eq!(what, ["pod", "a", "b"]);
        assert_eq!(changes, [("x", Some("1")), ("y", Some("a=b")), ("z", None)]);
        assert!(split(&words("pod a")).unwrap_err().to_string().contains("KEY=VALUE"));
        assert!(
            split(&words("pod a x=1 b")).unwrap_err().to_string().contains("objects come first")
        );
        assert!(split(&words("pod a x=1 x-")).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn values_are_replaced_only_on_demand() {
        let live = json!({"metadata": {"labels": {"x": "1"}}});
        let patch = |changes: &[Change], overwrite| {
            patch(&live, What::Labels, changes, overwrite).map_err(|e| e.to_string())
        };
        assert_eq!(
            patch(&[("x", Some("2"))], false).unwrap_err(),
            "\"x\" already has a value (1), and --overwrite is false"
        );
        assert_eq!(
            patch(&[("x", Some("2")), ("y", None)], true).unwrap(),
            json!({"metadata": {"labels": {"x": "2", "y": null}}})
        );
        assert_eq!(
            patch(&[("x", None)], false).unwrap(),
            json!({"metadata": {"labels": {"x": null}}})
        );
    }
}
