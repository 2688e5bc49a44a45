//! What it costs to reconcile, as the cluster grows: the real API server over a store in memory, the
//! real controllers and the real scheduler, and agents that tell at once that a pod runs. No disk,
//! no HTTP, no Wasm: what is left is the control loops.
//!
//! `cargo bench --bench reconcile -- deployments 1000 jobs 10000 replicas 50000` (names alone: these
//! numbers; without names: all of them). Prints JSON: writes (Events too) and CPU a pod
//! until all is converged, memory, and what one change costs in the full cluster.

#[allow(dead_code, reason = "nothing here is timed one by one")]
#[path = "../common/stats.rs"]
mod stats;
mod world;

use std::time::Instant;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use serde_json::{Value, json};

use world::World;

/// Names, and the numbers that are measured unless others are given.
const FIGURES: [(&str, usize); 3] =
    [("deployments", 1_000), ("jobs", 10_000), ("replicas", 50_000)];
/// Pods of each of many Deployments.
const PODS_EACH: usize = 10;
/// Changes of one object in the full cluster, of which the mean is told.
const CHANGES: usize = 20;

fn main() -> anyhow::Result<()> {
    let chosen = chosen(std::env::args().skip(1).filter(|word| word != "--bench"))?;
    let mut results = serde_json::Map::new();
    for (name, number) in chosen {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let found = runtime.block_on(measure(name, number))?;
        runtime.shutdown_background();
        results.insert(name.into(), found);
    }
    println!("{}", serde_json::to_string_pretty(&results)?);
    Ok(())
}

fn chosen(words: impl Iterator<Item = String>) -> anyhow::Result<Vec<(&'static str, usize)>> {
    let mut chosen: Vec<(&str, usize)> = Vec::new();
    for word in words {
        match (word.parse::<usize>(), chosen.last_mut()) {
            (Ok(number), Some(last)) if number > 0 => last.1 = number,
            _ => {
                let known = FIGURES.iter().find(|(name, _)| *name == word);
                chosen.push(*known.with_context(|| format!("{word:?} is no figure: {FIGURES:?}"))?);
            }
        }
    }
    Ok(if chosen.is_empty() { FIGURES.to_vec() } else { chosen })
}

async fn measure(name: &str, number: usize) -> anyhow::Result<Value> {
    let world = World::start().await?;
    let before = world.usage()?;
    let began = Instant::now();
    let pods = match name {
        "deployments" => {
            for index in 0..number {
                world.create::<Deployment>(deployment(&format!("d{index}"), PODS_EACH)).await?;
            }
            number * PODS_EACH
        }
        "jobs" => {
            for index in 0..number {
                world.create::<Job>(job(&format!("j{index}"))).await?;
            }
            number
        }
        "replicas" => {
            world.create::<Deployment>(deployment("d0", number)).await?;
            number
        }
        other => bail!("{other:?} is no figure"),
    };
    world.converged().await?;
    let (took, used) = (began.elapsed(), world.usage()?.since(&before));
    let mut found = json!({
        "objects": number,
        "pods": pods,
        "seconds": took.as_secs_f64(),
        "pods_per_second": pods as f64 / took.as_secs_f64(),
        "writes_per_pod": used.writes as f64 / pods as f64,
        "cpu_us_per_pod": used.cpu_us / pods as f64,
        "reconciles_per_pod": used.reconciles as f64 / pods as f64,
        "memory_mib": world.usage()?.memory_mib,
    });
    if name == "deployments" {
        world.furnish(number).await?;
        found["one_change"] = one_change(&world).await?;
    }
    world.stop().await;
    Ok(found)
}

/// One Deployment of the full cluster gets one pod more: what everybody does for it.
async fn one_change(world: &World) -> anyhow::Result<Value> {
    let before = world.usage()?;
    let began = Instant::now();
    for more in 1..=CHANGES {
        world.scale("d0", PODS_EACH + more).await?;
        world.converged_one("d0").await?;
    }
    let used = world.usage()?.since(&before);
    let each = CHANGES as f64;
    Ok(json!({
        "ms": began.elapsed().as_secs_f64() * 1000.0 / each,
        "cpu_us": used.cpu_us / each,
        "writes": used.writes as f64 / each,
        "reconciles": used.reconciles as f64 / each,
        "reconciles_of_all_changes": used.by_controller,
    }))
}

fn deployment(name: &str, replicas: usize) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": "hello:v1"}]},
            },
        },
    })
}

fn job(name: &str) -> Value {
    let containers = json!([{"name": "c", "image": "hello:v1"}]);
    json!({
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": containers}}},
    })
}
