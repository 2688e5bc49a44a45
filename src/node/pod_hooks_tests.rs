//! Lifecycle hooks in the state machine: events by line, and what came of each.

use serde_json::{Value, json};

use super::pod_events::{Event, ProbeKind};
use super::pod_hooks::Hook;
use super::pod_state_tests::{Script, pod, web};

fn hooked(hook: &str) -> Value {
    let mut spec = web();
    spec["containers"][0]["lifecycle"] = json!({hook: {"sleep": {"seconds": 5}}});
    spec
}

#[test]
fn a_post_start_hook_is_waited_for() {
    let mut spec = hooked("postStart");
    let second = json!({"name": "b", "image": "i"});
    spec["containers"].as_array_mut().unwrap().push(second);
    let mut script = Script::new(pod(spec.clone(), json!({})));
    script.ready().started("web", 0).after(5).hook("web", Hook::PostStart, true).started("b", 0);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0 b:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0 b:ContainerCreating/0
        PostStart web (held) | Pending web:ContainerCreating/0 b:ContainerCreating/0
        -- 5 s
        | Pending web:ContainerCreating/0 b:ContainerCreating/0
        Start b#0 | Pending web:running,ready/0 b:ContainerCreating/0
        | Running web:running,ready/0 b:running,ready/0",
    );
    let mut script = Script::new(pod(spec, json!({})));
    script.ready().started("web", 0).hook("web", Hook::PostStart, false).exited("web", 0, 137, 1);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0 b:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0 b:ContainerCreating/0
        PostStart web (held) | Pending web:ContainerCreating/0 b:ContainerCreating/0
        Stop web 30s, Start b#0 | Pending web:running,unready/0 b:ContainerCreating/0
        Start web#1 | Pending web:Error=137/0 b:ContainerCreating/0",
    );
    // A handler ends well when it is told to; that its hook failed is what counts.
    let mut spec = hooked("postStart");
    spec["restartPolicy"] = json!("Never");
    let mut script = Script::new(pod(spec, json!({})));
    script.ready().started("web", 0).hook("web", Hook::PostStart, false).exited("web", 0, 0, 1);
    script.event(Event::TornDown);
    assert!(script.text.ends_with("| Failed web:Error=137/0\n"), "{}", script.text);
    // A pod that is deleted meanwhile waits for nothing.
    let mut script = Script::new(pod(hooked("postStart"), json!({})));
    script.ready().started("web", 0).delete(1).after(1);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        PostStart web (held) | Pending web:ContainerCreating/0
        Drain web | Running web:running,unready/0
        -- 1 s
        Stop web 0s | Running web:running,unready/0",
    );
}

#[test]
fn a_pre_stop_hook_takes_of_the_grace_period() {
    let mut script = Script::new(pod(hooked("preStop"), json!({})));
    script.ready().started("web", 0).delete(30).after(5).hook("web", Hook::PreStop, true);
    script.exited("web", 0, 0, 5);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        | Running web:running,ready/0
        PreStop web, Drain web | Running web:running,ready/0
        -- 5 s
        | Running web:running,ready/0
        Stop web 25s | Running web:running,unready/0
        TearDown (held) | Succeeded web:Completed=0/0",
    );
    // One that takes all of it leaves two seconds. What is forced has none.
    let mut script = Script::new(pod(hooked("preStop"), json!({})));
    script.ready().started("web", 0).delete(30).after(10).delete(20).after(10).after(1);
    script.hook("web", Hook::PreStop, true).event(Event::Gone);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        | Running web:running,ready/0
        PreStop web, Drain web | Running web:running,ready/0
        -- 10 s
        | Running web:running,ready/0
        | Running web:running,ready/0
        -- 10 s
        Stop web 2s | Running web:running,unready/0
        -- 1 s
        | Running web:running,unready/0
        | Running web:running,unready/0
        Stop web 0s | Running web:running,unready/0",
    );
    let mut script = Script::new(pod(hooked("preStop"), json!({})));
    script.ready().started("web", 0).delete(0);
    assert!(script.text.ends_with("Stop web 0s | Running web:running,unready/0\n"));
    // By itself it ends without one.
    let mut script = Script::new(pod(hooked("preStop"), json!({})));
    script.ready().started("web", 0).exited("web", 0, 0, 1);
    assert!(!script.text.contains("PreStop"), "{}", script.text);
}

#[test]
fn a_restart_runs_the_pre_stop_hook_and_sidecars_have_theirs_at_once() {
    let mut script = Script::new(pod(hooked("preStop"), json!({})));
    script.ready().started("web", 0).probe(ProbeKind::Liveness, false).after(1);
    script.hook("web", Hook::PreStop, false).exited("web", 0, 137, 1);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        | Running web:running,ready/0
        PreStop web | Running web:running,unready/0
        -- 1 s
        | Running web:running,unready/0
        Stop web 29s | Running web:running,unready/0
        Start web#1 | Running web:Error=137/0",
    );
    let mut spec = web();
    let side = json!({"name": "s", "image": "i", "restartPolicy": "Always",
        "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}});
    spec["initContainers"] = json!([side]);
    let mut script = Script::new(pod(spec, json!({})));
    script.ready().started("s", 0).started("web", 0).delete(10).after(1);
    script.exited("web", 0, 0, 1).hook("s", Hook::PreStop, true);
    script.check(
        "SetUp (held) | Pending s:PodInitializing/0 web:PodInitializing/0
        Start s#0 (held) | Pending s:PodInitializing/0 web:PodInitializing/0
        Start web#0 | Pending s:running,ready/0 web:ContainerCreating/0
        | Running s:running,ready/0 web:running,ready/0
        PreStop s, Drain s, Drain web | Running s:running,ready/0 web:running,ready/0
        -- 1 s
        Stop web 9s | Running s:running,ready/0 web:running,unready/0
        | Running s:running,ready/0 web:Completed=0/0
        Stop s 9s | Running s:running,unready/0 web:Completed=0/0",
    );
}
