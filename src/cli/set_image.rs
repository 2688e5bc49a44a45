//! `wasmctl set image`: changes the images of a workload's containers.

use anyhow::{Context, bail};
use http::Method;
use serde_json::{Value, json};

use super::args::{SetArgs, SetWhat};
use super::discovery::text;
use super::printer;
use super::selection;
use super::session::Session;

pub async fn run(session: &Session, args: &SetArgs) -> anyhow::Result<()> {
    let SetWhat::Image { what, images } = &args.what;
    let selected = selection::named(session, std::slice::from_ref(what)).await?;
    let one = selected.first().context("nothing selected")?;
    let path = one.path(Some(&session.namespace));
    let object = session.get_json(&path).await?;
    let (spec, in_template) = match object.pointer("/spec/template/spec") {
        Some(spec) => (spec, true),
        None => (object.get("spec").unwrap_or(&Value::Null), false),
    };
    let names: Vec<&str> = spec
        .get("containers")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|container| text(container, "/name"))
        .collect();
    let mut containers = Vec::new();
    for word in images {
        let (name, image) =
            word.split_once('=').with_context(|| format!("{word:?} is not CONTAINER=IMAGE"))?;
        let matching: Vec<&&str> = names.iter().filter(|n| name == "*" || **n == name).collect();
        if matching.is_empty() {
            bail!("{} has no container {name:?}; it has {}", one.title(), names.join(", "));
        }
        containers.extend(matching.iter().map(|name| json!({"name": name, "image": image})));
    }
    let spec = json!({"containers": containers});
    let patch = match in_template {
        true => json!({"spec": {"template": {"spec": spec}}}),
        false => json!({"spec": spec}),
    };
    let body = Some(("application/strategic-merge-patch+json", patch.to_string().into_bytes()));
    session.json(Method::PATCH, &format!("{path}?fieldManager=wasmctl-set"), body).await?;
    Ok(printer::line(&format!("{} image updated", one.title()))?)
}
