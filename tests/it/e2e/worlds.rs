//! What programs are given beside WASI, on real nodes: configuration, buckets, identity and tokens,
//! readiness, and the time to end. And what they are refused, by name.

use crate::cluster::tools::has;
use crate::cluster::{Space, guests};

const IMAGE: &str = "worlds/workload:v1";

fn pod(name: &str, annotations: &str, args: &[&str]) -> String {
    let pod = guests::job_pod(name, IMAGE, args);
    pod.replace("labels:", &format!("annotations: {{{annotations}}}, labels:"))
}

fn space(name: &str) -> Space {
    let space = Space::new(name);
    let file = guests::path("rust-workload.wasm");
    space.wasmctl(&format!("push {} {IMAGE}", file.display())).ok();
    space
}

#[test]
fn programs_have_configuration_identity_and_buckets() {
    let space = space("worlds");
    space.apply(
        "apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {color: green}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: site}
data: {color: blue, size: large}
",
    );
    let given = "wasmfleet.dev/config: 'settings,site', wasmfleet.dev/keyvalue: shop, \
                 wasmfleet.dev/token-audiences: vault";
    let args = ["config=color", "whoami", "set=shop/greeting/hi there", "count=shop/n/2"];
    space.apply(&pod("one", given, &args));
    assert_eq!(space.exit_code("one"), 0, "{}", space.wasmctl("logs one").stdout);
    has(&space.wasmctl("logs one").ok(), &["blue\n", "namespace: \"worlds\"", "pod: \"one\""]);
    // Another pod has the same bucket; a third one has none of that name.
    let args = ["get=shop/greeting", "count=shop/n/40", "token=vault"];
    space.apply(&pod("two", given, &args));
    assert_eq!(space.exit_code("two"), 0, "{}", space.wasmctl("logs two").stdout);
    let told = space.wasmctl("logs two").ok();
    has(&told, &["hi there\n42\n"]);
    // A token is three parts of base64: the audience is in the second.
    assert_eq!(told.lines().nth(2).map(|token| token.split('.').count()), Some(3), "{told}");
    let other = given.replace("keyvalue: shop", "keyvalue: mine");
    space.apply(&pod("three", &other, &["keys=mine", "get=shop/greeting"]));
    assert_eq!(space.exit_code("three"), 1);
    has(&space.wasmctl("logs three").ok(), &["AccessDenied"]);
    // It is an object as all others: people see it, and it goes with the namespace.
    has(&space.wasmctl("get configmap keyvalue.shop -o yaml").ok(), &["greeting: aGkgdGhlcmU="]);
}

#[test]
fn what_a_pod_does_not_grant_is_refused_by_name() {
    let space = space("grants");
    let refused = space.wasmctl_with("apply -f -", &pod("a", "x: y", &["keys=shop"])).fails();
    has(
        &refused,
        &["spec.containers[0].image", "wasi:keyvalue/", "`wasmfleet.dev/keyvalue`", "buckets"],
    );
    let deployment = guests::deployment("web", IMAGE, 1);
    let refused = space.wasmctl_with("apply -f -", &deployment).fails();
    has(&refused, &["spec.template.spec.containers[0].image", "`wasmfleet.dev/keyvalue`"]);
    let names = pod("b", "wasmfleet.dev/keyvalue: 'shop,Not_A_Name'", &[]);
    let refused = space.wasmctl_with("apply -f -", &names).fails();
    has(&refused, &["metadata.annotations", "Not_A_Name"]);
    let given = "wasmfleet.dev/keyvalue: shop";
    space.apply(&pod("c", given, &["token=vault"]));
    assert_eq!(space.exit_code("c"), 1);
    has(&space.wasmctl("logs c").ok(), &["Denied"]);
    let later = space.wasmctl("annotate pod c wasmfleet.dev/keyvalue=other --overwrite").fails();
    has(&later, &["may not change while the pod exists"]);
}

#[test]
fn a_program_says_when_it_is_ready_and_ends_by_itself() {
    let space = space("ready");
    let given = "wasmfleet.dev/keyvalue: shop";
    space.apply(&pod("slow", given, &["config=nothing"]));
    assert_eq!(space.exit_code("slow"), 1);
    space.apply(&pod("p", given, &["keys=shop", "ready", "wait", "set=shop/last/words"]));
    let ready = ".status.conditions[?(@.type==\"Ready\")].status";
    space.wait_value("pod p", ready, "True");
    space.wasmctl("delete pod p --no-wait").ok();
    crate::cluster::until("the pod is gone", || {
        let output = space.wasmctl("get pod p");
        if output.code == 0 { Err(output.told()) } else { Ok(()) }
    });
    // It had the time for what was left to do.
    space.apply(&pod("after", given, &["get=shop/last"]));
    assert_eq!(space.exit_code("after"), 0);
    has(&space.wasmctl("logs after").ok(), &["words"]);
}
