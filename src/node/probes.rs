//! Startup, readiness and liveness probes of running containers: httpGet, tcpSocket, grpc and exec. One
//! task a container with probes; only a change of the judged result is told. Probes under way at
//! once are bounded for the whole node, and periods are jittered so that a thousand pods started
//! together are not probed together.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::http_get::{self, HttpGet};
use super::pod_events::{Event, ProbeKind};
use super::pods::PodEntry;
use super::{Shared, commands, grpc_health};
use crate::base::tasks::Task;
use crate::client::event::Severity;

/// Failures in a row that are told as an event, if the probe is not given up on before.
const TOLD_FAILURES: u32 = 3;
/// What probes call themselves (kubelet's name and our version of the API).
const AGENT: &str = "kube-probe/1.35";

/// How often and how long (core/v1 Probe, with the API's defaults).
#[derive(Clone, Copy, Debug)]
struct Schedule {
    initial_delay: Duration,
    period: Duration,
    timeout: Duration,
    success_threshold: u32,
    failure_threshold: u32,
}

/// What is asked.
#[derive(Clone, Debug)]
enum Check {
    Http(HttpGet),
    Tcp {
        address: SocketAddr,
    },
    Grpc {
        address: SocketAddr,
        service: String,
    },
    /// The container's own program, with these arguments.
    Exec(Vec<String>),
    /// A broken one: it never passes.
    Never(String),
}

/// Begins the probes of a container that runs; they end when the task is dropped.
pub fn spawn(
    node: &Arc<Shared>,
    pod: &Arc<Pod>,
    container: &Container,
    id: &str,
    ip: IpAddr,
    entry: &Arc<PodEntry>,
) -> Option<Task> {
    let plan = |probe: &Option<Probe>| {
        probe.as_ref().map(|probe| (schedule(probe), check(probe, container, ip)))
    };
    let startup = plan(&container.startup_probe);
    let readiness = plan(&container.readiness_probe);
    let liveness = plan(&container.liveness_probe);
    if startup.is_none() && readiness.is_none() && liveness.is_none() {
        return None;
    }
    let (node, pod, entry) = (node.clone(), pod.clone(), entry.clone());
    let prober = Prober { node, pod, container: container.name.clone(), id: id.into(), entry };
    let task = tokio::spawn(async move {
        // The others wait until the container is up.
        if let Some((schedule, check)) = startup
            && !prober.until_decided(schedule, &check).await
        {
            return;
        }
        let readiness = prober.forever(ProbeKind::Readiness, readiness);
        let liveness = prober.forever(ProbeKind::Liveness, liveness);
        futures::join!(readiness, liveness);
    });
    Some(Task(task.abort_handle()))
}

fn schedule(probe: &Probe) -> Schedule {
    let seconds = |value: Option<i32>, default: u64| {
        Duration::from_secs(value.and_then(|n| u64::try_from(n).ok()).unwrap_or(default))
    };
    let count = |value: Option<i32>, default: u32| {
        value.and_then(|n| u32::try_from(n).ok()).unwrap_or(default).max(1)
    };
    let at_least = Duration::from_secs(1);
    Schedule {
        initial_delay: seconds(probe.initial_delay_seconds, 0),
        period: seconds(probe.period_seconds, 10).max(at_least),
        timeout: seconds(probe.timeout_seconds, 1).max(at_least),
        success_threshold: count(probe.success_threshold, 1),
        failure_threshold: count(probe.failure_threshold, 3),
    }
}

fn check(probe: &Probe, container: &Container, pod_ip: IpAddr) -> Check {
    let checked = if let Some(get) = &probe.http_get {
        HttpGet::of(get, container, pod_ip).map(Check::Http)
    } else if let Some(tcp) = &probe.tcp_socket {
        http_get::address(tcp.host.as_deref(), &tcp.port, container, pod_ip)
            .map(|address| Check::Tcp { address })
    } else if let Some(grpc) = &probe.grpc {
        let service = grpc.service.clone().unwrap_or_default();
        http_get::address(None, &IntOrString::Int(grpc.port), container, pod_ip)
            .map(|address| Check::Grpc { address, service })
    } else if let Some(exec) = &probe.exec {
        Ok(Check::Exec(exec.command.clone().unwrap_or_default()))
    } else {
        Err("it asks nothing".to_string())
    };
    checked.unwrap_or_else(Check::Never)
}

struct Prober {
    node: Arc<Shared>,
    pod: Arc<Pod>,
    container: String,
    id: String,
    entry: Arc<PodEntry>,
}

impl Prober {
    fn tell(&self, kind: ProbeKind, passed: bool) {
        self.entry.inbox.event(Event::Probe { id: self.id.clone(), kind, passed });
    }

    /// The startup probe: ends with its first judgement.
    async fn until_decided(&self, schedule: Schedule, check: &Check) -> bool {
        self.node.clock.sleep(schedule.initial_delay).await;
        let mut failures = 0;
        loop {
            let Err(why) = self.ask(schedule, check).await else {
                self.tell(ProbeKind::Startup, true);
                return true;
            };
            failures += 1;
            self.tell_failures(ProbeKind::Startup, schedule, failures, &why);
            if failures >= schedule.failure_threshold {
                self.tell(ProbeKind::Startup, false);
                return false;
            }
            self.node.clock.sleep(schedule.period).await;
        }
    }

    /// Probes until the task ends. Readiness begins as failed, liveness as passed.
    async fn forever(&self, kind: ProbeKind, plan: Option<(Schedule, Check)>) {
        let Some((schedule, check)) = plan else { return };
        self.node.clock.sleep(schedule.initial_delay).await;
        let mut told = kind == ProbeKind::Liveness;
        let (mut streak, mut last, mut first) = (0u32, told, true);
        loop {
            let answer = self.ask(schedule, &check).await;
            let passed = answer.is_ok();
            streak = if passed == last { streak.saturating_add(1) } else { 1 };
            last = passed;
            if let Err(why) = answer {
                self.tell_failures(kind, schedule, streak, &why);
            }
            let threshold =
                if passed { schedule.success_threshold } else { schedule.failure_threshold };
            if passed != told && streak >= threshold {
                told = passed;
                self.tell(kind, passed);
                if kind == ProbeKind::Liveness {
                    // The container is being stopped.
                    return;
                }
            }
            self.node.clock.sleep(self.wait(schedule.period, &mut first, told)).await;
        }
    }

    /// The period; once after the first success a shorter one, to spread the probes of pods that
    /// were started together.
    fn wait(&self, period: Duration, first: &mut bool, passed: bool) -> Duration {
        if !passed || !std::mem::take(first) {
            return period;
        }
        let millis = u64::try_from(period.as_millis()).unwrap_or(u64::MAX).max(2);
        Duration::from_millis(millis / 2 + self.node.ids.below(millis / 2))
    }

    /// Tells a streak of failures once, in kubelet's words (prober/prober.go).
    fn tell_failures(&self, kind: ProbeKind, schedule: Schedule, streak: u32, why: &str) {
        if streak == schedule.failure_threshold.min(TOLD_FAILURES) {
            let text = format!("{kind:?} probe failed: {why}");
            self.node.tell_of(&self.pod, &self.container, Severity::Warning, "Unhealthy", text);
        }
    }

    /// One probe: why it did not pass.
    async fn ask(&self, schedule: Schedule, check: &Check) -> Result<(), String> {
        let permit = self.node.probe_permits.acquire().await;
        let _permit = permit.map_err(|error| error.to_string())?;
        let asked = tokio::time::timeout(schedule.timeout, self.ask_once(check)).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(format!("{check}: no answer within {} s", schedule.timeout.as_secs()))
        });
        answer.inspect_err(|why| tracing::debug!(container = self.id, why, "a probe failed"))
    }

    /// Why it did not pass; the caller bounds the time.
    async fn ask_once(&self, check: &Check) -> Result<(), String> {
        match check {
            Check::Never(why) => Err(why.to_string()),
            Check::Exec(command) => {
                commands::run(&self.node, &self.entry, &self.container, command).await
            }
            Check::Tcp { address } => {
                TcpStream::connect(address).await.map(drop).map_err(|e| format!("{check}: {e}"))
            }
            Check::Grpc { address, service } => grpc_health::check(*address, service, AGENT).await,
            Check::Http(get) => {
                let status = get.send(AGENT).await;
                let status = status.map_err(|error| format!("{check}: {error}"))?;
                // kubelet counts 200 to 399 as success.
                if (200..400).contains(&status) {
                    return Ok(());
                }
                Err(format!("HTTP probe failed with statuscode: {status}"))
            }
        }
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Check::Http(get) => get.fmt(f),
            Check::Tcp { address } => write!(f, "dial tcp {address}"),
            Check::Grpc { address, .. } => write!(f, "health rpc of \"{address}\""),
            Check::Exec(command) => write!(f, "command {command:?}"),
            Check::Never(why) => f.write_str(why),
        }
    }
}
