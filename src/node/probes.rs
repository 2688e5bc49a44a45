//! Startup, readiness and liveness probes of running containers: httpGet and tcpSocket. One task a
//! container with probes; only a change of the judged result is told. Probes under way at once are
//! bounded for the whole node, and periods are jittered so that a thousand pods started together
//! are not probed together.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

use super::Shared;
use super::inbox::Inbox;
use super::pod_state::{Event, ProbeKind};
use crate::base::tasks::Task;
use crate::client::event::Severity;

/// Failures in a row that are told as an event, if the probe is not given up on before.
const TOLD_FAILURES: u32 = 3;
/// A probe's answer is read up to this size, so that the server may finish it.
const MOST_BODY_BYTES: usize = 10 << 10;

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
    Http {
        address: SocketAddr,
        host: String,
        path: String,
        headers: Vec<(String, String)>,
    },
    Tcp {
        address: SocketAddr,
    },
    /// A kind of probe that Wasm containers cannot answer, or a broken one: it never passes.
    Never(&'static str),
}

/// Begins the probes of a container that runs; they end when the task is dropped.
pub fn spawn(
    node: &Arc<Shared>,
    pod: &Arc<Pod>,
    container: &Container,
    id: &str,
    ip: IpAddr,
    inbox: &Arc<Inbox>,
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
    let (node, pod, inbox) = (node.clone(), pod.clone(), inbox.clone());
    let prober = Prober { node, pod, container: container.name.clone(), id: id.into(), inbox };
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
    if let Some(get) = &probe.http_get {
        return http_check(get, container, pod_ip);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let ip = match tcp.host.as_deref() {
            Some(host) => host.parse().ok(),
            None => Some(pod_ip),
        };
        return match (ip, port(&tcp.port, container)) {
            (Some(ip), Some(port)) => Check::Tcp { address: SocketAddr::new(ip, port) },
            _ => Check::Never("the host is not an address, or the port is unknown"),
        };
    }
    Check::Never("only httpGet and tcpSocket probes can be asked of Wasm containers")
}

fn http_check(get: &HTTPGetAction, container: &Container, pod_ip: IpAddr) -> Check {
    if get.scheme.as_deref() == Some("HTTPS") {
        return Check::Never("scheme HTTPS is not supported");
    }
    let ip = match get.host.as_deref() {
        Some(host) => host.parse().ok(),
        None => Some(pod_ip),
    };
    let (Some(ip), Some(port)) = (ip, port(&get.port, container)) else {
        return Check::Never("the host is not an address, or the port is unknown");
    };
    let address = SocketAddr::new(ip, port);
    let path = match get.path.as_deref().unwrap_or("/") {
        path if path.starts_with('/') => path.to_string(),
        path => format!("/{path}"),
    };
    let list = get.http_headers.iter().flatten();
    let (hosts, headers): (Vec<_>, Vec<_>) = list
        .map(|h| (h.name.clone(), h.value.clone()))
        .partition(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = hosts.into_iter().next().map_or_else(|| address.to_string(), |(_, value)| value);
    Check::Http { address, host, path, headers }
}

fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    match port {
        IntOrString::Int(number) => u16::try_from(*number).ok().filter(|n| *n > 0),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|p| p.name.as_deref() == Some(name));
            named.and_then(|p| u16::try_from(p.container_port).ok())
        }
    }
}

struct Prober {
    node: Arc<Shared>,
    pod: Arc<Pod>,
    container: String,
    id: String,
    inbox: Arc<Inbox>,
}

impl Prober {
    fn tell(&self, kind: ProbeKind, passed: bool) {
        self.inbox.event(Event::Probe { id: self.id.clone(), kind, passed });
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
        let asked = tokio::time::timeout(schedule.timeout, ask(check)).await;
        let answer = asked.unwrap_or_else(|_| {
            Err(format!("{check}: no answer within {} s", schedule.timeout.as_secs()))
        });
        answer.inspect_err(|why| tracing::debug!(container = self.id, why, "a probe failed"))
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Check::Http { address, path, .. } => write!(f, "Get \"http://{address}{path}\""),
            Check::Tcp { address } => write!(f, "dial tcp {address}"),
            Check::Never(why) => f.write_str(why),
        }
    }
}

async fn ask(check: &Check) -> Result<(), String> {
    match check {
        Check::Never(why) => Err(why.to_string()),
        Check::Tcp { address } => {
            TcpStream::connect(address).await.map(drop).map_err(|e| format!("{check}: {e}"))
        }
        Check::Http { address, host, path, headers } => {
            let status = get(*address, host, path, headers).await;
            let status = status.map_err(|error| format!("{check}: {error}"))?;
            // kubelet counts 200 to 399 as success.
            if (200..400).contains(&status) {
                return Ok(());
            }
            Err(format!("HTTP probe failed with statuscode: {status}"))
        }
    }
}

async fn get(
    address: SocketAddr,
    host: &str,
    path: &str,
    headers: &[(String, String)],
) -> Result<u16, String> {
    let stream = TcpStream::connect(address).await.map_err(|e| e.to_string())?;
    let mut request = http::Request::get(path)
        .header(http::header::HOST, host)
        .header(http::header::USER_AGENT, "kube-probe/1.35")
        .header(http::header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|e| e.to_string())?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| e.to_string())?;
    let talk = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        // A longer body is none of the probe's business.
        let _ = Limited::new(response.into_body(), MOST_BODY_BYTES).collect().await;
        Ok(status)
    };
    // The connection is driven here: no task outlives the probe.
    tokio::pin!(talk);
    tokio::select! {
        biased;
        answer = &mut talk => answer,
        result = connection => match result {
            Ok(()) => talk.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
