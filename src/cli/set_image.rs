//! `wasmctl set image`: changes the images of a workload's containers.

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};

use super::args::{SetArgs, SetWhat};
use super::discovery::text;
use super::printer;
use super::report;
use super::selection::{self, Selected};
use super::session::Session;

pub async fn run(session: &Session, args: &SetArgs) -> anyhow::Result<()> {
    let SetWhat::Image { words } = &args.what;
    let first = words.iter().position(|word| word.contains('=')).unwrap_or(words.len());
    let (what, images) = words.split_at(first);
    let mut changes = Vec::new();
    for word in images {
        changes.push(
            word.split_once('=').with_context(|| format!("{word:?} is not CONTAINER=IMAGE"))?,
        );
    }
    if changes.is_empty() {
        bail!("say which image: CONTAINER=IMAGE, or *=IMAGE for every container");
    }
    let mut failed = Vec::new();
    for one in selection::named(session, what).await? {
        failed.extend(set(session, &one, &changes).await.err());
    }
    report::errors(failed)
}

async fn set(session: &Session, one: &Selected, changes: &[(&str, &str)]) -> anyhow::Result<()> {
    let path = one.path(Some(&session.namespace));
    let object = session.get_json(&path).await?;
    let patch = patch(&object, changes).with_context(|| one.title())?;
    let body = Some(("application/strategic-merge-patch+json", patch.to_string().into_bytes()));
    let query = "fieldManager=wasmctl-set";
    let changed = session.json(Method::PATCH, &format!("{path}?{query}"), body).await?;
    let version = |object| text(object, "/metadata/resourceVersion").to_string();
    let what = if version(&changed) == version(&object) { "unchanged" } else { "updated" };
    Ok(printer::line(&format!("{} image {what}", one.title()))?)
}

/// The strategic merge patch with the new images.
fn patch(object: &Value, changes: &[(&str, &str)]) -> anyhow::Result<Value> {
    let (spec, in_template) = match object.pointer("/spec/template/spec") {
        Some(spec) => (spec, true),
        None => (object.get("spec").unwrap_or(&Value::Null), false),
    };
    let mut patch = json!({});
    let mut known = Vec::new();
    let mut met = vec![false; changes.len()];
    for field in ["initContainers", "containers"] {
        let mut patched = Vec::new();
        for container in spec.get(field).and_then(Value::as_array).into_iter().flatten() {
            let name = text(container, "/name");
            known.push(name);
            for ((wanted, image), met) in changes.iter().zip(&mut met) {
                if *wanted == "*" || *wanted == name {
                    *met = true;
                    patched.push(json!({"name": name, "image": image}));
                }
            }
        }
        if !patched.is_empty() {
            patch[field] = json!(patched);
        }
    }
    if let Some(((wanted, _), _)) = changes.iter().zip(&met).find(|(_, met)| !**met) {
        bail!("there is no container {wanted:?}; there are: {}", known.join(", "));
    }
    Ok(match in_template {
        true => json!({"spec": {"template": {"spec": patch}}}),
        false => json!({"spec": patch}),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_by_container() {
        let pod = json!({"spec": {"initContainers": [{"name": "i", "image": "x"}],
                                  "containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            patch(&pod, &[("b", "y")]).unwrap(),
            json!({"spec": {"containers": [{"name": "b", "image": "y"}]}})
        );
        let deployment = json!({"spec": {"template": pod}});
        assert_eq!(
            patch(&deployment, &[("*", "y")]).unwrap()["spec"]["template"]["spec"],
            json!({"initContainers": [{"name": "i", "image": "y"}],
                   "containers": [{"name": "a", "image": "y"}, {"name": "b", "image": "y"}]})
        );
        let error = patch(&pod, &[("nope", "y")]).unwrap_err().to_string();
        assert_eq!(error, "there is no container \"nope\"; there are: i, a, b");
    }
}
