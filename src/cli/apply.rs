//! `wasmctl apply`: makes objects be as files say.

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Map, Value};

use super::args::{ApplyArgs, DryRun};
use super::manifest::{self, Manifest};
use super::printer;
use super::report::Report;
use super::selection::title;
use super::session::Session;
use super::three_way::{self, LAST_APPLIED};
use crate::api::Object;
use crate::client::Target;
use crate::client::remote::Query;

const MANAGER: &str = "wasmctl-apply";

/// Applies every object; the first error does not keep the rest from being applied.
pub async fn run(session: &Session, args: &ApplyArgs) -> anyhow::Result<()> {
    if args.server_side {
        bail!(
            "--server-side is not supported yet by the API server; without it wasmctl merges what \
             changed in the file since the last apply"
        );
    }
    let files = &args.files;
    let mut report = Report::of(&files.outcome)?;
    for manifest in manifest::read(&files.filename, files.recursive)? {
        let source = manifest.source.clone();
        match apply(session, manifest, files.outcome.dry_run()).await {
            Ok(applied) => report.done(&applied.title, applied.what, applied.object)?,
            Err(error) => report.fail(error.context(source)),
        }
    }
    report.finish()
}

struct Applied {
    title: String,
    what: &'static str,
    object: Value,
}

async fn apply(
    session: &Session,
    mut manifest: Manifest,
    dry_run: DryRun,
) -> anyhow::Result<Applied> {
    let (resource, target) = manifest.locate(session).await?;
    target.name.as_ref().context("the object has no metadata.name, which apply needs")?;
    let mut object = manifest.object;
    let title = title(&resource, object.name());
    note_last_applied(&mut object)?;
    let live = match session.object(Method::GET, &target.path(), None).await {
        Ok(live) => Some(live),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let mut query = Query::default();
    query.add("fieldManager", MANAGER);
    query.add("fieldValidation", "Strict");
    dry_run.add_to(&mut query);
    let (object, what) = match live {
        Some(_) if dry_run == DryRun::Client => (object, "configured"),
        None if dry_run == DryRun::Client => (object, "created"),
        Some(live) => {
            if !live.annotations().contains_key(LAST_APPLIED) {
                printer::note(&format!(
                    "Warning: {title} was not made by apply: fields that it has and the file has \
                     not stay as they are"
                ));
            }
            change(session, &target, &query, &live, object).await?
        }
        None => {
            let path = query.on(&target.collection().path());
            let body = Some(("application/json", object.to_json()));
            (session.object(Method::POST, &path, body).await?, "created")
        }
    };
    Ok(Applied { title, what, object: object.into_value() })
}

/// Keeps the file in an annotation, so that the next apply knows what has left it. It has the very
/// text that kubectl writes, so that neither program takes the other's apply for a change.
fn note_last_applied(object: &mut Object) -> anyhow::Result<()> {
    let annotations =
        object.meta_mut().entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if annotations.is_null() {
        *annotations = Value::Object(Map::new());
    }
    annotations.as_object_mut().context("metadata.annotations is not a map")?.remove(LAST_APPLIED);
    // Maps are sorted by their keys.
    let text = serde_json::to_string(&object.clone().into_value())? + "\n";
    if let Some(Value::Object(annotations)) = object.meta_mut().get_mut("annotations") {
        annotations.insert(LAST_APPLIED.into(), Value::String(text));
    }
    Ok(())
}

async fn change(
    session: &Session,
    target: &Target,
    query: &Query,
    live: &Object,
    object: Object,
) -> anyhow::Result<(Object, &'static str)> {
    let annotations = live.annotations();
    let last = match annotations.get(LAST_APPLIED) {
        Some(text) => serde_json::from_str(text).unwrap_or(Value::Null),
        None => Value::Null,
    };
    let kind = object.kind().to_string();
    let (content_type, mut patch) =
        three_way::patch(&target.resource, &kind, &last, &object.into_value());
    // A file that was written by `get -o yaml` must not fail for its age.
    if let Some(Value::Object(metadata)) = patch.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    let body = Some((content_type, serde_json::to_vec(&patch)?));
    let result = session.object(Method::PATCH, &query.on(&target.path()), body).await?;
    Ok((result.clone(), if same(live, result) { "unchanged" } else { "configured" }))
}

/// A write that changes nothing leaves the version; a dry run leaves it in any case, so all is
/// compared.
fn same(live: &Object, mut result: Object) -> bool {
    let mut live = live.clone();
    for object in [&mut live, &mut result] {
        object.meta_mut().remove("resourceVersion");
        object.meta_mut().remove("managedFields");
    }
    live == result
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_last_applied_file_is_noted_in_kubectls_words() {
        let file = json!({"kind": "ConfigMap", "apiVersion": "v1", "data": {"x": "1"},
            "metadata": {"namespace": "n", "name": "a", "annotations": {LAST_APPLIED: "old"}}});
        let mut object = Object::from_value(file).unwrap();
        note_last_applied(&mut object).unwrap();
        assert_eq!(
            object.annotations()[LAST_APPLIED],
            concat!(
                r#"{"apiVersion":"v1","data":{"x":"1"},"kind":"ConfigMap","#,
                r#""metadata":{"annotations":{},"name":"a","namespace":"n"}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn unchanged_is_what_differs_in_its_version_only() {
        let object = |version: &str, data: &str| {
            let value = json!({"metadata": {"resourceVersion": version}, "data": {"x": data}});
            Object::from_value(value).unwrap()
        };
        assert!(same(&object("1", "a"), object("2", "a")));
        assert!(!same(&object("1", "a"), object("1", "b")));
    }
}
