//! Roles, bindings, questions about access, and acting as another.

use super::*;

const GROUP: &str = "rbac.authorization.k8s.io";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
const BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
const CLUSTER_ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
const CLUSTER_BINDINGS: &str = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
const REVIEWS: &str = "/apis/authorization.k8s.io/v1";

fn ann() -> User {
    User::new("ann", &["system:authenticated"])
}

fn role(name: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"metadata": {"name": name},
        "rules": [{"apiGroups": [""], "resources": resources, "verbs": verbs}]})
}

fn binding(name: &str, (kind, role): (&str, &str), user: &str) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"apiGroup": GROUP, "kind": kind, "name": role},
        "subjects": [{"kind": "User", "name": user}]})
}

impl Cluster {
    async fn ask(&self, user: &User, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Answer::of(self.open_as(user, method, path, &[], body).await).await
    }

    async fn code(&self, user: &User, method: &str, path: &str) -> u16 {
        self.ask(user, method, path, &Value::Null).await.code
    }
}

#[tokio::test(start_paused = true)]
async fn a_binding_holds_as_soon_as_it_is_answered() {
    let cluster = Cluster::new().await;
    let refused = cluster.ask(&ann(), "GET", PODS, &Value::Null).await.failure(403);
    assert_eq!(
        refused,
        "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the \
         namespace \"default\""
    );
    assert_eq!(cluster.code(&ann(), "GET", "/apis").await, 200);
    let metrics = cluster.ask(&ann(), "GET", "/v2/_catalog", &Value::Null).await;
    assert_eq!(metrics.code, 404, "no registry here");
    cluster.post(ROLES, &role("reader", &["pods"], &["get", "list"])).await.expect(201);
    let bound = binding("ann", ("Role", "reader"), "ann");
    let told = cluster.post(BINDINGS, &bound).await;
    assert!(told.header("warning").is_empty());
    told.expect(201);
    assert_eq!(cluster.code(&ann(), "GET", PODS).await, 200);
    assert_eq!(cluster.code(&ann(), "GET", "/api/v1/pods").await, 403);
    assert_eq!(cluster.code(&ann(), "GET", &format!("{PODS}/none/log")).await, 403);
    assert_eq!(cluster.code(&ann(), "GET", &format!("{PODS}/none")).await, 404);
    // What the role loses, its users lose; what the binding names, follows its deletion.
    let narrow = role("reader", &["pods"], &["get"]);
    cluster.put(&format!("{ROLES}/reader"), &narrow).await.expect(200);
    assert_eq!(cluster.code(&ann(), "GET", PODS).await, 403);
    assert_eq!(cluster.code(&ann(), "GET", &format!("{PODS}/none")).await, 404);
    cluster.delete(&format!("{BINDINGS}/ann"), &json!({})).await.expect(200);
    assert_eq!(cluster.code(&ann(), "GET", &format!("{PODS}/none")).await, 403);
    let everywhere = binding("ann", ("ClusterRole", "view"), "ann");
    cluster.post(CLUSTER_BINDINGS, &everywhere).await.expect(201);
    assert_eq!(cluster.code(&ann(), "GET", "/api/v1/pods").await, 200);
    assert_eq!(cluster.code(&ann(), "GET", "/api/v1/secrets").await, 403);
    // A dry run grants nothing.
    let admin = binding("admin", ("ClusterRole", "cluster-admin"), "ann");
    cluster.post(&format!("{CLUSTER_BINDINGS}?dryRun=All"), &admin).await.expect(201);
    assert_eq!(cluster.code(&ann(), "GET", "/api/v1/secrets").await, 403);
    // A server that starts on the same store knows all of it, and mends the default roles.
    cluster.delete(&format!("{CLUSTER_ROLES}/system:discovery"), &json!({})).await.expect(200);
    assert_eq!(cluster.code(&ann(), "GET", "/apis").await, 403);
    let view = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregate-to-view";
    cluster.merge(view, &json!({"rules": []})).await.expect(200);
    assert_eq!(cluster.code(&ann(), "GET", "/api/v1/pods").await, 403);
    let again = Cluster::over(cluster.store.clone(), Options::default()).await;
    assert_eq!(again.code(&ann(), "GET", "/apis").await, 200);
    assert_eq!(again.code(&ann(), "GET", "/api/v1/pods").await, 200);
}

#[tokio::test(start_paused = true)]
async fn nobody_grants_what_they_do_not_hold() {
    let cluster = Cluster::new().await;
    let bound = binding("ann", ("ClusterRole", "admin"), "ann");
    cluster.post(BINDINGS, &bound).await.expect(201);
    let post = async |path: &str, object: Value| cluster.ask(&ann(), "POST", path, &object).await;
    post(ROLES, role("mine", &["pods"], &["get", "list"])).await.expect(201);
    let refused = post(ROLES, role("more", &["nodes", "pods"], &["get"])).await.failure(403);
    assert_eq!(
        refused,
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"ann\" \
         (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
         held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"
    );
    let wide = role("mine", &["*"], &["*"]);
    cluster.ask(&ann(), "PUT", &format!("{ROLES}/mine"), &wide).await.failure(403);
    post(BINDINGS, binding("bob", ("Role", "mine"), "bob")).await.expect(201);
    post(BINDINGS, binding("eve", ("ClusterRole", "view"), "eve")).await.expect(201);
    let root = post(BINDINGS, binding("root", ("ClusterRole", "cluster-admin"), "ann")).await;
    assert!(root.failure(403).contains("{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}"));
    let none = post(BINDINGS, binding("none", ("Role", "none"), "ann")).await.failure(404);
    assert_eq!(none, "roles.rbac.authorization.k8s.io \"none\" not found");
    // Unless a verb says so.
    let verbs = json!({"metadata": {"name": "verbs"}, "rules": [
        {"apiGroups": [GROUP], "resources": ["roles"], "verbs": ["escalate"]},
        {"apiGroups": [GROUP], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"],
            "verbs": ["bind"]}]});
    cluster.post(ROLES, &verbs).await.expect(201);
    cluster.post(BINDINGS, &binding("verbs", ("Role", "verbs"), "ann")).await.expect(201);
    post(ROLES, role("more", &["nodes", "pods"], &["get"])).await.expect(201);
    post(BINDINGS, binding("root", ("ClusterRole", "cluster-admin"), "ann")).await.expect(201);
    // Who gathers cannot know what; in one namespace nobody holds everything.
    let writer = json!({"metadata": {"name": "writer"}, "rules": [
        {"apiGroups": [GROUP], "resources": ["clusterroles"], "verbs": ["create"]}]});
    cluster.post(CLUSTER_ROLES, &writer).await.expect(201);
    let bound = binding("writer", ("ClusterRole", "writer"), "ann");
    cluster.post(CLUSTER_BINDINGS, &bound).await.expect(201);
    let gathers = json!({"metadata": {"name": "all"}, "aggregationRule": {"clusterRoleSelectors":
        [{"matchLabels": {"a": "b"}}]}});
    let refused = post(CLUSTER_ROLES, gathers).await.failure(403);
    assert!(refused.ends_with("must have cluster-admin privileges to use an aggregationRule"));
}

#[tokio::test(start_paused = true)]
async fn questions_are_answered_and_not_stored() {
    let cluster = Cluster::new().await;
    cluster.post(BINDINGS, &binding("ann", ("ClusterRole", "view"), "ann")).await.expect(201);
    let revision = cluster.store.revision();
    let path = |resource: &str| format!("{REVIEWS}/{resource}");
    let may_list = |namespace: &str| {
        json!({"spec": {"resourceAttributes":
            {"verb": "list", "resource": "pods", "namespace": namespace}}})
    };
    let own = path("selfsubjectaccessreviews");
    let answer = cluster.ask(&ann(), "POST", &own, &may_list("default")).await.expect(201);
    assert_eq!(answer["kind"], "SelfSubjectAccessReview");
    assert_eq!(answer["status"]["allowed"], true);
    assert_eq!(
        answer["status"]["reason"],
        "RBAC: allowed by RoleBinding \"ann/default\" of ClusterRole \"view\" to User \"ann\""
    );
    let answer = cluster.ask(&ann(), "POST", &own, &may_list("")).await.expect(201);
    assert_eq!(answer["status"], json!({"allowed": false}));
    let healthz = json!({"spec": {"nonResourceAttributes": {"verb": "get", "path": "/healthz"}}});
    let answer = cluster.ask(&ann(), "POST", &own, &healthz).await.expect(201);
    assert_eq!(answer["status"]["allowed"], true);
    let message = cluster.ask(&ann(), "POST", &own, &json!({"spec": {}})).await.failure(422);
    assert!(message.contains("exactly one of nonResourceAttributes or resourceAttributes"));
    // About others only who is allowed to ask.
    let mut other = may_list("default");
    other["spec"]["user"] = "ann".into();
    let about = path("subjectaccessreviews");
    cluster.ask(&ann(), "POST", &about, &other).await.failure(403);
    assert_eq!(cluster.post(&about, &other).await.expect(201)["status"]["allowed"], true);
    other["spec"]["user"] = "bob".into();
    assert_eq!(cluster.post(&about, &other).await.expect(201)["status"]["allowed"], false);
    other["spec"]["groups"] = json!(["system:masters"]);
    assert_eq!(cluster.post(&about, &other).await.expect(201)["status"]["allowed"], true);
    let local =
        |namespace: &str| format!("{REVIEWS}/namespaces/{namespace}/localsubjectaccessreviews");
    assert_eq!(
        cluster.post(&local("default"), &other).await.expect(201)["status"]["allowed"],
        true
    );
    cluster.post(&local("kube-system"), &other).await.failure(422);
    let rules = path("selfsubjectrulesreviews");
    let asked = json!({"spec": {"namespace": "default"}});
    let answer = cluster.ask(&ann(), "POST", &rules, &asked).await.expect(201);
    let text = answer["status"]["resourceRules"].to_string();
    assert!(text.contains("selfsubjectaccessreviews") && text.contains("pods/log"), "{text}");
    assert!(answer["status"]["nonResourceRules"].to_string().contains("/healthz"));
    assert_eq!(answer["status"]["incomplete"], false);
    cluster.ask(&ann(), "POST", &rules, &json!({"spec": {}})).await.failure(400);
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = cluster.ask(&ann(), "POST", whoami, &json!({})).await.expect(201);
    let info = json!({"username": "ann", "groups": ["system:authenticated"]});
    assert_eq!(answer["status"]["userInfo"], info);
    assert_eq!(cluster.store.revision(), revision, "nothing is stored");
    // Nothing but POST, and no table.
    for method in ["GET", "DELETE", "PUT"] {
        assert_eq!(cluster.send(method, &own, &[], "").await.code, 405, "{method}");
    }
    assert_eq!(cluster.get(&format!("{own}/x")).await.code, 405);
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let answer = cluster.send("POST", &own, &table, may_list("").to_string()).await;
    answer.failure(406);
    let listed = cluster.get(REVIEWS).await.expect(200);
    let own = listed["resources"].as_array().unwrap();
    assert!(own.iter().all(|resource| resource["verbs"] == json!(["create"])), "{listed}");
    assert_eq!(own.len(), 4);
}

#[tokio::test(start_paused = true)]
async fn acting_as_another_needs_a_verb() {
    let cluster = Cluster::new().await;
    let whoami = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let root = User::system("test");
    let send = async |user: &User, headers: &[(&str, &str)]| {
        Answer::of(cluster.open_as(user, "POST", whoami, headers, "{}").await).await
    };
    let headers = [
        ("impersonate-user", "bob"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-scopes", "view"),
    ];
    let info = json!({"username": "bob", "uid": "7", "groups": ["dev", "system:authenticated"],
        "extra": {"scopes": ["view"]}});
    assert_eq!(send(&root, &headers).await.expect(201)["status"]["userInfo"], info);
    let refused = send(&ann(), &headers[..1]).await.failure(403);
    assert_eq!(
        refused,
        "users \"bob\" is forbidden: User \"ann\" cannot impersonate resource \"users\" in API \
         group \"\" at the cluster scope"
    );
    // Each header by itself.
    let rules = json!({"metadata": {"name": "act"}, "rules": [
        {"apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"],
            "verbs": ["impersonate"]},
        {"apiGroups": ["authentication.k8s.io"], "resources": ["userextras/scopes"],
            "verbs": ["impersonate"]}]});
    cluster.post(CLUSTER_ROLES, &rules).await.expect(201);
    let bound = binding("act", ("ClusterRole", "act"), "ann");
    cluster.post(CLUSTER_BINDINGS, &bound).await.expect(201);
    send(&ann(), &headers[..1]).await.expect(201);
    send(&ann(), &[headers[0], headers[3]]).await.expect(201);
    send(&ann(), &[("impersonate-user", "eve")]).await.failure(403);
    send(&ann(), &[headers[0], ("impersonate-group", "system:masters")]).await.failure(403);
    send(&ann(), &[headers[0], headers[2]]).await.failure(403);
    send(&ann(), &[("impersonate-group", "dev")]).await.failure(400);
    let account = [("impersonate-user", "system:serviceaccount:default:robot")];
    let refused = send(&ann(), &account).await.failure(403);
    assert!(refused.contains("serviceaccounts \"robot\" is forbidden"), "{refused}");
    // Who acts as bob is bob: masters' rights are gone.
    let answer = cluster.send("GET", PODS, &headers[..1], "").await;
    assert!(answer.failure(403).contains("User \"bob\" cannot list"));
    // And nobody gains by it: the effective user grants no more than it holds.
    let admin = binding("x", ("ClusterRole", "cluster-admin"), "bob").to_string();
    cluster.post(BINDINGS, &binding("bob", ("ClusterRole", "admin"), "bob")).await.expect(201);
    let answer = cluster.send("POST", BINDINGS, &headers[..1], admin).await;
    assert!(answer.failure(403).contains("not currently held"));
}
