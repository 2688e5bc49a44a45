//! `apimachinery/flowcontrol.go`.

use anyhow::Result;
use serde_json::json;

use crate::conformance::operations::{self, Status, Subject};
use crate::conformance::{Case, Context, case};

pub const CASES: &[Case] = &[
    case!("API priority and fairness should support FlowSchema API operations", flow_schema)
        .needs(&["flowcontrol.apiserver.k8s.io/v1/flowschemas"]),
    case!(
        "API priority and fairness should support PriorityLevelConfiguration API operations",
        priority_level
    )
    .needs(&["flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations"]),
];

fn status() -> Option<Status> {
    Some(Status {
        patch: json!({"conditions": [
            {"type": "PatchStatusFailed", "status": "False", "reason": "e2e"}]}),
        update: json!({"conditions": [{"type": "StatusUpdateFailed", "status": "False",
            "reason": "E2E", "message": "Set from an e2e test"}]}),
    })
}

async fn flow_schema(context: &Context) -> Result<()> {
    let subject = Subject {
        resource: "flowcontrol.apiserver.k8s.io/v1/flowschemas",
        kind: "FlowSchema",
        namespaced: false,
        subresources: &["status"],
        object: json!({"spec": {"matchingPrecedence": 10000,
            "priorityLevelConfiguration": {"name": "global-default"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{"subjects": [{"kind": "User",
                    "user": {"name": "example-e2e-non-existent-user"}}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}}),
        patch: json!({"spec": {"matchingPrecedence": 9999}}),
        update: json!({"spec": {"matchingPrecedence": 9000}}),
        status: status(),
    };
    operations::run(context, &subject).await
}

async fn priority_level(context: &Context) -> Result<()> {
    let subject = Subject {
        resource: "flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
        kind: "PriorityLevelConfiguration",
        namespaced: false,
        subresources: &["status"],
        object: json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2,
            "limitResponse": {"type": "Reject"}}}}),
        patch: json!({"spec": {"limited": {"nominalConcurrencyShares": 4}}}),
        update: json!({"spec": {"limited": {"nominalConcurrencyShares": 6}}}),
        status: status(),
    };
    operations::run(context, &subject).await
}
