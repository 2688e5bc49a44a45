//! `apimachinery/discovery.go`, `aggregated_discovery.go`, `server_version.go` and
//! `table_conversion.go`.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::crd;
use crate::conformance::operations::{ensure_includes, includes};
use crate::conformance::{Case, Context, case, eventually};

pub const CASES: &[Case] = &[
    case!("Discovery should validate PreferredVersion for each APIGroup", preferred),
    case!(
        "AggregatedDiscovery should support aggregated discovery interface for CRDs",
        aggregated_custom
    ),
    case!(
        "AggregatedDiscovery should support raw aggregated discovery request for CRDs",
        aggregated_custom
    ),
    case!("server version should find the server version", server_version),
    case!(
        "Servers with support for Table transformation should return a 406 for a backend which \
         does not implement metadata",
        no_table
    ),
];

/// Resources that must be there: group, version, resource.
const EXPECTED: &[(&str, &str, &str)] = &[
    ("admissionregistration.k8s.io", "v1", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "v1", "apiservices"),
    ("apps", "v1", "deployments"),
    ("authentication.k8s.io", "v1", "tokenreviews"),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews"),
    ("autoscaling", "v1", "horizontalpodautoscalers"),
    ("autoscaling", "v2", "horizontalpodautoscalers"),
    ("batch", "v1", "jobs"),
    ("certificates.k8s.io", "v1", "certificatesigningrequests"),
    ("coordination.k8s.io", "v1", "leases"),
    ("discovery.k8s.io", "v1", "endpointslices"),
    ("events.k8s.io", "v1", "events"),
    ("networking.k8s.io", "v1", "ingresses"),
    ("node.k8s.io", "v1", "runtimeclasses"),
    ("policy", "v1", "poddisruptionbudgets"),
    ("scheduling.k8s.io", "v1", "priorityclasses"),
    ("storage.k8s.io", "v1", "csinodes"),
];

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

async fn preferred(context: &Context) -> Result<()> {
    let list = context.client.get("/apis/").await?;
    let groups = list["groups"].as_array().context("groups")?;
    ensure!(!groups.is_empty(), "no groups");
    for group in groups {
        let name = group["name"].as_str().context("a name")?;
        // Groups of other tests come and go.
        if name.ends_with(".example.com") {
            continue;
        }
        let own = context.client.get(&format!("/apis/{name}/")).await?;
        let versions = own["versions"].as_array().context("versions")?;
        ensure!(!versions.is_empty(), "no versions: {own}");
        let preferred = &own["preferredVersion"]["groupVersion"];
        let found = versions.iter().any(|version| version["groupVersion"] == *preferred);
        ensure!(found, "{preferred} is not one of {versions:?}");
    }
    Ok(())
}

async fn each_group(context: &Context) -> Result<()> {
    let core = [("", "v1", "namespaces")];
    for (group, version, resource) in core.iter().chain(EXPECTED) {
        let (path, name) = match *group {
            "" => ("/api/v1".to_string(), "v1".to_string()),
            group => (format!("/apis/{group}/{version}"), format!("{group}/{version}")),
        };
        let list = context.client.get(&path).await?;
        ensure!(list["groupVersion"] == name, "the groupVersion: {list}");
        ensure_includes(&list["resources"], &json!([{ "name": resource }]))?;
    }
    Ok(())
}

async fn aggregated(context: &Context, path: &str) -> Result<Value> {
    let answer = context.client.send("GET", path, &[("accept", AGGREGATED)], Vec::new()).await?;
    let answer = answer.ok()?;
    // By this clients know that the answer is what they asked for.
    ensure!(answer.header("content-type") == AGGREGATED, "{}", answer.header("content-type"));
    let list = answer.json()?;
    ensure!(list["kind"] == "APIGroupDiscoveryList", "the kind: {}", list["kind"]);
    Ok(list)
}

fn row(group: &str, version: &str, resource: &str) -> Value {
    let mut row = json!([{"metadata": {"name": group},
        "versions": [{"version": version, "resources": [{ "resource": resource }]}]}]);
    if group.is_empty() {
        row[0]["metadata"] = json!({});
    }
    row
}

async fn aggregated_builtin(context: &Context) -> Result<()> {
    let groups = aggregated(context, "/apis").await?;
    for (group, version, resource) in EXPECTED {
        let row = row(group, version, resource);
        ensure!(includes(&groups["items"], &row), "{row} is not in /apis");
    }
    let core = aggregated(context, "/api").await?;
    ensure_includes(&core["items"], &row("", "v1", "namespaces"))
}

/// Upstream's two tests differ in the client only: raw, or one that reads both documents.
async fn aggregated_custom(context: &Context) -> Result<()> {
    let group = format!("{}.example.com", context.unique("group"));
    let versions = json!([crd::version("v1", crd::any())]);
    let object = crd::definition(context, &group, "Namespaced", versions);
    let one = crd::create(context, object).await?;
    let row = row(&group, "v1", &one.plural);
    eventually("the definition in aggregated discovery", async || {
        aggregated(context, "/api").await?;
        let groups = aggregated(context, "/apis").await?;
        Ok(includes(&groups["items"], &row).then_some(()))
    })
    .await?;
    one.delete(context).await
}

async fn server_version(context: &Context) -> Result<()> {
    let version = context.client.get("/version").await?;
    let major = version["major"].as_str().context("major")?;
    let is_digit = |text: &str| text.len() == 1 && matches!(text.as_bytes()[0], b'1'..=b'9');
    ensure!(is_digit(major), "the major version: {major:?}");
    let minor = version["minor"].as_str().context("minor")?;
    // Digits come first and all digits are there: `35` or `35+`.
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    let all: String = minor.chars().filter(char::is_ascii_digit).collect();
    ensure!(!digits.is_empty() && digits == all, "the minor version: {minor:?}");
    Ok(())
}

async fn no_table(context: &Context) -> Result<()> {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"nonResourceAttributes": {"path": "/", "verb": "get"}}});
    let headers = [
        ("accept", "application/json;as=Table;v=v1;g=meta.k8s.io"),
        ("content-type", "application/json"),
    ];
    let path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let body = review.to_string().into_bytes();
    let answer = context.client.send("POST", path, &headers, body).await?;
    ensure!(answer.code == 406, "{}; expected: 406", answer.failure());
    ensure!(answer.json()?["code"] == 406, "not a status: {}", answer.text());
    Ok(())
}

/// These look for kinds of all groups, of which the last ones to be served are named.
const LAST: &[&str] = &[
    "apiregistration.k8s.io/v1/apiservices",
    "autoscaling/v1/horizontalpodautoscalers",
    "autoscaling/v2/horizontalpodautoscalers",
    "certificates.k8s.io/v1/certificatesigningrequests",
];

/// Kinds of several SIGs.
pub const ALL_KINDS: &[Case] = &[
    case!(
        "Discovery should locate the groupVersion and a resource within each APIGroup",
        each_group
    )
    .needs(LAST),
    case!("AggregatedDiscovery should support aggregated discovery interface", aggregated_builtin)
        .needs(LAST),
    case!(
        "AggregatedDiscovery should support raw aggregated discovery endpoint Accept headers",
        aggregated_builtin
    )
    .needs(LAST),
];
