//! Autoscalers that scale to zero, and requests that bring the pods back.

use std::sync::atomic::{AtomicI32, Ordering};

use bytes::Bytes;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use wasmfleet::api::kinds::service_activation::{AWAITED, SCALED_TO_ZERO, condition, holds};
use wasmfleet::api::{ApiError, Raw};
use wasmfleet::client::around::Around;
use wasmfleet::client::{RawList, SharedApi, WriteOptions};

use super::*;

const MOST: i32 = 4;
/// Longer than any request waits, and than the window of scaling down.
const IDLE: Duration = Duration::from_secs(240);
/// With faults, a write can fail some times, and an event come late.
const MOST_WAIT: Duration = Duration::from_secs(120);

/// An API whose pods get no requests: those that are held are answered and forgotten.
struct Unasked(SharedApi);

impl Around for Unasked {
    fn inner(&self) -> SharedApi {
        self.0.clone()
    }

    async fn list(&self, target: &Target, options: &ListOptions) -> Result<RawList, ApiError> {
        let mut list = self.0.list(target, options).await?;
        if target.resource.group == "metrics.k8s.io" {
            for raw in &mut list.items {
                let mut metrics: Value = serde_json::from_slice(&raw.0).expect("JSON");
                metrics["containers"][0]["usage"]["http_requests_per_second"] = json!("0");
                *raw = Raw(Bytes::from(metrics.to_string()));
            }
        }
        Ok(list)
    }
}

fn replicas(view: &View) -> i32 {
    let web = view.get::<Deployment>("default", "web");
    web.and_then(|web| web.spec.as_ref()?.replicas).unwrap_or(-1)
}

fn serves(view: &View) -> bool {
    let of_web = |slice: &&Arc<EndpointSlice>| {
        let labels = slice.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get("kubernetes.io/service-name"))
            .is_some_and(|of| of == "web")
    };
    let slices = view.in_namespace::<EndpointSlice>("default").filter(of_web);
    let mut endpoints = slices.flat_map(|slice| &slice.endpoints);
    endpoints.any(|one| one.conditions.as_ref().and_then(|one| one.ready) != Some(false))
}

fn web(view: &View) -> Option<Arc<Service>> {
    view.get::<Service>("default", "web").cloned()
}

/// What a proxy does with one connection, by what it sees.
async fn request(world: &World) -> Result<(), String> {
    let begin = tokio::time::Instant::now();
    loop {
        let (service, serves) = {
            let view = world.truth.cache.view();
            (web(&view).expect("the Service"), serves(&view))
        };
        if serves {
            return Ok(());
        }
        if !holds(&service, SCALED_TO_ZERO) {
            return Err("refused".into());
        }
        if begin.elapsed() > MOST_WAIT {
            return Err(format!("held in vain; the Service: {:?}", service.status));
        }
        if !holds(&service, AWAITED) {
            let awaited = condition(AWAITED, "ConnectionHeld", "", world.clock.now());
            let patch = Patch::Strategic(json!({"status": {"conditions": [awaited]}}));
            let target = Target::one::<Service>("default", "web").subresource("status");
            let _ = world.api.patch(&target, patch, &WriteOptions::default()).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Whenever the target is at zero, its Service holds connections: none is refused, with faults and
/// restarts at any moment; each brings a pod, never more than the bounds allow, and without requests
/// the pods go again.
#[test]
fn requests_bring_pods_back_from_zero() {
    each_seed(|seed| async move {
        let mut world = World::new(seed, false, 3).await;
        world.faulty = Arc::new(Unasked(world.faulty.clone()));
        world.start_control();
        let most = Arc::new(AtomicI32::new(0));
        let seen = most.clone();
        world.truth.cache.listen(Box::new(move |change| {
            if let (_, Some(web)) = change.typed::<Deployment>() {
                let there = web.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or_default();
                seen.fetch_max(there, Ordering::Relaxed);
            }
        }));
        world.create::<Service>(service("web")).await;
        world.create::<Deployment>(deployment("web", 2, 1, 1)).await;
        world.create::<HorizontalPodAutoscaler>(autoscaler()).await;
        let at_zero = |view: &View| match replicas(view) {
            0 => truth::unfinished(view),
            there => Some(format!("{there} replicas without a request")),
        };
        world.until(at_zero).await;
        // Nothing is in the way: it takes no longer than the pod does.
        let begin = tokio::time::Instant::now();
        request(&world).await.expect("the first request");
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
        world.faults.set(true);
        for _ in 0..6 {
            world.sleep(IDLE).await;
            if world.random.random_bool(0.3) {
                world.restart_control().await;
            }
            request(&world).await.expect("a request among faults");
        }
        world.faults.set(false);
        world.until(at_zero).await;
        request(&world).await.expect("the last request");
        let again = |view: &View| truth::unfinished(view).or_else(|| told_of_none(view));
        world.until(again).await;
        world.until(at_zero).await;
        assert!(most.load(Ordering::Relaxed) <= MOST);
        world.end().await;
    });
}

/// A Service that serves tells nothing of zero.
fn told_of_none(view: &View) -> Option<String> {
    let door = web(view)?;
    let told = holds(&door, SCALED_TO_ZERO) || holds(&door, AWAITED);
    (replicas(view) > 0 && told).then(|| format!("{:?}", door.status))
}

fn autoscaler() -> Value {
    let target = json!({"type": "AverageValue", "averageValue": "5"});
    let metric = json!({"metric": {"name": "http_requests_per_second"}, "target": target});
    json!({"metadata": {"name": "web", "namespace": "default"},
        "spec": {"minReplicas": 0, "maxReplicas": MOST,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
            "metrics": [{"type": "Pods", "pods": metric}]}})
}
