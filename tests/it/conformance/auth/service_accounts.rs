//! `auth/service_accounts.go`.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::conformance::checks::{holds, is, name, namespace};
use crate::conformance::{Case, Context, Failure, Patch, case, eventually};

pub const CASES: &[Case] = &[
    case!("ServiceAccounts should allow opting out of API token automount", automount),
    case!(
        "ServiceAccounts should create a serviceAccountToken and ensure a successful TokenReview",
        token
    ),
    case!("ServiceAccounts should guarantee kube-root-ca.crt exist in any namespace", root_ca),
    case!("ServiceAccounts should run through the lifecycle of a ServiceAccount", lifecycle),
    case!("ServiceAccounts should update a ServiceAccount", update),
];

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the pod says counts more than what its account says.
async fn automount(context: &Context) -> Result<()> {
    let (accounts, pods) = (context.own("v1/serviceaccounts"), context.own("v1/pods"));
    for (name, mounts) in [("mount", true), ("nomount", false)] {
        let account = json!({"metadata": {"name": name}, "automountServiceAccountToken": mounts});
        accounts.create(&account).await?;
    }
    let rows = [
        ("default", None, true),
        ("mount", None, true),
        ("nomount", None, false),
        ("default", Some(true), true),
        ("mount", Some(true), true),
        ("nomount", Some(true), true),
        ("default", Some(false), false),
        ("mount", Some(false), false),
        ("nomount", Some(false), false),
    ];
    for (i, (account, of_pod, expected)) in rows.into_iter().enumerate() {
        let name = format!("pod-service-account-{i}");
        let mut spec = json!({"serviceAccountName": account, "restartPolicy": "Never",
            "containers": [{"name": "token-test", "image": "agnhost:v1"}]});
        if let Some(mounts) = of_pod {
            spec["automountServiceAccountToken"] = mounts.into();
        }
        let pod = pods.create(&json!({"metadata": {"name": name}, "spec": spec})).await?;
        let containers = pod["spec"]["containers"].as_array().context("no containers")?;
        let mut mounts = containers.iter().flat_map(|c| c["volumeMounts"].as_array()).flatten();
        let has_token = mounts.any(|mount| mount["mountPath"] == TOKEN_PATH);
        holds(has_token == expected, &format!("{account} {of_pod:?}: {expected}"))?;
    }
    Ok(())
}

async fn token(context: &Context) -> Result<()> {
    let accounts = context.own("v1/serviceaccounts");
    let name = context.unique("e2e-sa");
    accounts.create(&json!({"metadata": {"name": name}})).await?;
    let answer = accounts.create_at(&format!("{name}/token"), &json!({"spec": {}})).await?;
    let token = answer["status"]["token"].as_str().unwrap_or_default();
    holds(!token.is_empty(), "a token was made")?;
    let reviews = context.all("authentication.k8s.io/v1/tokenreviews");
    let review = reviews.create(&json!({"spec": {"token": token}})).await?;
    is(&review["status"]["authenticated"], true)?;
    is(&review["status"]["error"], Value::Null)
}

async fn root_ca(context: &Context) -> Result<()> {
    const NAME: &str = "kube-root-ca.crt";
    let maps = context.own("v1/configmaps");
    let exists = async || {
        eventually("the ConfigMap of the root CA", async || match maps.get(NAME).await {
            Ok(map) => Ok(Some(map)),
            Err(e) if e.downcast_ref::<Failure>().is_some_and(|f| f.code == 404) => Ok(None),
            Err(e) => Err(e),
        })
        .await
    };
    exists().await?;
    maps.delete_with(NAME, &json!({"gracePeriodSeconds": 0})).await?;
    exists().await?;
    maps.replace(&json!({"metadata": {"name": NAME}, "data": {"ca.crt": ""}})).await?;
    eventually("the root CA, written again", async || {
        let text = exists().await?["data"]["ca.crt"].as_str().unwrap_or_default().to_string();
        Ok((!text.is_empty()).then_some(()))
    })
    .await
}

async fn lifecycle(context: &Context) -> Result<()> {
    let (accounts, everywhere) =
        (context.own("v1/serviceaccounts"), context.all("v1/serviceaccounts"));
    let labels = json!({"test-serviceaccount-static": "true"});
    let account = json!({"metadata": {"name": "testserviceaccount", "labels": labels}});
    let created = accounts.create(&account).await?;
    let read = accounts.get("testserviceaccount").await?;
    is(&read["metadata"]["uid"], created["metadata"]["uid"].clone())?;
    let selector = "test-serviceaccount-static=true";
    let query = [("labelSelector", selector), ("timeoutSeconds", "180")];
    let mut watch = accounts.watch(&query).await?;
    watch.until("ADDED", |_| true).await?;
    let patch = json!({"automountServiceAccountToken": false});
    accounts.patch("testserviceaccount", Patch::Strategic, &patch).await?;
    watch.until("MODIFIED", |_| true).await?;
    let found = everywhere.items_labelled(selector).await?;
    let is_mine = |account: &Value| {
        name(account) == "testserviceaccount" && namespace(account) == context.namespace
    };
    let mine = found.into_iter().find(is_mine).unwrap_or_default();
    is(&mine["automountServiceAccountToken"], false)?;
    accounts.delete_collection(&[]).await?;
    watch.until("DELETED", |_| true).await.map(drop)
}

async fn update(context: &Context) -> Result<()> {
    let accounts = context.own("v1/serviceaccounts");
    let name = context.unique("e2e-sa");
    let account = json!({"metadata": {"name": name}, "automountServiceAccountToken": false});
    is(&accounts.create(&account).await?["automountServiceAccountToken"], false)?;
    let change = |account: &mut Value| account["automountServiceAccountToken"] = true.into();
    is(&accounts.update(&name, change).await?["automountServiceAccountToken"], true)
}
