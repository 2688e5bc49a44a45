//! Short assertions of cases, which tell the line that they stand in, and steps that many cases
//! share.

use std::panic::Location;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::operations::version;
use super::{Collection, Failure, Watch, eventually};

/// Fails unless the value is this one.
#[track_caller]
pub fn is(have: &Value, want: impl Into<Value>) -> Result<()> {
    let (want, place) = (want.into(), Location::caller());
    ensure!(*have == want, "{place}: {have}; expected: {want}");
    Ok(())
}

/// Fails unless it holds.
#[track_caller]
pub fn holds(condition: bool, what: &str) -> Result<()> {
    let place = Location::caller();
    ensure!(condition, "{place}: not so: {what}");
    Ok(())
}

/// Fails unless a list has so many items.
#[track_caller]
pub fn counts(items: &[Value], count: usize) -> Result<()> {
    let (names, place): (Vec<_>, _) = (items.iter().map(name).collect(), Location::caller());
    ensure!(items.len() == count, "{place}: {names:?}; expected: {count} of them");
    Ok(())
}

/// Fails unless `new` is a later version of an object than `old` (KEP-5504).
#[track_caller]
pub fn is_later(new: &Value, old: &Value) -> Result<()> {
    let (new, old, place) = (version(new), version(old), Location::caller());
    ensure!(old > 0 && new > old, "{place}: version {new} is not later than {old}");
    Ok(())
}

/// Whether each of these is a line of a text.
pub fn has_lines(text: &str, lines: &[&str]) -> Result<()> {
    for line in lines {
        ensure!(text.lines().any(|found| found == *line), "no line {line:?} in:\n{text}");
    }
    Ok(())
}

pub fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn namespace(object: &Value) -> &str {
    object["metadata"]["namespace"].as_str().unwrap_or_default()
}

pub fn label<'a>(object: &'a Value, key: &str) -> &'a Value {
    &object["metadata"]["labels"][key]
}

pub fn annotation<'a>(object: &'a Value, key: &str) -> &'a Value {
    &object["metadata"]["annotations"][key]
}

/// A label, as a merge or strategic merge patch.
pub fn label_patch(key: &str, value: &str) -> Value {
    json!({"metadata": {"labels": {key: value}}})
}

/// The code of a refusal, or an error where there was none.
#[track_caller]
pub fn is_refused(result: Result<Value>, codes: &[u16]) -> Result<Failure> {
    let place = Location::caller();
    let failure = match result {
        Ok(object) => anyhow::bail!("{place}: accepted: {object}; expected: one of {codes:?}"),
        Err(error) => error.downcast::<Failure>()?,
    };
    ensure!(codes.contains(&failure.code), "{place}: {failure}; expected: one of {codes:?}");
    Ok(failure)
}

/// Waits until so many objects have a label; "" stands for all objects.
pub async fn count_becomes(objects: &Collection, selector: &str, count: usize) -> Result<()> {
    let what = format!("{count} objects with {selector:?} in {}", objects.path);
    eventually(&what, async || {
        let found = objects.items_labelled(selector).await?.len();
        Ok((found == count).then_some(()))
    })
    .await
}

/// Until the object of an update shows; other events may come before it.
pub async fn is_seen(watch: &mut Watch, kind: &str, object: &Value) -> Result<()> {
    let wanted = version(object);
    watch.until(kind, |seen| name(seen) == name(object) && version(seen) >= wanted).await?;
    Ok(())
}
