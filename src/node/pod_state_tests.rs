//! The state machine as data in, text out: events by line, and what came of each.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::container_state::container_id;
use super::pod_events::{Event, ProbeKind};
use super::pod_hooks::Hook;
use super::pod_state::{PodState, Timing};
use super::pod_status::{merge, render};
use super::pod_step::{Action, Step};
use super::restore::restore;

pub(super) fn pod(spec: Value, meta: Value) -> Arc<Pod> {
    let mut metadata = json!({"name": "p", "namespace": "n", "uid": "u"});
    if let (Some(base), Value::Object(more)) = (metadata.as_object_mut(), meta) {
        base.extend(more);
    }
    Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
}

pub(super) fn web() -> Value {
    json!({"containers": [{"name": "web", "image": "i"}]})
}

/// A state, its clock and the story so far.
pub(super) struct Script {
    state: PodState,
    now: Timestamp,
    pub(super) text: String,
}

impl Script {
    pub(super) fn new(pod: Arc<Pod>) -> Script {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let mut state = PodState::new(pod, Timing::default(), now);
        restore(&mut state, now);
        let mut script = Script { state, now, text: String::new() };
        script.step();
        script
    }

    pub(super) fn event(&mut self, event: Event) -> &mut Script {
        self.state.apply(event, self.now);
        self.step()
    }

    pub(super) fn after(&mut self, seconds: u64) -> &mut Script {
        self.now += Duration::from_secs(seconds);
        let _ = writeln!(self.text, "-- {seconds} s");
        self.step()
    }

    fn step(&mut self) -> &mut Script {
        let step = self.state.step(self.now);
        let status = render(&self.state, "10.0.0.1", self.now);
        let mut line = actions(&step);
        let shown = serde_json::to_value(&status).unwrap();
        let phase = shown["phase"].as_str().unwrap_or("?").to_string();
        let mut containers = Vec::new();
        for list in ["initContainerStatuses", "containerStatuses"] {
            for c in shown[list].as_array().into_iter().flatten() {
                containers.push(container(c));
            }
        }
        if step.hold_status {
            line.push_str(" (held)");
        }
        if step.done {
            line.push_str(" done");
        }
        let line = format!("{line} | {phase} {}", containers.join(" "));
        let _ = writeln!(self.text, "{}", line.trim());
        self
    }

    pub(super) fn ready(&mut self) -> &mut Script {
        self.event(Event::SandboxReady { ip: "127.64.0.2".parse().unwrap() })
    }

    pub(super) fn started(&mut self, name: &str, attempt: i32) -> &mut Script {
        self.event(Event::Started {
            container: name.into(),
            attempt,
            image_id: "i@sha256:0".into(),
            serves: true,
        })
    }

    pub(super) fn exited(
        &mut self,
        name: &str,
        attempt: i32,
        code: i32,
        ran_seconds: i64,
    ) -> &mut Script {
        let started_at = self.now - jiff::SignedDuration::from_secs(ran_seconds);
        let exit = ContainerStateTerminated {
            exit_code: code,
            reason: Some(if code == 0 { "Completed" } else { "Error" }.into()),
            started_at: Some(Time(started_at)),
            finished_at: Some(Time(self.now)),
            ..ContainerStateTerminated::default()
        };
        self.event(Event::Exited { id: container_id("u", name, attempt), exit })
    }

    pub(super) fn probe(&mut self, kind: ProbeKind, passed: bool) -> &mut Script {
        self.event(Event::Probe { id: container_id("u", "web", 0), kind, passed })
    }

    pub(super) fn hook(&mut self, name: &str, hook: Hook, passed: bool) -> &mut Script {
        self.event(Event::HookEnded { id: container_id("u", name, 0), hook, passed })
    }

    pub(super) fn delete(&mut self, grace: i64) -> &mut Script {
        let mut pod = (*self.state.pod).clone();
        pod.metadata.deletion_timestamp = Some(Time(self.now));
        pod.metadata.deletion_grace_period_seconds = Some(grace);
        self.event(Event::Desired(Arc::new(pod)))
    }

    pub(super) fn check(&self, wanted: &str) {
        let trim = |text: &str| -> String {
            text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("\n")
        };
        assert_eq!(trim(&self.text), trim(wanted), "\n{}", self.text);
    }
}

fn actions(step: &Step) -> String {
    let one = |action: &Action| match action {
        Action::SetUp => "SetUp".to_string(),
        Action::Start { container, attempt } => format!("Start {container}#{attempt}"),
        Action::Hook { container, hook } => format!("{hook:?} {container}"),
        Action::Drain { container } => format!("Drain {container}"),
        Action::Stop { container, grace } => format!("Stop {container} {}s", grace.as_secs()),
        Action::Cancel { container } => {
            format!("Cancel {}", container.as_deref().unwrap_or("setup"))
        }
        Action::TearDown => "TearDown".to_string(),
        Action::DeleteObject => "Delete".to_string(),
    };
    step.actions.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn container(c: &Value) -> String {
    let state = &c["state"];
    let text = if let Some(waiting) = state.get("waiting") {
        waiting["reason"].as_str().unwrap_or_default().to_string()
    } else if let Some(exit) = state.get("terminated") {
        format!("{}={}", exit["reason"].as_str().unwrap_or_default(), exit["exitCode"])
    } else {
        let ready = if c["ready"] == true { "ready" } else { "unready" };
        format!("running,{ready}")
    };
    format!("{}:{text}/{}", c["name"].as_str().unwrap_or_default(), c["restartCount"])
}

#[test]
fn start_crash_and_back_off() {
    let mut script = Script::new(pod(web(), json!({})));
    script.ready().started("web", 0).exited("web", 0, 1, 1).started("web", 1);
    script.exited("web", 1, 1, 1).after(9).after(1).started("web", 2);
    script.exited("web", 2, 1, 1).after(20).started("web", 3);
    // It ran for long, so the wait begins anew: a restart at once.
    script.exited("web", 3, 0, 600);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        | Running web:running,ready/0
        Start web#1 | Running web:Error=1/0
        | Running web:running,ready/1
        | Running web:CrashLoopBackOff/1
        -- 9 s
        | Running web:CrashLoopBackOff/1
        -- 1 s
        Start web#2 (held) | Running web:Error=1/1
        (held) | Running web:running,ready/2
        | Running web:CrashLoopBackOff/2
        -- 20 s
        Start web#3 (held) | Running web:Error=1/2
        (held) | Running web:running,ready/3
        Start web#4 | Running web:Completed=0/3",
    );
}

#[test]
fn deletion_drains_stops_tears_down_and_deletes() {
    let mut script = Script::new(pod(web(), json!({})));
    script.ready().started("web", 0).delete(30).after(1);
    // A second delete shortens the grace.
    script.delete(1).exited("web", 0, 0, 5).event(Event::TornDown).event(Event::Gone);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        | Running web:running,ready/0
        Drain web | Running web:running,ready/0
        -- 1 s
        Stop web 29s | Running web:running,unready/0
        Stop web 0s | Running web:running,unready/0
        TearDown (held) | Succeeded web:Completed=0/0
        Delete | Succeeded web:Completed=0/0
        done | Succeeded web:Completed=0/0",
    );
}

#[test]
fn deletion_while_starting_cancels() {
    let mut script = Script::new(pod(web(), json!({})));
    script.delete(30).event(Event::TornDown);
    let mut other = Script::new(pod(web(), json!({})));
    other.ready().event(Event::Gone).event(Event::TornDown);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Cancel setup, TearDown (held) | Failed web:ContainerStatusUnknown=137/0
        Delete | Failed web:ContainerStatusUnknown=137/0",
    );
    other.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        Cancel web, TearDown (held) | Failed web:ContainerStatusUnknown=137/0
        done | Failed web:ContainerStatusUnknown=137/0",
    );
}

#[test]
fn init_containers_and_sidecars_have_their_order() {
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "a", "image": "i"},
            {"name": "s", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "web", "image": "i"}]});
    let mut script = Script::new(pod(spec.clone(), json!({})));
    script.ready().started("a", 0).exited("a", 0, 0, 1).started("s", 0).started("web", 0);
    // The sidecar is restarted whatever the policy, and stopped after the main container.
    script.exited("s", 0, 1, 1).started("s", 1).exited("web", 0, 0, 1).exited("s", 1, 0, 1);
    script.event(Event::TornDown);
    script.check(
        "SetUp (held) | Pending a:PodInitializing/0 s:PodInitializing/0 web:PodInitializing/0
        Start a#0 (held) | Pending a:PodInitializing/0 s:PodInitializing/0 web:PodInitializing/0
        | Pending a:running,unready/0 s:PodInitializing/0 web:PodInitializing/0
        Start s#0 | Pending a:Completed=0/0 s:PodInitializing/0 web:PodInitializing/0
        Start web#0 | Pending a:Completed=0/0 s:running,ready/0 web:ContainerCreating/0
        | Running a:Completed=0/0 s:running,ready/0 web:running,ready/0
        Start s#1 | Running a:Completed=0/0 s:Error=1/0 web:running,ready/0
        | Running a:Completed=0/0 s:running,ready/1 web:running,ready/0
        Stop s 30s | Running a:Completed=0/0 s:running,unready/1 web:Completed=0/0
        TearDown (held) | Succeeded a:Completed=0/0 s:Completed=0/1 web:Completed=0/0
        | Succeeded a:Completed=0/0 s:Completed=0/1 web:Completed=0/0",
    );
    let mut failing = Script::new(pod(spec, json!({})));
    failing.ready().started("a", 0).exited("a", 0, 1, 1).event(Event::TornDown);
    assert!(failing.text.lines().last().unwrap().starts_with("| Failed a:Error=1/0"));
}

#[test]
fn a_failed_liveness_probe_restarts() {
    let mut spec = web();
    spec["containers"][0]["startupProbe"] = json!({"tcpSocket": {"port": 1}});
    spec["containers"][0]["readinessProbe"] = json!({"tcpSocket": {"port": 1}});
    let mut script = Script::new(pod(spec, json!({})));
    script.ready().started("web", 0).probe(ProbeKind::Startup, true);
    script.probe(ProbeKind::Readiness, true).probe(ProbeKind::Readiness, false);
    script.probe(ProbeKind::Liveness, false).exited("web", 0, 137, 1);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        | Running web:running,unready/0
        | Running web:running,unready/0
        | Running web:running,ready/0
        | Running web:running,unready/0
        Stop web 30s | Running web:running,unready/0
        Start web#1 | Running web:Error=137/0",
    );
}

/// A handler ends well when it is told to, and serves on all the same.
#[test]
fn what_a_probe_ended_runs_again_unless_it_may_never() {
    let story = |policy: &str, kind: ProbeKind| {
        let mut spec = web();
        spec["restartPolicy"] = json!(policy);
        let mut script = Script::new(pod(spec, json!({})));
        script.ready().started("web", 0).probe(kind, false).exited("web", 0, 0, 1);
        script
    };
    let last = |script: &Script| script.text.lines().last().unwrap_or_default().to_string();
    for kind in [ProbeKind::Liveness, ProbeKind::Startup] {
        let mut script = story("OnFailure", kind);
        assert_eq!(last(&script), "Start web#1 | Running web:ContainerCreating/0", "{kind:?}");
        // The wait that its crashes earn it outlasts the agent.
        script.started("web", 1).event(Event::Probe {
            id: container_id("u", "web", 1),
            kind,
            passed: false,
        });
        script.exited("web", 1, 0, 1);
        assert_eq!(last(&script), "| Running web:CrashLoopBackOff/1", "{kind:?}");
        let mut pod = (*script.state.pod).clone();
        pod.status = Some(render(&script.state, "10.0.0.1", script.now));
        let mut restored = Script::new(Arc::new(pod));
        restored.ready();
        assert!(restored.text.contains("Start web#2"), "{}", restored.text);
        // Once it ends by itself, it has ended.
        script.after(10).started("web", 2).exited("web", 2, 0, 1);
        assert_eq!(last(&script), "TearDown (held) | Succeeded web:Completed=0/2", "{kind:?}");
        let never = story("Never", kind);
        assert_eq!(last(&never), "TearDown (held) | Succeeded web:Completed=0/0", "{kind:?}");
    }
}

#[test]
fn failures_to_start_wait_and_permanent_ones_stay() {
    let mut script = Script::new(pod(web(), json!({})));
    let failed = |reason: &str, retry: bool| Event::StartFailed {
        container: "web".into(),
        attempt: 0,
        reason: reason.into(),
        message: "m".into(),
        retry,
    };
    script.ready().event(failed("ErrImagePull", true)).after(1).after(1);
    script.event(failed("InvalidModule", false)).after(1000);
    let mut changed = (*script.state.pod).clone();
    changed.spec.as_mut().unwrap().containers[0].image = Some("j".into());
    script.event(Event::Desired(Arc::new(changed)));
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        | Pending web:ErrImagePull/0
        -- 1 s
        | Pending web:ImagePullBackOff/0
        -- 1 s
        Start web#0 | Pending web:ImagePullBackOff/0
        | Pending web:InvalidModule/0
        -- 1000 s
        | Pending web:InvalidModule/0
        Start web#0 | Pending web:ContainerCreating/0",
    );
}

#[test]
fn a_pod_deleted_before_its_agent_was_back_is_torn_down() {
    let mut script = Script::new(pod(web(), json!({"deletionTimestamp": "2026-01-01T00:00:00Z"})));
    script.event(Event::TornDown);
    script.check(
        "TearDown (held) | Failed web:ContainerStatusUnknown=137/0
        Delete | Failed web:ContainerStatusUnknown=137/0",
    );
}

#[test]
fn configuration_that_is_missing_is_looked_for_often() {
    let mut script = Script::new(pod(web(), json!({})));
    script.ready();
    for _ in 0..10 {
        script.event(Event::StartFailed {
            container: "web".into(),
            attempt: 0,
            reason: "CreateContainerConfigError".into(),
            message: "m".into(),
            retry: true,
        });
        script.after(30);
    }
    assert_eq!(script.text.matches("Start web#0").count(), 11);
}

#[test]
fn a_changed_image_is_run_whatever_the_policy() {
    let mut spec = web();
    spec["restartPolicy"] = json!("Never");
    let mut script = Script::new(pod(spec, json!({})));
    script.ready().started("web", 0);
    let mut changed = (*script.state.pod).clone();
    changed.spec.as_mut().unwrap().containers[0].image = Some("j".into());
    script.event(Event::Desired(Arc::new(changed))).exited("web", 0, 137, 1);
    script.event(Event::StartFailed {
        container: "web".into(),
        attempt: 1,
        reason: "ErrImagePull".into(),
        message: "m".into(),
        retry: true,
    });
    script.after(2).started("web", 1).exited("web", 1, 0, 1);
    script.check(
        "SetUp (held) | Pending web:ContainerCreating/0
        Start web#0 (held) | Pending web:ContainerCreating/0
        | Running web:running,ready/0
        Stop web 30s | Running web:running,unready/0
        Start web#1 | Running web:ContainerCreating/0
        | Running web:ErrImagePull/0
        -- 2 s
        Start web#1 | Running web:ImagePullBackOff/0
        | Running web:running,ready/1
        TearDown (held) | Succeeded web:Completed=0/1",
    );
}

#[test]
fn an_exit_before_its_start_was_told_counts() {
    let mut spec = web();
    spec["restartPolicy"] = json!("Never");
    let mut script = Script::new(pod(spec, json!({})));
    script.ready().exited("web", 0, 0, 0).started("web", 0).event(Event::TornDown);
    assert_eq!(script.text.lines().last().unwrap(), "| Succeeded web:Completed=0/0");
}

#[test]
fn transition_times_move_only_with_their_status() {
    let mut script = Script::new(pod(web(), json!({})));
    script.ready().started("web", 0);
    let first = merge(None, render(&script.state, "10.0.0.1", script.now), script.now);
    let later = script.now + Duration::from_secs(60);
    let second = merge(Some(&first), render(&script.state, "10.0.0.1", later), later);
    assert_eq!(first, second);
    script.probe(ProbeKind::Readiness, false);
    let third = merge(Some(&second), render(&script.state, "10.0.0.1", later), later);
    let time = |status: &k8s_openapi::api::core::v1::PodStatus, type_: &str| {
        let found = status.conditions.iter().flatten().find(|c| c.type_ == type_).unwrap();
        found.last_transition_time.as_ref().unwrap().0
    };
    assert_eq!(time(&third, "Ready"), later);
    assert_eq!(time(&third, "Initialized"), script.now);
}
