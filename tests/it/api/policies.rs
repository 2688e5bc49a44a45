//! Admission policies in CEL.

use serde_json::{Value, json};
use wasmfleet::apiserver::User;

use super::{Answer, Cluster, deployment};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn policy(name: &str, resource: &str, operations: Value, validations: Value) -> Value {
    let (group, resource) = resource.split_once('/').unwrap_or(("", resource));
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"validations": validations, "matchConstraints": {"resourceRules": [{
            "operations": operations, "apiGroups": [group], "apiVersions": ["v1"],
            "resources": [resource]}]}}})
}

fn binding(policy: &str, action: &str) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": format!("{policy}-{action}").to_lowercase()},
        "spec": {"policyName": policy, "validationActions": [action]}})
}

async fn create(cluster: &Cluster, policy: &Value) -> Answer {
    cluster.post(&format!("{GROUP}/validatingadmissionpolicies"), policy).await
}

async fn bind(cluster: &Cluster, binding: &Value) -> Answer {
    cluster.post(&format!("{GROUP}/validatingadmissionpolicybindings"), binding).await
}

fn replicas(name: &str, count: u32) -> Value {
    let mut object = deployment(name);
    object["spec"]["replicas"] = count.into();
    object
}

fn config_map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn a_bound_policy_refuses_or_warns() {
    let cluster = Cluster::new().await;
    let validations = json!([{"expression": "variables.replicas <= variables.most",
        "messageExpression": "'at most ' + string(variables.most) + ' replicas, not ' + \
                              string(variables.replicas)"}]);
    let mut object = policy("few", "apps/deployments", json!(["CREATE", "UPDATE"]), validations);
    object["spec"]["variables"] = json!([{"name": "most", "expression": "5"},
        {"name": "replicas", "expression": "has(object.spec.replicas) ? object.spec.replicas : 1"}]);
    let stored = create(&cluster, &object).await.expect(201);
    assert_eq!(stored["spec"]["failurePolicy"], "Fail");
    assert_eq!(stored["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
    assert_eq!(stored["spec"]["matchConstraints"]["resourceRules"][0]["scope"], "*");
    assert_eq!(stored["metadata"]["generation"], 1);
    // Nothing is bound yet.
    cluster.post(DEPLOYMENTS, &replicas("free", 6)).await.expect(201);
    bind(&cluster, &binding("few", "Warn")).await.expect(201);
    let warned = cluster.post(DEPLOYMENTS, &replicas("warned", 6)).await;
    let text = "Validation failed for ValidatingAdmissionPolicy 'few' with binding 'few-warn': at \
                most 5 replicas, not 6";
    assert!(warned.header("warning").contains(text), "{}", warned.header("warning"));
    warned.expect(201);
    bind(&cluster, &binding("few", "Deny")).await.expect(201);
    let answer = cluster.post(DEPLOYMENTS, &replicas("refused", 6)).await.expect(422);
    assert_eq!(answer["reason"], "Invalid");
    let text = "deployments.apps \"refused\" is forbidden: ValidatingAdmissionPolicy 'few' with \
                binding 'few-deny' denied request: at most 5 replicas, not 6";
    assert_eq!(answer["message"], text);
    cluster.post(DEPLOYMENTS, &replicas("good", 5)).await.expect(201);
    let path = format!("{DEPLOYMENTS}/good");
    cluster.merge(&path, &json!({"spec": {"replicas": 7}})).await.expect(422);
    let dry = format!("{DEPLOYMENTS}?dryRun=All");
    cluster.post(&dry, &replicas("dry", 6)).await.expect(422);
    // A binding that goes lets pass at once.
    let at = format!("{GROUP}/validatingadmissionpolicybindings/few-deny");
    cluster.delete(&at, &json!({})).await.expect(200);
    cluster.merge(&path, &json!({"spec": {"replicas": 7}})).await.expect(200);
    // So does a policy that changes.
    bind(&cluster, &binding("few", "Deny")).await.expect(201);
    let at = format!("{GROUP}/validatingadmissionpolicies/few");
    cluster.merge(&path, &json!({"spec": {"replicas": 8}})).await.expect(422);
    let most = json!({"spec": {"variables": [{"name": "most", "expression": "10"},
        {"name": "replicas", "expression": "object.spec.replicas"}]}});
    assert_eq!(cluster.merge(&at, &most).await.expect(200)["metadata"]["generation"], 2);
    cluster.merge(&path, &json!({"spec": {"replicas": 8}})).await.expect(200);
}

#[tokio::test]
async fn what_is_no_policy_is_refused() {
    let cluster = Cluster::new().await;
    let make = |validations: Value| policy("p", "configmaps", json!(["CREATE"]), validations);
    let cases = [
        (json!([{"expression": "object.x ="}]), "spec.validations[0].expression"),
        (json!([{"expression": "1 + 1"}]), "spec.validations[0].expression"),
        (json!([{"expression": "nothing == 1"}]), "spec.validations[0].expression"),
        (json!([{"expression": "params.x == 1"}]), "spec.validations[0].expression"),
        (json!([{"expression": "request.nam == ''"}]), "spec.validations[0].expression"),
        (json!([{"expression": "variables.x"}]), "spec.validations[0].expression"),
        (
            json!([{"expression": "true", "messageExpression": "authorizer.path('/').check('get')\
            .reason()"}]),
            "spec.validations[0].messageExpression",
        ),
        (json!([{"expression": "true", "reason": "Whim"}]), "spec.validations[0].reason"),
        (json!([]), "spec.validations"),
    ];
    for (validations, field) in cases {
        let answer = create(&cluster, &make(validations)).await.expect(422);
        assert_eq!(answer["details"]["causes"][0]["field"], field, "{answer}");
    }
    let text = create(&cluster, &make(json!([{"expression": "object.x ="}]))).await;
    let text = text.expect(422)["message"].as_str().unwrap().to_string();
    assert!(text.contains("compilation failed: ERROR: <input>:1:10: Syntax error"), "{text}");
    let mut object = make(json!([{"expression": "true"}]));
    object["spec"]["variables"] = json!([{"name": "a b", "expression": "1"},
        {"name": "c", "expression": "variables.d"}]);
    object["spec"]["matchConditions"] = json!([{"name": "x", "expression": "object"}]);
    object["spec"]["paramKind"] = json!({"apiVersion": "v1/v2/v3", "kind": ""});
    object["spec"]["auditAnnotations"] = json!([{"key": "k", "valueExpression": "1"}]);
    let answer = create(&cluster, &object).await.expect(422);
    let mut fields: Vec<&str> = answer["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    fields.sort_unstable();
    let wanted = [
        "spec.auditAnnotations[0].valueExpression",
        "spec.matchConditions[0].expression",
        "spec.paramKind.apiVersion",
        "spec.paramKind.kind",
        "spec.variables[0].name",
        "spec.variables[1].expression",
    ];
    assert_eq!(fields, wanted);
    let mut bad = binding("p", "Deny");
    bad["spec"]["validationActions"] = json!(["Deny", "Warn", "Deny", "Shout"]);
    bad["spec"]["paramRef"] = json!({"name": "x", "selector": {}});
    let answer = bind(&cluster, &bad).await.expect(422);
    assert_eq!(answer["details"]["causes"].as_array().unwrap().len(), 5, "{answer}");
}

#[tokio::test]
async fn parameters_are_fetched_when_they_are_needed() {
    let cluster = Cluster::new().await;
    let validations = json!([{"expression": "size(object.data) <= int(params.data.most)",
        "reason": "Forbidden", "message": "too many"}]);
    let mut object = policy("most", "configmaps", json!(["CREATE"]), validations);
    object["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    object["spec"]["matchConstraints"]["excludeResourceRules"] = json!([{"operations": ["*"],
        "apiGroups": [""], "apiVersions": ["*"], "resources": ["configmaps"],
        "resourceNames": ["limits", "more-limits"]}]);
    create(&cluster, &object).await.expect(201);
    let mut bound = binding("most", "Deny");
    bound["spec"]["paramRef"] = json!({"name": "limits", "parameterNotFoundAction": "Allow"});
    bind(&cluster, &bound).await.expect(201);
    let two = json!({"a": "1", "b": "2"});
    cluster.post(CONFIG_MAPS, &config_map("early", two.clone())).await.expect(201);
    cluster.post(CONFIG_MAPS, &config_map("limits", json!({"most": "1"}))).await.expect(201);
    let text = cluster.post(CONFIG_MAPS, &config_map("late", two.clone())).await.expect(403);
    assert!(text["message"].as_str().unwrap().ends_with("denied request: too many"), "{text}");
    cluster
        .merge(&format!("{CONFIG_MAPS}/limits"), &json!({"data": {"most": "2"}}))
        .await
        .expect(200);
    cluster.post(CONFIG_MAPS, &config_map("late", two.clone())).await.expect(201);
    // Every object that a selector finds counts.
    let at = format!("{GROUP}/validatingadmissionpolicybindings/most-deny");
    let selected = json!({"name": null, "selector": {"matchLabels": {"limits": "yes"}},
        "parameterNotFoundAction": "Deny"});
    cluster.merge(&at, &json!({"spec": {"paramRef": selected}})).await.expect(200);
    let answer = cluster.post(CONFIG_MAPS, &config_map("x", two.clone())).await.expect(422);
    assert!(answer["message"].as_str().unwrap().contains("no params found"), "{answer}");
    let label = json!({"metadata": {"labels": {"limits": "yes"}}});
    cluster.merge(&format!("{CONFIG_MAPS}/limits"), &label).await.expect(200);
    cluster.post(CONFIG_MAPS, &config_map("x", two.clone())).await.expect(201);
    let mut more = config_map("more-limits", json!({"most": "0"}));
    more["metadata"]["labels"] = json!({"limits": "yes"});
    cluster.post(CONFIG_MAPS, &more).await.expect(201);
    cluster.post(CONFIG_MAPS, &config_map("y", two)).await.expect(403);
}

#[tokio::test]
async fn only_what_matches_is_asked_about() {
    let cluster = Cluster::new().await;
    let validations = json!([{"expression": "oldObject.metadata.name != 'kept'"}]);
    let mut object = policy("kept", "configmaps", json!(["DELETE"]), validations);
    object["spec"]["matchConditions"] =
        json!([{"name": "not-root", "expression": "request.userInfo.username != 'root'"}]);
    object["spec"]["matchConstraints"]["objectSelector"] = json!({"matchLabels": {"a": "b"}});
    object["spec"]["matchConstraints"]["namespaceSelector"] =
        json!({"matchExpressions": [{"key": "open", "operator": "DoesNotExist"}]});
    create(&cluster, &object).await.expect(201);
    bind(&cluster, &binding("kept", "Deny")).await.expect(201);
    let make = |labels: Value| {
        let mut object = config_map("kept", json!({}));
        object["metadata"]["labels"] = labels;
        object
    };
    let path = format!("{CONFIG_MAPS}/kept");
    cluster.post(CONFIG_MAPS, &make(json!({}))).await.expect(201);
    cluster.delete(&path, &json!({})).await.expect(200);
    cluster.post(CONFIG_MAPS, &make(json!({"a": "b"}))).await.expect(201);
    let answer = cluster.delete(&path, &json!({})).await.expect(422);
    let text = "failed expression: oldObject.metadata.name != 'kept'";
    assert!(answer["message"].as_str().unwrap().ends_with(text), "{answer}");
    let root = User::new("root", &["system:masters"]);
    let answer = cluster.open_as(&root, "DELETE", &path, &[], "").await;
    Answer::of(answer).await.expect(200);
    cluster.post(CONFIG_MAPS, &make(json!({"a": "b"}))).await.expect(201);
    let label = json!({"metadata": {"labels": {"open": "yes"}}});
    cluster.merge("/api/v1/namespaces/default", &label).await.expect(200);
    cluster.delete(&path, &json!({})).await.expect(200);
    // A binding narrows what its policy is asked about.
    let validations = json!([{"expression": "namespaceObject.metadata.labels['open'] == 'no'"}]);
    create(&cluster, &policy("open", "configmaps", json!(["*"]), validations)).await.expect(201);
    let mut bound = binding("open", "Deny");
    bound["spec"]["matchResources"] = json!({"resourceRules": [{"operations": ["*"],
        "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"], "resourceNames": ["kept"]}]});
    bind(&cluster, &bound).await.expect(201);
    cluster.post(CONFIG_MAPS, &config_map("other", json!({}))).await.expect(201);
    cluster.post(CONFIG_MAPS, &make(json!({}))).await.expect(422);
    // Nobody locks themselves out.
    let all = policy("all", "*", json!(["*"]), json!([{"expression": "false"}]));
    let mut all_groups = all.clone();
    all_groups["spec"]["matchConstraints"]["resourceRules"][0]["apiGroups"] = json!(["*"]);
    create(&cluster, &all_groups).await.expect(201);
    bind(&cluster, &binding("all", "Deny")).await.expect(201);
    cluster.post(CONFIG_MAPS, &config_map("no", json!({}))).await.expect(422);
    let at = format!("{GROUP}/validatingadmissionpolicies/all");
    cluster.delete(&at, &json!({})).await.expect(200);
    cluster.post(CONFIG_MAPS, &config_map("yes", json!({}))).await.expect(201);
}

#[tokio::test]
async fn failures_follow_the_failure_policy() {
    let cluster = Cluster::new().await;
    let validations = json!([{"expression": "object.data.x == object.nothing"}]);
    let mut object = policy("broken", "configmaps", json!(["CREATE"]), validations);
    create(&cluster, &object).await.expect(201);
    bind(&cluster, &binding("broken", "Deny")).await.expect(201);
    let map = config_map("a", json!({"x": "y"}));
    let answer = cluster.post(CONFIG_MAPS, &map).await.expect(422);
    let text = "expression 'object.data.x == object.nothing' resulted in error: no such key: \
                nothing";
    assert!(answer["message"].as_str().unwrap().ends_with(text), "{answer}");
    let at = format!("{GROUP}/validatingadmissionpolicies/broken");
    cluster.merge(&at, &json!({"spec": {"failurePolicy": "Ignore"}})).await.expect(200);
    cluster.post(CONFIG_MAPS, &map).await.expect(201);
    object["metadata"]["name"] = "costly".into();
    object["spec"]["validations"] = json!([{"expression":
        "lists.range(3000).all(a, lists.range(3000).all(b, a + b >= 0))"}]);
    create(&cluster, &object).await.expect(201);
    bind(&cluster, &binding("costly", "Deny")).await.expect(201);
    let answer = cluster.post(CONFIG_MAPS, &config_map("b", json!({}))).await.expect(422);
    assert!(answer["message"].as_str().unwrap().contains("cost limit exceeded"), "{answer}");
}

#[tokio::test]
async fn expressions_ask_what_the_user_may_do() {
    let cluster = Cluster::new().await;
    let check = "authorizer.group('').resource('configmaps').namespace('default').name('gate')\
                 .check('approve').allowed()";
    let validations = json!([{"expression": check, "message": "you may not"},
        {"expression": "authorizer.requestResource.check('create').allowed()"},
        // Verbs are asked for as they are written.
        {"expression": "authorizer.path('/healthz').check('get').allowed() && \
                        !authorizer.path('/healthz').check('GET').allowed()"}]);
    create(&cluster, &policy("gate", "configmaps", json!(["CREATE"]), validations))
        .await
        .expect(201);
    bind(&cluster, &binding("gate", "Deny")).await.expect(201);
    let role = |name: &str, verb: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole", "metadata": {"name": name}, "rules": [{"apiGroups": [""],
        "resources": ["configmaps"], "verbs": [verb]}]})
    };
    let grant = |name: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding", "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]})
    };
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let ann = User::new("ann", &["system:authenticated"]);
    let post = async |name: &str| {
        let body = config_map(name, json!({})).to_string();
        Answer::of(cluster.open_as(&ann, "POST", CONFIG_MAPS, &[], body).await).await
    };
    cluster.post(&format!("{rbac}/clusterroles"), &role("create", "create")).await.expect(201);
    cluster.post(&format!("{rbac}/clusterrolebindings"), &grant("create")).await.expect(201);
    let answer = post("a").await.expect(422);
    assert!(answer["message"].as_str().unwrap().ends_with("you may not"), "{answer}");
    cluster.post(&format!("{rbac}/clusterroles"), &role("approve", "approve")).await.expect(201);
    cluster.post(&format!("{rbac}/clusterrolebindings"), &grant("approve")).await.expect(201);
    post("a").await.expect(201);
}

fn mutating(name: &str, resource: &str, mutations: Value) -> Value {
    let mut object = policy(name, resource, json!(["CREATE", "UPDATE"]), json!([]));
    object["kind"] = "MutatingAdmissionPolicy".into();
    object["spec"].as_object_mut().unwrap().remove("validations");
    object["spec"]["mutations"] = mutations;
    object["spec"]["reinvocationPolicy"] = "Never".into();
    object
}

fn mutating_binding(policy: &str) -> Value {
    json!({"apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingAdmissionPolicyBinding", "metadata": {"name": policy},
        "spec": {"policyName": policy}})
}

fn applied(expression: &str) -> Value {
    json!({"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}})
}

fn patched(expression: &str) -> Value {
    json!({"patchType": "JSONPatch", "jsonPatch": {"expression": expression}})
}

#[tokio::test]
async fn policies_change_objects() {
    let cluster = Cluster::new().await;
    let mutations = json!([
        applied("Object{metadata: Object.metadata{annotations: {'mutated-by': 'policy'}}}"),
        applied(
            "Object{spec: Object.spec{template: Object.spec.template{spec: \
            Object.spec.template.spec{containers: [Object.spec.template.spec.containers{\
            name: object.spec.template.spec.containers[0].name, \
            imagePullPolicy: variables.pull}]}}}}"
        ),
        patched(
            "has(object.metadata.labels) ? [JSONPatch{op: 'add', path: '/metadata/labels/' + \
            jsonpatch.escapeKey('example.com/seen'), value: 'yes'}] : [JSONPatch{op: 'add', \
            path: '/metadata/labels', value: {'example.com/seen': 'yes'}}]"
        ),
        patched(
            "object.spec.replicas > 1 ? [JSONPatch{op: 'replace', path: '/spec/replicas', \
            value: 1}] : []"
        ),
    ]);
    let mut object = mutating("one", "apps/deployments", mutations);
    object["spec"]["variables"] = json!([{"name": "pull", "expression": "'Always'"}]);
    let at = format!("{GROUP}/mutatingadmissionpolicies");
    let stored = cluster.post(&at, &object).await.expect(201);
    assert_eq!(stored["spec"]["failurePolicy"], "Fail");
    assert_eq!(stored["apiVersion"], "admissionregistration.k8s.io/v1");
    let bindings = format!("{GROUP}/mutatingadmissionpolicybindings");
    cluster.post(&bindings, &mutating_binding("one")).await.expect(201);
    let made = cluster.post(DEPLOYMENTS, &replicas("d", 3)).await.expect(201);
    assert_eq!(made["metadata"]["annotations"]["mutated-by"], "policy");
    assert_eq!(made["metadata"]["labels"]["example.com/seen"], "yes");
    assert_eq!(made["spec"]["replicas"], 1);
    let containers = &made["spec"]["template"]["spec"]["containers"];
    assert_eq!(containers.as_array().unwrap().len(), 1);
    assert_eq!(containers[0]["imagePullPolicy"], "Always");
    assert!(containers[0]["image"].is_string(), "{containers}");
    // What a policy makes is defaulted and validated, and seen by those that refuse.
    let validations =
        json!([{"expression": "object.metadata.annotations['mutated-by'] != 'policy'"}]);
    let refusing = policy("after", "apps/deployments", json!(["CREATE"]), validations);
    create(&cluster, &refusing).await.expect(201);
    bind(&cluster, &binding("after", "Deny")).await.expect(201);
    cluster.post(DEPLOYMENTS, &replicas("e", 3)).await.expect(422);
    let list = cluster.get(&at).await.expect(200);
    assert_eq!(list["kind"], "MutatingAdmissionPolicyList");
}

#[tokio::test]
async fn changes_that_cannot_be_made_refuse() {
    let cluster = Cluster::new().await;
    let at = format!("{GROUP}/mutatingadmissionpolicies");
    let bad = json!([
        applied("object"),
        patched("[Object{}]"),
        {"patchType": "Magic"},
        {"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}},
    ]);
    let answer = cluster.post(&at, &mutating("bad", "configmaps", bad)).await.expect(422);
    let fields: Vec<&str> = answer["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| cause["field"].as_str().unwrap())
        .collect();
    let wanted = [
        "spec.mutations[0].applyConfiguration.expression",
        "spec.mutations[1].jsonPatch.expression",
        "spec.mutations[2].patchType",
        "spec.mutations[3].applyConfiguration",
        "spec.mutations[3].jsonPatch",
    ];
    assert_eq!(fields, wanted);
    let mutations =
        json!([patched("[JSONPatch{op: 'replace', path: '/metadata/name', value: 'x'}]")]);
    cluster.post(&at, &mutating("name", "configmaps", mutations)).await.expect(201);
    let bindings = format!("{GROUP}/mutatingadmissionpolicybindings");
    cluster.post(&bindings, &mutating_binding("name")).await.expect(201);
    let answer = cluster.post(CONFIG_MAPS, &config_map("a", json!({}))).await.expect(403);
    let text = answer["message"].as_str().unwrap();
    assert!(text.contains("policy 'name' with binding 'name' denied request"), "{text}");
    let path = format!("{at}/name");
    cluster.merge(&path, &json!({"spec": {"failurePolicy": "Ignore"}})).await.expect(200);
    cluster.post(CONFIG_MAPS, &config_map("a", json!({}))).await.expect(201);
}

#[tokio::test]
async fn the_status_tells_what_expressions_get_wrong() {
    let cluster = Cluster::new().await;
    let path = format!("{GROUP}/validatingadmissionpolicies");
    let good = json!([{"expression": "object.spec.replicas > 1"},
        {"expression": "object.metadata.creationTimestamp < timestamp('2100-01-01T00:00:00Z')"},
        {"expression": "object.spec.template.spec.containers.all(c, c.image != '' && \
                        (!has(c.ports) || c.ports.all(p, p.containerPort > 0)))"},
        {"expression": "object.metadata.?labels[?'a'].orValue('') != 'b'"},
        {"expression": "object.spec.strategy.rollingUpdate.maxSurge != 3"}]);
    let fine = policy("fine", "apps/deployments", json!(["CREATE"]), good);
    let made = create(&cluster, &fine).await.expect(201);
    assert_eq!(made["status"], json!({"observedGeneration": 1, "typeChecking": {}}));
    let validations = json!([{"expression": "object.spec.replics > 1",
            "messageExpression": "'replicas: ' + object.spec.replicas"},
        {"expression": "object.spec.replicas == '1'"}]);
    let mut wrong = policy("wrong", "apps/deployments", json!(["CREATE"]), validations);
    let rule = &mut wrong["spec"]["matchConstraints"]["resourceRules"][0];
    rule["resources"] = json!(["deployments", "replicasets", "deployments/scale"]);
    let made = create(&cluster, &wrong).await.expect(201);
    let warnings = made["status"]["typeChecking"]["expressionWarnings"].as_array().unwrap();
    let fields: Vec<_> = warnings.iter().map(|warning| &warning["fieldRef"]).collect();
    assert_eq!(
        fields,
        [
            "spec.validations[0].expression",
            "spec.validations[0].messageExpression",
            "spec.validations[1].expression"
        ]
    );
    let first = "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'replics'\n | \
                 object.spec.replics > 1\n | ...........^\n";
    let text = warnings[0]["warning"].as_str().unwrap();
    assert!(text.starts_with(first), "{text}");
    assert!(text.contains("\napps/v1, Kind=ReplicaSet: ERROR"), "{text}");
    // Another spec is checked again, and a status that somebody writes stays.
    let name = format!("{path}/wrong");
    let status = json!({"status": {"conditions": [{"type": "A", "status": "True", "reason": "B",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    cluster.merge(&format!("{name}/status"), &status).await.expect(200);
    let patch = json!({"spec": {"validations": [{"expression": "object.spec.replicas > 1"}]}});
    let mended = cluster.merge(&name, &patch).await.expect(200);
    assert_eq!(mended["status"]["observedGeneration"], 2);
    assert_eq!(mended["status"]["typeChecking"], json!({}));
    assert_eq!(mended["status"]["conditions"][0]["type"], "A");
    // Custom resources by their schema, parameters by theirs, and nothing of what has a wildcard.
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "size": {"type": "integer"}}}}});
    let definition = json!({"metadata": {"name": "tabs.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "tabs", "kind": "Tab"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": schema}}]}});
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.post(definitions, &definition).await.expect(201);
    let validations = json!([{"expression": "object.spec.size > 1 && object.spec.sise > 1"},
        {"expression": "params.data.x == '1'"}, {"expression": "params.dat.x == '1'"}]);
    let mut custom = policy("custom", "example.com/tabs", json!(["*"]), validations.clone());
    custom["spec"]["paramKind"] = json!({"apiVersion": "v1", "kind": "ConfigMap"});
    let made = create(&cluster, &custom).await.expect(201);
    let warnings = made["status"]["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0]["warning"].as_str().unwrap().contains("undefined field 'sise'"));
    assert!(warnings[1]["warning"].as_str().unwrap().contains("undefined field 'dat'"));
    custom["metadata"]["name"] = "wild".into();
    custom["spec"]["matchConstraints"]["resourceRules"][0]["apiVersions"] = json!(["*"]);
    let made = create(&cluster, &custom).await.expect(201);
    assert_eq!(made["status"]["typeChecking"], json!({}));
}
