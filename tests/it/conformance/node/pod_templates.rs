//! `common/node/podtemplates.go`.

use anyhow::Result;
use serde_json::{Value, json};

use crate::conformance::checks::{annotation, count_becomes, counts, is, label, label_patch};
use crate::conformance::{Case, Context, Patch, case};

pub const CASES: &[Case] = &[
    case!("PodTemplates should delete a collection of pod templates", collection),
    case!("PodTemplates should replace a pod template", replace),
    case!("PodTemplates should run the lifecycle of PodTemplates", lifecycle),
];

fn template(name: &str, labels: Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels},
        "template": {"spec": {"containers": [{"name": "nginx", "image": "nginx:v1"}]}}})
}

async fn collection(context: &Context) -> Result<()> {
    let templates = context.own("v1/podtemplates");
    for i in 1..=3 {
        let labels = json!({"podtemplate-set": "true"});
        templates.create(&template(&format!("test-podtemplate-{i}"), labels)).await?;
    }
    counts(&templates.items_labelled("podtemplate-set=true").await?, 3)?;
    templates.delete_collection(&[("labelSelector", "podtemplate-set=true")]).await?;
    count_becomes(&templates, "podtemplate-set=true", 0).await
}

async fn replace(context: &Context) -> Result<()> {
    let templates = context.own("v1/podtemplates");
    let name = context.unique("podtemplate");
    templates.create(&template(&name, json!({}))).await?;
    let change = |template: &mut Value| {
        template["metadata"]["annotations"] = json!({"updated": "true"});
    };
    is(annotation(&templates.update(&name, change).await?, "updated"), "true")
}

async fn lifecycle(context: &Context) -> Result<()> {
    let (templates, everywhere) = (context.own("v1/podtemplates"), context.all("v1/podtemplates"));
    let name = context.unique("nginx-pod-template");
    let selector = "podtemplate-static=true";
    counts(&everywhere.items_labelled(selector).await?, 0)?;
    templates.create(&template(&name, json!({"podtemplate-static": "true"}))).await?;
    is(&templates.get(&name).await?["metadata"]["name"], name.as_str())?;
    templates.patch(&name, Patch::Strategic, &label_patch("podtemplate", "patched")).await?;
    is(label(&templates.get(&name).await?, "podtemplate"), "patched")?;
    templates.delete(&name).await?;
    counts(&everywhere.items_labelled(selector).await?, 0)
}
