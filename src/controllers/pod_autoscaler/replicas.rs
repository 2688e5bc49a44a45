//! How many replicas bring a measurement to its target. Pods that are not ready or that nothing is
//! known of count against the direction in which the number would go.
//! Source: k8s.io/kubernetes pkg/controller/podautoscaler/replica_calculator.go.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::api::quantity::Quantity;
use crate::controllers::ownership::name;
use crate::controllers::pods;

/// `--horizontal-pod-autoscaler-cpu-initialization-period`.
const CPU_INITIALIZATION: SignedDuration = SignedDuration::from_secs(300);
/// `--horizontal-pod-autoscaler-initial-readiness-delay`.
const INITIAL_READINESS: SignedDuration = SignedDuration::from_secs(30);
pub const CPU: &str = "cpu";

/// How far from 1 the ratio of a measurement to its target may be before anything is done.
#[derive(Clone, Copy, Debug)]
pub struct Tolerances {
    pub up: f64,
    pub down: f64,
}

impl Tolerances {
    fn allow(self, ratio: f64) -> bool {
        (1.0 - self.down..=1.0 + self.up).contains(&ratio)
    }
}

/// What one pod was measured at, in thousandths, as a mean over a window.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    pub milli: i64,
    pub at: Timestamp,
    pub window: SignedDuration,
}

/// By the names of pods.
pub type Samples = BTreeMap<String, Sample>;

/// What a measurement should come to.
pub enum Goal {
    /// A percentage of what the pods ask for, in thousandths by the names of pods.
    Utilization { percent: i32, requests: BTreeMap<String, i64> },
    /// Thousandths for each pod.
    Average { milli: i64 },
}

/// What is measured, and of whom.
pub struct Question<'a> {
    /// `None` for what is no resource.
    pub resource: Option<&'a str>,
    pub pods: &'a [&'a Pod],
    pub replicas: i32,
    pub tolerances: Tolerances,
    pub now: Timestamp,
}

/// The answer: how many replicas, and what was measured.
#[derive(Debug, PartialEq)]
pub struct Count {
    pub replicas: i32,
    pub average_milli: i64,
    /// Of what the pods ask for.
    pub percent: Option<i32>,
}

/// What was measured of the pods together.
struct Measure {
    ratio: f64,
    average_milli: i64,
    percent: Option<i32>,
}

impl Goal {
    fn measure(&self, values: &BTreeMap<&str, i64>) -> Result<Measure, String> {
        let sum = |values: &mut dyn Iterator<Item = i64>| values.map(i128::from).sum::<i128>();
        match self {
            Goal::Average { milli } => {
                let total = sum(&mut values.values().copied());
                let average_milli = narrow(total / (values.len().max(1) as i128));
                let ratio = average_milli as f64 / *milli as f64;
                Ok(Measure { ratio, average_milli, percent: None })
            }
            Goal::Utilization { percent: target, requests } => {
                let known = values.iter().filter_map(|(pod, value)| {
                    requests.get(*pod).map(|request| (*value, *request))
                });
                let known: Vec<(i64, i64)> = known.collect();
                let used = sum(&mut known.iter().map(|(value, _)| *value));
                let asked = sum(&mut known.iter().map(|(_, request)| *request));
                if asked == 0 {
                    return Err("no metrics returned matched known pods".into());
                }
                let percent = (used * 100 / asked).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
                let average_milli = narrow(used / known.len() as i128);
                let ratio = f64::from(percent) / f64::from(*target);
                Ok(Measure { ratio, average_milli, percent: Some(percent) })
            }
        }
    }

    /// What a pod that nothing is known of is taken to use where the number would fall.
    fn full(&self, pod: &str) -> i64 {
        match self {
            Goal::Average { milli } => *milli,
            Goal::Utilization { percent, requests } => {
                let request = i128::from(requests.get(pod).copied().unwrap_or_default());
                narrow(request * i128::from((*percent).max(100)) / 100)
            }
        }
    }
}

fn narrow(value: i128) -> i64 {
    value.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

/// How many replicas bring `samples` to the goal.
pub fn count(question: &Question, goal: &Goal, samples: &Samples) -> Result<Count, String> {
    let groups = Groups::of(question, samples);
    let mut values: BTreeMap<&str, i64> =
        samples.iter().map(|(pod, sample)| (pod.as_str(), sample.milli)).collect();
    values.retain(|pod, _| !groups.ignored.contains(pod) && !groups.unready.contains(pod));
    if values.is_empty() {
        return Err("did not receive metrics for targeted pods (pods might be unready)".into());
    }
    let measure = goal.measure(&values)?;
    let Measure { ratio, average_milli, percent } = measure;
    let answer = |replicas: i32| Ok(Count { replicas, average_milli, percent });
    let now = question.replicas;
    let grows_with_unready = !groups.unready.is_empty() && ratio > 1.0;
    if !grows_with_unready && groups.missing.is_empty() {
        let wanted =
            if question.tolerances.allow(ratio) { now } else { times(ratio, groups.ready) };
        return answer(wanted);
    }
    for pod in &groups.missing {
        if ratio < 1.0 {
            values.insert(pod, goal.full(pod));
        } else if ratio > 1.0 {
            values.insert(pod, 0);
        }
    }
    if grows_with_unready {
        values.extend(groups.unready.iter().map(|pod| (*pod, 0)));
    }
    let again = goal.measure(&values)?.ratio;
    let turns = (ratio < 1.0 && again > 1.0) || (ratio > 1.0 && again < 1.0);
    if question.tolerances.allow(again) || turns {
        return answer(now);
    }
    let wanted = times(again, values.len());
    let against = (again < 1.0 && wanted > now) || (again > 1.0 && wanted < now);
    answer(if against { now } else { wanted })
}

/// Rounded up; saturates at the end of i32.
fn times(ratio: f64, pods: usize) -> i32 {
    (ratio * pods as f64).ceil() as i32
}

/// The pods by what their measurements are good for.
#[derive(Default)]
struct Groups<'a> {
    ready: usize,
    unready: BTreeSet<&'a str>,
    missing: BTreeSet<&'a str>,
    ignored: BTreeSet<&'a str>,
}

impl<'a> Groups<'a> {
    fn of(question: &Question<'a>, samples: &Samples) -> Groups<'a> {
        let mut groups = Groups::default();
        for pod in question.pods {
            let pod_name = name(&pod.metadata);
            if pods::is_terminating(pod) || pods::phase(pod) == "Failed" {
                groups.ignored.insert(pod_name);
            } else if pods::phase(pod) == "Pending" {
                groups.unready.insert(pod_name);
            } else if let Some(sample) = samples.get(pod_name) {
                if question.resource == Some(CPU) && is_starting(pod, sample, question.now) {
                    groups.unready.insert(pod_name);
                } else {
                    groups.ready += 1;
                }
            } else {
                groups.missing.insert(pod_name);
            }
        }
        groups
    }
}

/// Whether what a pod uses says nothing of its load yet: it starts, which takes processor time.
fn is_starting(pod: &Pod, sample: &Sample, now: Timestamp) -> bool {
    let started = pod.status.as_ref().and_then(|status| status.start_time.as_ref());
    let ready = pods::condition(pod, "Ready");
    let (Some(started), Some(ready)) = (started.map(|time| time.0), ready) else { return true };
    let since = ready.last_transition_time.as_ref().map_or(Timestamp::MIN, |time| time.0);
    let is_unready = ready.status == "False";
    if now.duration_since(started) < CPU_INITIALIZATION {
        // The window must have begun when the pod was ready.
        return is_unready || sample.at.duration_since(since) < sample.window;
    }
    // One that was never ready.
    is_unready && since.duration_since(started) < INITIAL_READINESS
}

/// What the pods ask for, in thousandths; of one container where it is named.
pub fn requests(
    pods: &[&Pod],
    resource: &str,
    container: Option<&str>,
) -> Result<BTreeMap<String, i64>, String> {
    let each = pods.iter().map(|pod| {
        let pod_name = name(&pod.metadata);
        let mut total = 0_i64;
        let mut found = false;
        for one in containers(pod).filter(|one| container.is_none_or(|name| name == one.name)) {
            let requests = one.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            let text = requests.and_then(|requests| requests.get(resource));
            let request = text.and_then(|text| Quantity::parse(&text.0).ok()).ok_or_else(|| {
                let of = &one.name;
                format!("missing request for {resource} in container {of} of Pod {pod_name}")
            })?;
            total = total.saturating_add(request.milli());
            found = true;
        }
        match container {
            Some(container) if !found => {
                Err(format!("container {container} not found in Pod {pod_name}"))
            }
            _ => Ok((pod_name.to_string(), total)),
        }
    });
    each.collect()
}

/// Those that run beside each other, with the sidecars.
fn containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    let spec = pod.spec.as_ref();
    let init = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = init.filter(|one| one.restart_policy.as_deref() == Some("Always"));
    spec.into_iter().flat_map(|spec| &spec.containers).chain(sidecars)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-01-01T01:00:00Z";

    fn pod(name: &str, phase: &str, ready: &str, since: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]},
            "status": {"phase": phase, "startTime": since, "conditions": [
                {"type": "Ready", "status": ready, "lastTransitionTime": since}]}}))
        .unwrap()
    }

    fn old(name: &str) -> Pod {
        pod(name, "Running", "True", "2026-01-01T00:00:00Z")
    }

    /// Replicas and percent, at a target of 50 % of one CPU each.
    fn asked(pods: &[Pod], replicas: i32, samples: &[(&str, i64)]) -> (i32, Option<i32>) {
        let pods: Vec<&Pod> = pods.iter().collect();
        let now: Timestamp = NOW.parse().unwrap();
        let tolerances = Tolerances { up: 0.1, down: 0.1 };
        let question = Question { resource: Some(CPU), pods: &pods, replicas, tolerances, now };
        let window = SignedDuration::from_secs(15);
        let sample = |(pod, milli): &(&str, i64)| {
            (pod.to_string(), Sample { milli: *milli, at: now, window })
        };
        let samples: Samples = samples.iter().map(sample).collect();
        let requests = requests(&pods, CPU, None).unwrap();
        let count = count(&question, &Goal::Utilization { percent: 50, requests }, &samples);
        let count = count.unwrap();
        (count.replicas, count.percent)
    }

    #[test]
    fn replicas_follow_the_ratio_beyond_a_tolerance() {
        let two = [old("a"), old("b")];
        assert_eq!(asked(&two, 2, &[("a", 1000), ("b", 1000)]), (4, Some(100)));
        assert_eq!(asked(&two, 2, &[("a", 100), ("b", 100)]), (1, Some(10)));
        assert_eq!(asked(&two, 2, &[("a", 550), ("b", 550)]), (2, Some(55)));
        assert_eq!(asked(&two, 2, &[("a", 560), ("b", 570)]), (3, Some(56)));
        assert_eq!(asked(&two, 2, &[("a", 450), ("b", 450)]), (2, Some(45)));
    }

    #[test]
    fn pods_that_nothing_is_known_of_count_against_the_change() {
        let three = [old("a"), old("b"), old("c")];
        // Two of three at 150 %: the third is taken to use nothing.
        assert_eq!(asked(&three, 3, &[("a", 1500), ("b", 1500)]).0, 6);
        // Falling, it is taken to use all that it asks for.
        assert_eq!(asked(&three, 3, &[("a", 100), ("b", 100)]).0, 3);
        let four = [old("a"), old("b"), old("c"), old("d")];
        assert_eq!(asked(&four, 4, &[("a", 0), ("b", 0), ("c", 0)]).0, 2);
    }

    #[test]
    fn pods_that_start_say_nothing_of_the_load() {
        let mut pods = vec![old("a"), pod("new", "Running", "True", "2026-01-01T00:59:50Z")];
        pods.push(pod("pending", "Pending", "False", "2026-01-01T00:59:59Z"));
        let mut going = old("going");
        going.metadata.deletion_timestamp = serde_json::from_value(json!(NOW)).unwrap();
        pods.push(going);
        pods.push(pod("failed", "Failed", "False", "2026-01-01T00:00:00Z"));
        // 200 % of one pod: with the two that start as zeroes it is 66 %, which asks for 4.
        let samples = [("a", 2000), ("new", 5000), ("going", 9000)];
        assert_eq!(asked(&pods, 3, &samples), (4, Some(200)));
        // Falling, they are left out.
        assert_eq!(asked(&pods, 3, &[("a", 250), ("new", 5000)]), (1, Some(25)));
        let late = pod("late", "Running", "False", "2026-01-01T00:00:00Z");
        let mut was_ready = old("was-ready");
        let conditions = was_ready.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions[0].status = "False".into();
        conditions[0].last_transition_time =
            serde_json::from_value(json!("2026-01-01T00:30:00Z")).unwrap();
        let sick = [old("a"), late, was_ready];
        let samples = [("a", 500), ("late", 9000), ("was-ready", 1500)];
        assert_eq!(asked(&sick, 3, &samples), (4, Some(100)), "one that was ready is counted");
    }

    #[test]
    fn what_is_asked_for_must_be_known() {
        let of = |container: Option<&str>, spec: Value| {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            requests(&[&serde_json::from_value(pod).unwrap()], CPU, container)
        };
        let main = json!({"name": "c", "resources": {"requests": {"cpu": "500m"}}});
        let side = json!({"name": "s", "restartPolicy": "Always",
            "resources": {"requests": {"cpu": "250m"}}});
        let once = json!({"name": "o"});
        let spec = json!({"containers": [main], "initContainers": [side, once]});
        assert_eq!(of(None, spec.clone()).unwrap()["p"], 750);
        assert_eq!(of(Some("s"), spec.clone()).unwrap()["p"], 250);
        assert_eq!(of(Some("x"), spec).unwrap_err(), "container x not found in Pod p");
        let why = of(None, json!({"containers": [{"name": "c"}]})).unwrap_err();
        assert_eq!(why, "missing request for cpu in container c of Pod p");
    }
}
