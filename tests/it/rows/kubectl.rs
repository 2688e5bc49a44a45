//! kubectl on every resource: `explain`, dry runs, strict validation, `get` and `get -o wide`.
//! Its calls are few: one program may work on many resources.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::{Row, Served, rows, same_resources, served};
use crate::cluster::tools::{has, kubectl_of};
use crate::cluster::{Cluster, until};

/// How many `explain` run at once.
const AT_ONCE: usize = 4;

struct Kubectl<'a> {
    cluster: &'a Cluster,
    program: &'a std::path::Path,
}

impl Kubectl<'_> {
    fn run(&self, words: &str, stdin: &str) -> crate::cluster::Output {
        self.cluster.run(self.program, words, stdin)
    }

    fn json(&self, path: &str) -> Value {
        let text = self.run(&format!("get --raw {path}"), "").ok();
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{path}: {e}: {text}"))
    }

    fn served(&self) -> BTreeMap<String, Served> {
        let groups = self.json("/apis");
        let groups = groups["groups"].as_array().expect("groups").iter();
        let versions = groups.flat_map(|group| group["versions"].as_array().expect("versions"));
        let mut documents = vec![("v1".to_string(), self.json("/api/v1"))];
        for one in versions {
            let one = one["groupVersion"].as_str().expect("a group version");
            documents.push((one.to_string(), self.json(&format!("/apis/{one}"))));
        }
        served(&documents)
    }

    /// What is wrong with the description of a row's kind and of its field.
    fn explain(&self, row: &Row, served: &Served) -> Option<String> {
        let (plural, nested, version) = (row.plural(), &row.nested, row.group_version());
        let field = nested.rsplit('.').next().unwrap_or_default();
        for (what, line) in [
            (plural.to_string(), format!("KIND: {}", served.kind)),
            (format!("{plural}.{nested}"), format!("FIELD: {field}")),
        ] {
            let output = self.run(&format!("explain {what} --api-version={version}"), "");
            let told = output.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
            let described = !told.contains("DESCRIPTION: <empty>");
            let of_version = version.rsplit('/').next().is_some_and(|v| told.contains(v));
            if output.code != 0 || !told.contains(&line) || !described || !of_version {
                return Some(format!("explain {what}: {}", output.told()));
            }
        }
        None
    }

    fn explain_all(&self, rows: &[&Row], served: &BTreeMap<String, Served>) {
        let (next, faults) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    while let Some(row) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let fault = self.explain(row, &served[&row.resource]);
                        faults.lock().expect("not poisoned").extend(fault);
                    }
                });
            }
        });
        let faults = faults.into_inner().expect("not poisoned");
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

/// `deployments.v1.apps`, `pods.v1.`
fn qualified(row: &Row) -> String {
    let (group, version) = row.group_version().split_once('/').unwrap_or(("", "v1"));
    format!("{}.{version}.{group}", row.plural())
}

fn documents(objects: impl Iterator<Item = Value>) -> String {
    objects.map(|object| format!("---\n{object}\n")).collect()
}

/// The heads of the tables of a `get`, spaces as single ones.
fn heads(output: &str) -> Vec<String> {
    let tables = output.split("\n\n").filter_map(|table| table.lines().next());
    tables.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

fn wanted_heads(rows: &[&Row], wide: bool) -> Vec<String> {
    let head = |row: &&Row| {
        let columns = row.column_rows().into_iter();
        let shown = columns.filter(|(_, _, priority)| wide || *priority == 0);
        shown.map(|(name, ..)| name.to_uppercase()).collect::<Vec<_>>().join(" ")
    };
    rows.iter().map(head).collect()
}

#[test]
fn kubectl_knows_every_resource() {
    let Some(newest) = kubectl_of("1.35") else { return };
    let cluster = Cluster::control_plane();
    let kubectl = Kubectl { cluster: &cluster, program: newest };
    let rows = rows();
    let definition = &rows[0];
    let mut object = definition.object.clone().expect("an object");
    object["kind"] = "CustomResourceDefinition".into();
    object["apiVersion"] = definition.group_version().into();
    kubectl.run("create -f -", &object.to_string()).ok();
    let served = until("the custom kind in discovery", || {
        let served = kubectl.served();
        let is_there = served.contains_key(&rows[1].resource);
        if is_there { Ok(served) } else { Err(format!("{:?}", served.keys())) }
    });
    same_resources(&rows, &served);
    let all: Vec<&Row> = rows.iter().collect();
    let stored: Vec<&Row> = all[1..].iter().copied().filter(|row| row.object.is_some()).collect();
    // Without nodes nothing is measured, and kubectl prints no table of nothing.
    let is_shown = |row: &&Row| !row.columns.is_empty() && !row.resource.contains("metrics");
    let shown: Vec<&Row> = all.iter().copied().filter(is_shown).collect();
    let manifests = |rows: &[&Row]| -> Vec<Value> {
        rows.iter().map(|row| row.manifest(&served[&row.resource])).collect()
    };
    let good = documents(manifests(&stored).into_iter());
    let bogus = documents(manifests(&stored).into_iter().map(|mut object| {
        object["bogus"] = 1.into();
        object
    }));
    // The Namespace and others that some of them are in are there already, or not asked for.
    let dry_run = |kubectl: &Kubectl| {
        let told = kubectl.run("create --dry-run=server -f -", &good).ok();
        let count = told.lines().filter(|line| line.ends_with("(server dry run)")).count();
        assert_eq!(count, stored.len(), "{told}");
        let refused = kubectl.run("create --dry-run=server --validate=strict -f -", &bogus);
        let told = refused.fails();
        let count = told.matches("unknown field \"bogus\"").count();
        assert_eq!(count, stored.len(), "{told}");
    };
    dry_run(&kubectl);
    kubectl.run("create -f -", &good).ok();
    let names: Vec<String> = shown.iter().map(|row| qualified(row)).collect();
    let names = names.join(",");
    let tables = |kubectl: &Kubectl| {
        for wide in [false, true] {
            let output = if wide { "-o wide" } else { "" };
            let told = kubectl.run(&format!("get {names} {output}"), "").ok();
            let (heads, wanted) = (heads(&told), wanted_heads(&shown, wide));
            for (i, (head, wanted)) in heads.iter().zip(&wanted).enumerate() {
                assert_eq!(head, wanted, "{} {output}", shown[i].resource);
            }
            assert_eq!(heads.len(), wanted.len(), "{told}");
        }
    };
    tables(&kubectl);
    kubectl.explain_all(&all, &served);
    let unknown = kubectl.run("get configmaps --field-selector=spec.bogus=x", "").fails();
    has(&unknown, &["\"spec.bogus\" is not a known field selector"]);
    // Older ones ask for other forms of the same.
    for version in ["1.29", "1.32"] {
        let Some(program) = kubectl_of(version) else { continue };
        let kubectl = Kubectl { cluster: &cluster, program };
        tables(&kubectl);
        let some: Vec<&Row> = all.iter().copied().step_by(8).collect();
        kubectl.explain_all(&some, &served);
        let refused = kubectl.run("create --dry-run=server --validate=strict -f -", &bogus);
        let told = refused.fails();
        assert_eq!(told.matches("unknown field \"bogus\"").count(), stored.len(), "{told}");
    }
}
