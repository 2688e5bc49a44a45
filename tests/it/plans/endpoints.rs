//! Endpoints made of slices, and slices made of Endpoints.

use super::*;

fn service(selector: Value) -> Value {
    json!({"kind": "Service", "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"selector": selector, "clusterIP": "127.128.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"name": "h", "port": 80}]}})
}

fn slice(name: &str, endpoints: &[(&str, bool, bool)]) -> Value {
    let endpoint = |(ip, ready, terminating): &(&str, bool, bool)| {
        json!({"addresses": [ip], "nodeName": "n1",
            "conditions": {"ready": ready, "serving": ready, "terminating": terminating}})
    };
    json!({"kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "ownerReferences": [owner("v1", "Service", "web")],
            "labels": {"endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                "kubernetes.io/service-name": "web"}},
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
        "ports": [{"name": "h", "port": 8080, "protocol": "TCP"}]})
}

fn endpoints(labels: Value, subsets: Value) -> Value {
    json!({"kind": "Endpoints", "metadata": {"name": "web", "labels": labels}, "subsets": subsets})
}

#[tokio::test(start_paused = true)]
async fn endpoints_follow_the_slices_at_a_pace() {
    let selector = json!({"app": "web"});
    let both = [
        slice("web-1", &[("127.64.0.9", true, false), ("127.64.0.10", false, false)]),
        slice("web-2", &[("127.64.0.2", true, false), ("127.64.0.3", false, true)]),
    ];
    let labels = json!({"app": "web", "endpoints.kubernetes.io/managed-by": "endpoint-controller"});
    let subsets = json!([{
        "addresses": [{"ip": "127.64.0.2", "nodeName": "n1"}, {"ip": "127.64.0.9", "nodeName": "n1"}],
        "notReadyAddresses": [{"ip": "127.64.0.10", "nodeName": "n1"}],
        "ports": [{"name": "h", "port": 8080, "protocol": "TCP"}]}]);
    let [one, two] = both;
    let objects = Objects::new(&[service(selector.clone()), one.clone(), two.clone()]);
    let wanted = json!({"metadata": {"labels": labels, "name": "web", "namespace": "default"},
        "subsets": subsets});
    objects.check(
        "endpoint-controller",
        "default/web",
        &format!("create endpoints default/* {wanted}"),
    );
    let made = endpoints(labels.clone(), subsets.clone());
    let objects = Objects::new(&[service(selector.clone()), one.clone(), two, made.clone()]);
    objects.check("endpoint-controller", "default/web", "");
    // A second has to pass between two writes.
    let objects = Objects::new(&[service(selector.clone()), one, made.clone()]);
    tokio::time::advance(Duration::from_millis(400)).await;
    objects.check("endpoint-controller", "default/web", "again after 600ms");
    tokio::time::advance(Duration::from_millis(600)).await;
    let plan = objects.plan("endpoint-controller", "default/web");
    assert_eq!(plan.writes.len(), 1, "{}", objects.text(&plan));
    // What a Service without a selector has is its author's; what is made here goes with it.
    let objects = Objects::new(&[service(json!({})), made.clone()]);
    objects.check("endpoint-controller", "default/web", "");
    let objects = Objects::new(&[made]);
    objects.check("endpoint-controller", "default/web", "delete endpoints default/web");
    let objects = Objects::new(&[endpoints(json!({}), subsets)]);
    objects.check("endpoint-controller", "default/web", "");
}

#[test]
fn endpoints_of_others_are_mirrored() {
    const CONTROLLER: &str = "endpointslicemirroring-controller";
    let subsets = json!([{"addresses": [{"ip": "10.0.0.1"}],
        "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80, "protocol": "TCP"}]}]);
    let custom = endpoints(json!({"app": "web"}), subsets.clone());
    let wanted = json!({"addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}}],
        "metadata": {"generateName": "web-", "labels": {"app": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslicemirroring-controller.k8s.io",
            "kubernetes.io/service-name": "web"}, "namespace": "default",
            "ownerReferences": [{"apiVersion": "v1", "blockOwnerDeletion": true, "controller": true,
                "kind": "Endpoints", "name": "web", "uid": "web-uid"}]},
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}]});
    let objects = Objects::new(&[service(json!({})), custom.clone()]);
    let create = format!("create endpointslices.discovery.k8s.io default/* {wanted}");
    objects.check(CONTROLLER, "default/web", &create);
    // Without a Service, with a selector, or where it is not wanted: nothing.
    Objects::new(std::slice::from_ref(&custom)).check(CONTROLLER, "default/web", "");
    let selected = [service(json!({"app": "web"})), custom.clone()];
    Objects::new(&selected).check(CONTROLLER, "default/web", "");
    let skipped = endpoints(json!({"endpointslice.kubernetes.io/skip-mirror": "true"}), subsets);
    Objects::new(&[service(json!({})), skipped]).check(CONTROLLER, "default/web", "");
    // A mirror goes when there is nothing to mirror any more.
    let mut mirror = slice("web-1", &[("10.0.0.1", true, false)]);
    mirror["metadata"]["ownerReferences"] = json!([owner("v1", "Endpoints", "web")]);
    mirror["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"] =
        "endpointslicemirroring-controller.k8s.io".into();
    let empty = endpoints(json!({"app": "web"}), json!(null));
    let objects = Objects::new(&[service(json!({})), empty, mirror]);
    let delete = "delete endpointslices.discovery.k8s.io default/web-1";
    objects.check(CONTROLLER, "default/web", delete);
}
