//! What a container gets, how it ends, and what holds it: on real nodes with real guests.

use std::time::{Duration, Instant};

use crate::cluster::tools::has;
use crate::cluster::{Space, guests, http, until};
use crate::runtime::network::client;

#[test]
fn exit_codes_and_reasons_survive() {
    let space = Space::new("exits");
    space.apply(&guests::job_pod("ok", "tool:v1", &["hi"]));
    space.apply(&guests::job_pod("p1", "exit7:v1", &[]));
    space.apply(&guests::job_pod("high", "tool:v1", &["exit=200"]));
    space.apply(&guests::job_pod("component", "command:v1", &["exit=3"]));
    space.apply(&guests::job_pod("trap", "tool:v1", &["trap"]));
    let reason = ".status.containerStatuses[0].state.terminated.reason";
    for (pod, code, why) in [
        ("ok", 0, "Completed"),
        ("p1", 7, "Error"),
        ("high", 200, "Error"),
        ("component", 3, "Error"),
    ] {
        assert_eq!(space.exit_code(pod), code, "{pod}");
        assert_eq!(space.value(&format!("pod {pod}"), reason), why, "{pod}");
    }
    assert_ne!(space.exit_code("trap"), 0);
    space.wait_value("pod ok", ".status.phase", "Succeeded");
    space.wait_value("pod p1", ".status.phase", "Failed");
    has(&space.wasmctl("logs trap").ok(), &["trap asked for"]);
}

#[test]
fn too_much_memory_is_oom_killed() {
    let space = Space::new("oom");
    let pod = guests::job_pod("hog", "hog:v1", &[]);
    let limit = "resources: {limits: {memory: 32Mi}}, args:";
    space.apply(&pod.replace("args:", limit));
    space.exit_code("hog");
    let state = ".status.containerStatuses[0].state.terminated";
    assert_eq!(space.value("pod hog", &format!("{state}.reason")), "OOMKilled");
    assert_eq!(space.value("pod hog", &format!("{state}.exitCode")), "137");
}

#[test]
fn a_crash_backs_off_and_keeps_its_last_log() {
    let space = Space::new("crash");
    space.apply(&guests::job_pod("p", "tool:v1", &["exit=4"]).replace("Never", "Always"));
    let waiting = ".status.containerStatuses[0].state.waiting.reason";
    space.wait_value("pod p", waiting, "CrashLoopBackOff");
    let last = ".status.containerStatuses[0].lastState.terminated.exitCode";
    assert_eq!(space.value("pod p", last), "4");
    has(&space.wasmctl("logs p --previous").ok(), &["arg[1]=exit=4", "done 4"]);
    has(&space.wasmctl("get pod p").ok(), &["CrashLoopBackOff"]);
    has(&space.wasmctl("describe pod p").ok(), &["CrashLoopBackOff", "back-off"]);
}

#[test]
fn environment_and_volumes_come_from_objects() {
    let space = Space::new("inputs");
    space.apply(
        "apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {greeting: hi, file.txt: from the config map}
---
apiVersion: v1
kind: Secret
metadata: {name: key}
stringData: {password: hunter2}
---
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {tier: web}}
spec:
  restartPolicy: Never
  volumes:
  - {name: conf, configMap: {name: conf}}
  - {name: key, secret: {secretName: key}}
  - {name: scratch, emptyDir: {}}
  containers:
  - name: main
    image: tool:v1
    args: [cat=/conf/file.txt, cat=/key/password, write=/scratch/x, cat=/scratch/x, $(GREETING)]
    env:
    - {name: GREETING, valueFrom: {configMapKeyRef: {name: conf, key: greeting}}}
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: key, key: password}}}
    - {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: TIER, valueFrom: {fieldRef: {fieldPath: 'metadata.labels[''tier'']'}}}
    volumeMounts:
    - {name: conf, mountPath: /conf}
    - {name: key, mountPath: /key}
    - {name: scratch, mountPath: /scratch}
",
    );
    assert_eq!(space.exit_code("p"), 0, "{}", space.wasmctl("logs p").stdout);
    let log = space.wasmctl("logs p").ok();
    let ip = space.value("pod p", ".status.podIP");
    let wanted = [
        "from the config map",
        "hunter2",
        "written by the guest",
        "arg[5]=hi",
        "env GREETING=hi",
        "env PASSWORD=hunter2",
        "env NAME=p",
        "env TIER=web",
        &format!("env IP={ip}"),
    ];
    has(&log, &wanted);
}

/// A program calls the API with what is mounted, for as long as its pod is there.
#[test]
fn a_pod_calls_the_api_with_its_token() {
    let space = Space::new("token");
    let secrets = "/var/run/secrets/kubernetes.io/serviceaccount";
    let args = ["token", "namespace", "ca.crt"].map(|file| format!("cat={secrets}/{file}"));
    let args = [args[0].as_str(), &args[1], &args[2], "sleep=600000"];
    space.apply(&guests::job_pod("p", "tool:v1", &args));
    let log = until("the pod's token", || {
        let log = space.wasmctl("logs p").stdout;
        if log.contains("END CERTIFICATE") { Ok(log) } else { Err(log) }
    });
    // The files of token and namespace end without a new line.
    has(&log, &["tokenarg[3]"]);
    let token = log.find("eyJ").zip(log.find("arg[2]")).map(|(begin, end)| &log[begin..end]);
    let token = token.unwrap_or_else(|| panic!("no token in {log}"));

    let admin = std::fs::read_to_string(space.cluster.kubeconfig()).unwrap();
    let mut config: serde_yaml::Value = serde_yaml::from_str(&admin).unwrap();
    let user = serde_yaml::to_value(std::collections::BTreeMap::from([("token", token)])).unwrap();
    config["users"][0]["user"] = user;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("kubeconfig");
    std::fs::write(&file, serde_yaml::to_string(&config).unwrap()).unwrap();
    let env = [("KUBECONFIG", file.to_str().unwrap())];
    let list = || {
        let program = std::path::Path::new(crate::cluster::WASMCTL);
        space.cluster.run_with(program, "get pods -n token", "", &env).fails()
    };
    has(&list(), &["User \"system:serviceaccount:token:default\" cannot list resource \"pods\""]);
    space.wasmctl("delete pod p --grace-period 1").ok();
    has(&list(), &["does not accept these credentials"]);
}

#[test]
fn logs_are_cut_followed_and_timed() {
    let space = Space::new("logs");
    space.apply(&guests::job_pod("p", "tool:v1", &["one", "two", "sleep=1500", "three"]));
    // Followed from before its end to its end.
    until("a start", || {
        let phase = space.value("pod p", ".status.phase");
        if phase == "Running" || phase == "Succeeded" { Ok(()) } else { Err(phase) }
    });
    let followed = space.wasmctl("logs p -f").ok();
    has(&followed, &["arg[1]=one", "arg[4]=three", "done 0"]);
    assert_eq!(space.exit_code("p"), 0);
    let all = space.wasmctl("logs p").ok();
    assert_eq!(all, followed);
    let tail = space.wasmctl("logs p --tail=2").ok();
    assert_eq!(tail.lines().count(), 2);
    assert!(all.ends_with(&tail));
    let timed = space.wasmctl("logs p --timestamps --tail=1").ok();
    let time: Result<jiff::Timestamp, _> = timed.split(' ').next().expect("a word").parse();
    assert!(time.is_ok(), "{timed}");
    assert_eq!(space.wasmctl("logs p --since=1h").ok(), all);
    has(&space.wasmctl("logs p -c other").fails(), &["other"]);
    has(&space.wasmctl("logs p --previous").fails(), &["previous"]);
}

/// A guest that never yields and a limit of a tenth of a core: its neighbours answer as before,
/// and it gets no more than its tenth.
#[test]
fn a_busy_loop_starves_nobody_and_keeps_its_limit() {
    let space = Space::new("busy");
    space.apply(&guests::deployment("web", "hello:v1", 1));
    space.apply(&guests::service("web"));
    space.rolled_out("deployment/web");
    let url = space.service_url("web");
    until("an answer", || http::get(&url));
    for n in 0..4 {
        let pod = guests::job_pod(&format!("spin-{n}"), "spin:v1", &[]);
        space.apply(&pod.replace("args:", "resources: {limits: {cpu: 100m}}, args:"));
    }
    for n in 0..4 {
        space.wait_value(&format!("pod spin-{n}"), ".status.phase", "Running");
    }
    let mut times: Vec<Duration> = (0..50)
        .map(|_| {
            let begin = Instant::now();
            http::get(&url).expect("an answer beside busy neighbours");
            begin.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[25] < Duration::from_millis(500), "median {:?}", times[25]);
    // Killed in the middle of its loop, and gone.
    space.wasmctl("delete pod spin-0 spin-1 spin-2 spin-3 --force").ok();
    assert_eq!(space.value("pods", ".items[*].metadata.labels.app"), "web");
}

#[test]
fn probes_restart_and_take_out_of_service() {
    let space = Space::new("probes");
    let web = guests::deployment("web", "who:v1", 1);
    let missing = web.replace("httpGet: {path: /,", "httpGet: {path: /missing,");
    space.apply(&missing);
    space.apply(&guests::service("web"));
    space.wait_value("pods", ".items[*].status.phase", "Running");
    has(&space.wasmctl("get pods").ok(), &["0/1"]);
    let url = space.service_url("web");
    assert!(http::get(&url).is_err(), "a pod that is not ready gets no requests");
    let healthy = web
        + "        livenessProbe: {httpGet: {path: /missing, port: http}, \
                         periodSeconds: 1, failureThreshold: 1}\n";
    space.apply(&healthy);
    until("a restart by the liveness probe", || {
        let counts = space.value("pods", ".items[*].status.containerStatuses[*].restartCount");
        match counts.split(' ').any(|n| n.parse().unwrap_or(0) > 0) {
            true => Ok(()),
            false => Err(counts),
        }
    });
    until("an event", || {
        let events = space.wasmctl("get events").ok();
        if events.contains("Unhealthy") { Ok(()) } else { Err(events) }
    });
}

#[test]
fn every_world_runs_and_answers_on_its_pods_address() {
    let space = Space::new("worlds");
    let cluster = space.cluster;
    for (image, file) in [("p3:v1", "rust-http-p3.wasm"), ("wstd:v1", "rust-http-wstd.wasm")] {
        cluster.push(&guests::path(file), image);
        let name = image.split(':').next().expect("a name");
        space.apply(&guests::deployment(name, image, 1));
        space.rolled_out(&format!("deployment/{name}"));
        let pod = space
            .wasmctl(&format!("get pods -l app={name} -o jsonpath={{.items[0].status.podIP}}"));
        let answer = http::get(&format!("http://{}:8080/", pod.ok())).expect("an answer");
        assert!(answer.starts_with("hello "), "{answer}");
    }
    // The 0.3 guest knows no exit codes.
    for (name, file, code) in [("cmdp3", "rust-cmd-p3.wasm", 0), ("cp1", "c-cmd-p1.wasm", 5)] {
        cluster.push(&guests::path(file), &format!("{name}:v1"));
        space.apply(&guests::job_pod(name, &format!("{name}:v1"), &["exit=5"]));
        assert_eq!(space.exit_code(name), code, "{name}");
        has(&space.wasmctl(&format!("logs {name}")).ok(), &["arg[1]=exit=5"]);
    }
}

#[test]
fn guests_find_services_by_name() {
    let space = Space::new("names");
    space.apply(&guests::deployment("web", "hello:v1", 1));
    space.apply(&guests::service("web").replace("port: 80,", "port: 8080,"));
    let headless = guests::service("web").replace("name: web}", "name: peers}");
    space.apply(&headless.replace("spec:", "spec:\n  clusterIP: None"));
    space.rolled_out("deployment/web");
    let url = space.service_url("web");
    until("an answer", || http::get(&url));
    let names = ["web", "web.names.svc.cluster.local", "peers", "nothing.names.svc"];
    for (n, name) in names.into_iter().enumerate() {
        let pod = format!("client-{n}");
        let file = guests::written(&pod, &client("p2", name, 8080));
        space.cluster.push(&file, &format!("{pod}:v1"));
        space.apply(&guests::job_pod(&pod, &format!("{pod}:v1"), &[]));
        let unresolvable = 28;
        let wanted = if name.starts_with("nothing") { unresolvable } else { 0 };
        assert_eq!(space.exit_code(&pod), wanted, "{name}");
    }
}
