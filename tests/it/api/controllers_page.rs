//! `/debug/controllers`: who may see it, and in which forms.

use wasmfleet::client::controller_status::{ControllerStatus, ControllersPage, LeaseStatus, PATH};

use super::*;

fn page() -> ControllersPage {
    let lease = LeaseStatus { name: "x".into(), leads: true, identity: "me".into() };
    let one = ControllerStatus { name: "deployment".into(), writes: 7, ..Default::default() };
    ControllersPage { leases: vec![lease], controllers: vec![one] }
}

#[tokio::test(start_paused = true)]
async fn it_is_shown_as_a_table_and_as_json() {
    let cluster = Cluster::new().await;
    assert_eq!(cluster.get(PATH).await.code, 404);
    cluster.server.show_controllers(Box::new(page));
    let text = cluster.get(PATH).await;
    assert_eq!(text.code, 200);
    assert!(text.text().starts_with("x: me leads\n\nNAME"), "{}", text.text());
    assert!(text.header("content-type").starts_with("text/plain"));
    let json = cluster.send("GET", PATH, &[("accept", "application/json")], "").await;
    assert_eq!(serde_json::from_value::<ControllersPage>(json.expect(200)).unwrap(), page());
    assert_eq!(cluster.post(PATH, &json!({})).await.code, 405);
    assert_eq!(cluster.get(&format!("{PATH}/more")).await.code, 404);
}

#[tokio::test(start_paused = true)]
async fn it_is_for_those_whose_roles_say_so() {
    let cluster = Cluster::new().await;
    cluster.server.show_controllers(Box::new(page));
    let user = User::new("jane", &["system:authenticated"]);
    let code = async |cluster: &Cluster| {
        cluster.open_as(&user, "GET", PATH, &[], "").await.status().as_u16()
    };
    assert_eq!(code(&cluster).await, 403);
    let role = json!({"metadata": {"name": "debug"},
        "rules": [{"nonResourceURLs": ["/debug/*"], "verbs": ["get"]}]});
    let binding = json!({"metadata": {"name": "debug"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "debug"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
    cluster.post(&format!("{RBAC}/clusterroles"), &role).await.expect(201);
    cluster.post(&format!("{RBAC}/clusterrolebindings"), &binding).await.expect(201);
    assert_eq!(code(&cluster).await, 200);
}
