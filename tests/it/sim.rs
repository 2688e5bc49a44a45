//! Scenarios of the seeded simulation, written by hand. When the faults stop, everything must come to
//! rest as asked, and then stay quiet. `tests/sim` is the simulation itself, and tells its own
//! stories (`sim/stories.rs` plays them).
//!
//! `WASMFLEET_SIM_SEEDS=200` runs more seeds than the default, `WASMFLEET_SIM_SEED=7` one of them.

#[path = "../sim/mod.rs"]
mod engine;

mod apart;
mod autoscalers;
mod chaos;
mod deletions;
mod fights;
mod groups;
mod jobs;
mod nodes;
mod planted;
mod preemption;
mod rollouts;
mod scheduling;
mod stateful;
mod stories;
mod zero;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod, Service, ServiceAccount};
use rand::Rng;
use serde_json::{Value, json};
use wasmfleet::api::{Kind, ObjectKey};
use wasmfleet::client::cache::View;
use wasmfleet::client::{DeleteOptions, ListOptions, Patch, Propagation, Target};

use engine::fakes::Link;
use engine::objects::{daemon_set, deployment, image, job, service, stateful_set};
use engine::truth;
use engine::truth::read::name_of;
use engine::world::{STOP_LIMIT, World};

const DEFAULT_SEEDS: u64 = 3;

/// Runs a scenario for each seed, on virtual time, and says which seed failed.
fn each_seed<F: Future<Output = ()>>(scenario: impl Fn(u64) -> F) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("WASMFLEET_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("WASMFLEET_SIM_SEEDS").unwrap_or(DEFAULT_SEEDS),
    };
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        let run = AssertUnwindSafe(|| runtime.block_on(scenario(seed)));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("failed with WASMFLEET_SIM_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn names<T: Kind>(objects: &[T]) -> Vec<String> {
    objects.iter().map(|object| name_of(object).to_string()).collect()
}

fn before_hash(name: &str) -> String {
    name.rsplit_once('-').map_or(name, |(start, _)| start).to_string()
}
