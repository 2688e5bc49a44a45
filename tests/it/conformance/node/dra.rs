//! `dra/dra.go` and the generic test behind it, `framework/conformance/conformance.go`: all verbs
//! of a resource, and what two watches (of the namespace and of all) see of each.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use crate::conformance::checks::{counts, is, is_later, name, namespace};
use crate::conformance::operations::{gone, version};
use crate::conformance::{Case, Collection, Context, Patch, Watch, case};

pub const CASES: &[Case] = &[
    case!("[DRA] CRUD Tests resource.k8s.io/v1 DeviceClass", device_class),
    case!("[DRA] CRUD Tests resource.k8s.io/v1 ResourceClaim", resource_claim),
    case!("[DRA] CRUD Tests resource.k8s.io/v1 ResourceClaimTemplate", resource_claim_template),
    case!("[DRA] CRUD Tests resource.k8s.io/v1 ResourceSlice", resource_slice),
];

const LABEL: &str = "e2e-test.kubernetes.io";

/// What updates and what patches the status.
type StatusWrites = (fn(&mut Value), Vec<(Patch, Value)>);

struct Subject {
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    initial: Value,
    update: fn(&mut Value),
    patches: Vec<(Patch, Value)>,
    status: Option<StatusWrites>,
}

async fn device_class(context: &Context) -> Result<()> {
    let selector = |text: &str| json!({"spec": {"selectors": [{"cel": {"expression": text}}]}});
    let update = |class: &mut Value| {
        class["spec"]["selectors"][0]["cel"]["expression"] = "1 == 0".into();
    };
    let subject = Subject {
        plural: "deviceclasses",
        kind: "DeviceClass",
        namespaced: false,
        initial: selector("false"),
        update,
        patches: vec![(Patch::Strategic, selector("1 == 0"))],
        status: None,
    };
    all_verbs(context, subject).await
}

fn claim_spec() -> Value {
    json!({"devices": {"requests": [
        {"name": "req-0", "exactly": {"deviceClassName": "dra.example.com"}}]}})
}

/// The spec of claims cannot change.
fn add_label(object: &mut Value) {
    object["metadata"]["labels"]["test.dra.example.com"] = "test".into();
}

async fn resource_claim(context: &Context) -> Result<()> {
    let label = json!({"metadata": {"labels": {"test.dra.example.com": "test"}}});
    let add = |path: &str, value: Value| json!([{"op": "add", "path": path, "value": value}]);
    let allocation = json!({"status": {"allocation": {}}});
    let subject = Subject {
        plural: "resourceclaims",
        kind: "ResourceClaim",
        namespaced: true,
        initial: json!({"spec": claim_spec()}),
        update: add_label,
        patches: vec![
            (Patch::Strategic, label.clone()),
            (Patch::Apply, label.clone()),
            (Patch::Merge, label),
            (Patch::Json, add("/metadata/labels/test.dra.example.com", "test".into())),
        ],
        status: Some((
            |claim| claim["status"] = json!({"allocation": {}}),
            vec![
                (Patch::Strategic, allocation.clone()),
                (Patch::Apply, allocation.clone()),
                (Patch::Merge, allocation),
                (Patch::Json, add("/status/allocation", json!({}))),
            ],
        )),
    };
    all_verbs(context, subject).await
}

async fn resource_claim_template(context: &Context) -> Result<()> {
    let label = json!({"metadata": {"labels": {"test.dra.example.com": "test"}}});
    let subject = Subject {
        plural: "resourceclaimtemplates",
        kind: "ResourceClaimTemplate",
        namespaced: true,
        initial: json!({"spec": {"spec": claim_spec()}}),
        update: add_label,
        patches: vec![(Patch::Strategic, label)],
        status: None,
    };
    all_verbs(context, subject).await
}

async fn resource_slice(context: &Context) -> Result<()> {
    let pool = json!({"name": "cluster", "generation": 1, "resourceSliceCount": 1});
    let spec = json!({"driver": "dra.example.com", "pool": pool, "nodeName": "no-such-node"});
    let devices = json!({"spec": {"devices": [{"name": "device-0"}]}});
    let subject = Subject {
        plural: "resourceslices",
        kind: "ResourceSlice",
        namespaced: false,
        initial: json!({"spec": spec}),
        update: |slice| slice["spec"]["devices"] = json!([{"name": "device-0"}]),
        patches: vec![(Patch::Strategic, devices)],
        status: None,
    };
    all_verbs(context, subject).await
}

/// The watches, and what is asserted of them after each step.
struct Watches {
    all: Vec<Watch>,
    last: Vec<u64>,
    name: String,
}

impl Watches {
    /// The events up to this version of the object, or up to its end: about this object alone,
    /// with versions that never fall, and `ADDED` first if it is new.
    async fn see(&mut self, what: &str, object: Option<&Value>, is_new: bool) -> Result<()> {
        for (watch, last) in self.all.iter_mut().zip(&mut self.last) {
            let mut first = true;
            loop {
                let event = watch.next().await.with_context(|| format!("after {what}"))?;
                let event = event.with_context(|| format!("the watch ended after {what}"))?;
                let (kind, seen) = (event.kind.as_str(), version(&event.object));
                ensure!(name(&event.object) == self.name, "{what}: another object: {event:?}");
                ensure!(seen >= *last && seen > 0, "{what}: {seen} after {last}");
                *last = seen;
                match (kind, object) {
                    ("ADDED", Some(_)) if is_new && first => {}
                    ("MODIFIED", _) if !is_new || !first => {}
                    ("DELETED", None) => break,
                    _ => bail!("{what}: {event:?} was not to come"),
                }
                first = false;
                if object.is_some_and(|object| seen >= version(object)) {
                    break;
                }
            }
        }
        Ok(())
    }
}

struct Run<'a> {
    objects: &'a Collection,
    subject: &'a Subject,
    initial: Value,
    watches: Watches,
}

async fn all_verbs(context: &Context, subject: Subject) -> Result<()> {
    let resource = format!("resource.k8s.io/v1/{}", subject.plural);
    let api = context.client.get("/apis/resource.k8s.io/v1").await?;
    let rows = api["resources"].as_array().context("resources")?;
    ensure!(rows.iter().any(|row| row["name"] == subject.plural), "not among {rows:?}");
    let everywhere = context.all(&resource);
    let objects = if subject.namespaced { context.own(&resource) } else { everywhere.clone() };
    let value = context.unique("dra");
    let selector = format!("{LABEL}={value}");
    let mut initial = subject.initial.clone();
    initial["apiVersion"] = "resource.k8s.io/v1".into();
    initial["kind"] = subject.kind.into();
    initial["metadata"]["labels"] = json!({LABEL: value});
    initial["metadata"]["name"] = "test".into();
    if !subject.namespaced {
        initial["metadata"]["name"] = format!("test-{}", context.namespace).into();
    }
    let own_name = name(&initial).to_string();
    context.remove_later(&objects, &own_name);
    let mut watches = Watches { all: Vec::new(), last: Vec::new(), name: own_name.clone() };
    for collection in [&everywhere, &objects].into_iter().take(1 + usize::from(subject.namespaced))
    {
        counts(&collection.items_labelled(&selector).await?, 0)?;
        watches.all.push(collection.watch_labelled(&selector).await?);
        watches.last.push(0);
    }
    let mut run = Run { objects: &objects, subject: &subject, initial, watches };
    run.verbs().await?;
    run.patches().await?;
    counts(&objects.items_labelled(&selector).await?, 1)?;
    counts(&everywhere.items_labelled(&selector).await?, 1)?;
    objects.delete_collection(&[("labelSelector", &selector)]).await?;
    gone(&objects, &own_name).await?;
    run.watches.see("deleting the collection", None, false).await
}

impl Run<'_> {
    fn is_it(&self, object: &Value) -> Result<()> {
        is(&object["metadata"]["name"], self.watches.name.as_str())?;
        ensure!(version(object) > 0, "no version: {object}");
        let is_namespaced = !namespace(object).is_empty();
        ensure!(is_namespaced == self.subject.namespaced, "its namespace: {object}");
        Ok(())
    }

    async fn create(&self) -> Result<Value> {
        let created = self.objects.create_with(&[("fieldValidation", "Strict")], &self.initial);
        let created = created.await.context("creating")?;
        self.is_it(&created)?;
        Ok(created)
    }

    async fn delete(&mut self) -> Result<()> {
        self.objects.delete(&self.watches.name).await.context("deleting")?;
        gone(self.objects, &self.watches.name).await?;
        self.watches.see("deleting", None, false).await
    }

    async fn verbs(&mut self) -> Result<()> {
        let created = self.create().await?;
        self.watches.see("creating", Some(&created), true).await?;
        let name = self.watches.name.clone();
        self.is_it(&self.objects.get(&name).await?)?;
        let updated = self.objects.update(&name, self.subject.update).await.context("updating")?;
        self.is_it(&updated)?;
        self.watches.see("updating", Some(&updated), false).await?;
        is_later(&updated, &created)?;
        let Some((change, _)) = &self.subject.status else { return Ok(()) };
        let path = format!("{name}/status");
        let updated = self.objects.update(&path, *change).await.context("updating the status")?;
        self.is_it(&updated)?;
        self.watches.see("updating the status", Some(&updated), false).await?;
        self.is_it(&self.objects.get(&path).await?)
    }

    /// Each patch on a fresh object.
    async fn patches(&mut self) -> Result<()> {
        for (form, patch) in &self.subject.patches {
            self.delete().await?;
            let created = self.create().await?;
            self.patch("", *form, patch, &created).await?;
        }
        for (form, patch) in self.subject.status.iter().flat_map(|(_, patches)| patches) {
            self.delete().await?;
            self.create().await?;
            let updated = self.objects.update(&self.watches.name, self.subject.update).await?;
            self.patch("/status", *form, patch, &updated).await?;
        }
        Ok(())
    }

    async fn patch(&mut self, sub: &str, form: Patch, patch: &Value, old: &Value) -> Result<()> {
        let mut patch = patch.clone();
        if form != Patch::Json {
            let meta = &old["metadata"];
            patch["apiVersion"] = old["apiVersion"].clone();
            patch["kind"] = old["kind"].clone();
            for field in ["name", "namespace", "uid"] {
                if meta[field].is_string() {
                    patch["metadata"][field] = meta[field].clone();
                }
            }
        }
        let path = format!("{}{sub}", self.watches.name);
        let mut query = vec![("fieldValidation", "Strict")];
        if form == Patch::Apply {
            query.extend([("fieldManager", "test-apply"), ("force", "true")]);
        }
        let patched = self.objects.patch_with(&path, &query, form, &patch).await;
        let patched = patched.with_context(|| format!("patching {path} with {form:?}"))?;
        self.is_it(&patched)?;
        is_later(&patched, old)?;
        self.watches.see(&format!("patching {path} with {form:?}"), Some(&patched), true).await
    }
}
