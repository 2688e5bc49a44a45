//! `auth/subjectreviews.go`.

use anyhow::Result;
use serde_json::json;

use crate::conformance::checks::holds;
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] =
    &[case!("SubjectReview should support SubjectReview API operations", operations)];

/// What the reviews say is what happens to the one who is reviewed.
async fn operations(context: &Context) -> Result<()> {
    let namespace = &context.namespace;
    let account = json!({"metadata": {"name": "e2e"}});
    let account = context.own("v1/serviceaccounts").create(&account).await?;
    let uid = account["metadata"]["uid"].as_str().unwrap_or_default();
    let user = format!("system:serviceaccount:{namespace}:e2e");
    let of_namespace = format!("system:serviceaccounts:{namespace}");
    let groups = ["system:authenticated", "system:serviceaccounts", &of_namespace];
    let attributes =
        json!({"verb": "list", "resource": "configmaps", "namespace": namespace, "version": "v1"});
    let review = |user: &str| {
        json!({"metadata": {}, "spec": {"resourceAttributes": attributes, "user": user,
            "groups": groups, "uid": uid}})
    };
    let reviews = context.all("authorization.k8s.io/v1/subjectaccessreviews");
    let answer = reviews.create(&review(&user)).await?;
    let expected = answer["status"]["allowed"].as_bool();
    holds(expected.is_some(), "a SubjectAccessReview is answered")?;

    let mut headers = vec![("impersonate-user", user.as_str()), ("impersonate-uid", uid)];
    headers.extend(groups.map(|group| ("impersonate-group", group)));
    let path = &context.own("v1/configmaps").path;
    let listed = context.client.send("GET", path, &headers, Vec::new()).await?;
    let allowed = match listed.code {
        403 => false,
        _ => listed.ok().map(|_| true)?,
    };
    holds(expected == Some(allowed), "what the review says is what happens")?;

    let reviews = context.own("authorization.k8s.io/v1/localsubjectaccessreviews");
    let mut local = review("e2e");
    local["metadata"]["namespace"] = namespace.as_str().into();
    let answer = reviews.create(&local).await?;
    let local = answer["status"]["allowed"].as_bool();
    holds(local == Some(allowed), "what the local review says is what happens")
}
