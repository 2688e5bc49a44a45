//! What Prometheus scrapes.

use crate::cluster::Space;
use crate::cluster::tools::has;

/// The value of the first line that begins so.
fn value(text: &str, beginning: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(beginning));
    let line = line.unwrap_or_else(|| panic!("no {beginning:?} in:\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn the_control_plane_tells_its_numbers() {
    let Some(space) = Space::with_kubectl("metrics") else { return };
    let created = "apiserver_request_total{verb=\"CREATE\",group=\"\",version=\"v1\",\
                   resource=\"configmaps\",subresource=\"\",code=\"201\"}";
    for name in ["a", "b"] {
        space.kubectl(&format!("create configmap {name}")).ok();
    }
    space.kubectl("get configmap none").fails();
    let text = space.kubectl("get --raw /metrics").ok();
    assert!(value(&text, created) >= 2.0, "{text}");
    assert!(value(&text, &created.replace("CREATE", "GET").replace("201", "404")) >= 1.0);
    let seconds = "apiserver_request_duration_seconds_count{verb=\"CREATE\",group=\"\",\
                   version=\"v1\",resource=\"configmaps\",subresource=\"\"}";
    assert!(value(&text, seconds) >= 2.0);
    has(&text, &["# TYPE apiserver_request_duration_seconds histogram"]);
    assert!(value(&text, "workqueue_depth{name=\"deployment-controller\"}") >= 0.0);
    assert!(
        value(&text, "wasmfleet_controller_reconciles_total{name=\"namespace-controller\"}") >= 1.0
    );
    assert_eq!(
        value(&text, "wasmfleet_controller_panics_total{name=\"namespace-controller\"}"),
        0.0
    );
    assert!(value(&text, "workqueue_adds_total{name=\"namespace-controller\"}") >= 1.0);
    for histogram in ["workqueue_queue_duration_seconds", "workqueue_work_duration_seconds"] {
        has(&text, &[&format!("# TYPE {histogram} histogram")]);
        let count = format!("{histogram}_count{{name=\"namespace-controller\"}}");
        assert!(value(&text, &count) >= 1.0);
    }
    for lease in ["kube-controller-manager", "kube-scheduler"] {
        let leads = format!("leader_election_master_status{{name=\"{lease}\"}}");
        assert!(value(&text, &leads) >= 0.0);
        let holder = "jsonpath={.spec.holderIdentity}";
        let holder = space.kubectl(&format!("get lease -n kube-system {lease} -o {holder}")).ok();
        has(&space.wasmctl("controllers").ok(), &[&format!("{lease}: {holder} ")]);
    }
    has(&space.wasmctl("controllers").ok(), &["NAME", "P99", "namespace-controller"]);
    has(&space.kubectl("get --raw /debug/controllers").ok(), &["namespace-controller"]);
    assert!(value(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value(&text, "process_cpu_seconds_total") > 0.0);
    assert!(value(&text, "process_open_fds") > 3.0);
    assert!(value(&text, "wasmfleet_store_revision") > 2.0);
    let streams = "apiserver_longrunning_requests{request_kind=\"stream\",lane=\"reserved\"}";
    assert!(value(&text, streams) >= 0.0);
    // Every line is a comment, or a name with its labels and a number, and none comes twice.
    let mut names = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, number) = line.rsplit_once(' ').expect("two words");
        assert!(number.parse::<f64>().is_ok() && name.is_ascii(), "{line}");
        assert!(names.insert(name), "{line} comes twice");
    }
    // Not everyone may see them.
    let refused = space.kubectl("get --raw /metrics --as=somebody").fails();
    has(&refused, &["forbidden", "/metrics"]);
    space.kubectl("get --raw /metrics --as=watcher --as-group=system:monitoring").ok();
}
