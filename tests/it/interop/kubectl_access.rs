//! The real kubectl and who may do what.

use crate::cluster::tools::has;
use crate::cluster::{Space, until};

#[test]
fn roles_decide_what_others_may_do() {
    let Some(space) = Space::with_kubectl("k-access") else { return };
    let kubectl = |words: &str| space.kubectl(words).ok();
    has(&kubectl("auth whoami"), &["Username", "admin", "system:masters"]);
    has(&kubectl("auth whoami --as=ann --as-group=dev"), &["ann", "dev", "system:authenticated"]);
    assert_eq!(space.kubectl("auth can-i get pods --as=k-ann").stdout, "no\n");
    let refused = space.kubectl("get pods --as=k-ann").fails();
    has(&refused, &["Forbidden", "User \"k-ann\" cannot list resource \"pods\"", "\"k-access\""]);
    kubectl("create role reader --verb=get,list,watch --resource=pods,pods/log");
    kubectl("create rolebinding k-ann --role=reader --user=k-ann");
    assert_eq!(kubectl("auth can-i get pods --as=k-ann"), "yes\n");
    assert_eq!(kubectl("auth can-i get pods --subresource=log --as=k-ann"), "yes\n");
    assert_eq!(space.kubectl("auth can-i delete pods --as=k-ann").stdout, "no\n");
    kubectl("get pods --as=k-ann");
    has(&kubectl("auth can-i --list --as=k-ann"), &["pods/log", "[get list watch]", "[/healthz]"]);
    has(&kubectl("get rolebinding k-ann -o wide"), &["Role/reader", "k-ann"]);
    has(&kubectl("describe role reader"), &["pods/log", "[get list watch]"]);
    // An administrator of the namespace grants what is theirs, and no more.
    kubectl("create rolebinding k-bob --clusterrole=admin --user=k-bob");
    kubectl("create role more --verb=delete --resource=pods --as=k-bob");
    let root = "create rolebinding root --clusterrole=cluster-admin --user=k-bob --as=k-bob";
    has(&space.kubectl(root).fails(), &["attempting to grant RBAC permissions not currently held"]);
    let refused = space.kubectl("create clusterrole k-more --verb=get --resource=nodes --as=k-bob");
    has(&refused.fails(), &["cannot create resource \"clusterroles\""]);
    // For the whole cluster.
    kubectl("create clusterrole k-nodes --verb=get,list --resource=nodes");
    kubectl("create clusterrolebinding k-nodes --clusterrole=k-nodes --group=k-ops");
    has(&kubectl("get nodes --as=k-eve --as-group=k-ops"), &["node-1"]);
    has(&space.kubectl("get nodes --as=k-eve").fails(), &["at the cluster scope"]);
    has(&kubectl("api-resources --api-group=authorization.k8s.io"), &["subjectaccessreviews"]);
    kubectl("delete clusterrolebinding k-nodes");
    kubectl("delete clusterrole k-nodes");
    // A role that gathers others shows their rules.
    until("the rules of view", || {
        let page = kubectl("describe clusterrole view");
        if page.contains("configmaps") { Ok(()) } else { Err(page) }
    });
    has(&kubectl("describe clusterrole admin"), &["rolebindings", "deployments", "pods/log"]);
}
