//! The real kubectl: a policy in CEL that refuses.

use serde_json::json;

use crate::cluster::Space;
use crate::cluster::tools::has;

#[test]
fn a_policy_refuses_what_kubectl_creates() {
    let Some(space) = Space::with_kubectl("k-policy") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    let apply = |value: &str| space.kubectl_with("apply -f -", value, &[]).ok();
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "k-policy"}, "spec": {
            "matchConstraints": {"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""],
                "apiVersions": ["v1"], "resources": ["configmaps"], "scope": "*"}]},
            "validations": [{"expression": "object.metadata.name.startsWith('good-')",
                "messageExpression": "'no good name: ' + object.metadata.name"}]}});
    // No other test's namespace.
    let binding = json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "k-policy"}, "spec": {
            "policyName": "k-policy", "validationActions": ["Deny"],
            "matchResources": {"namespaceSelector": {"matchLabels": {"policy": "on"}}}}});
    has(&apply(&policy.to_string()), &["validatingadmissionpolicy", "created"]);
    has(&apply(&policy.to_string()), &["unchanged"]);
    has(&apply(&binding.to_string()), &["created"]);
    kubectl("label namespace k-policy policy=on");
    let refused = space.kubectl("create configmap bad-one").fails();
    has(&refused, &["ValidatingAdmissionPolicy 'k-policy'", "no good name: bad-one"]);
    has(&kubectl("create configmap good-one"), &["created"]);
    has(&kubectl("get validatingadmissionpolicies"), &["VALIDATIONS", "PARAMKIND", "<unset>"]);
    has(&kubectl("get validatingadmissionpolicybindings"), &["POLICYNAME", "PARAMREF", "k-policy"]);
    has(&kubectl("explain validatingadmissionpolicy.spec.validations.expression"), &["CEL"]);
    kubectl("delete validatingadmissionpolicybinding k-policy");
    kubectl("delete validatingadmissionpolicy k-policy");
    has(&kubectl("create configmap bad-one"), &["created"]);
}
