//! What stories are about. Each theme writes its steps by the seed's random numbers; together they
//! cover every workload, the scheduler, and every fault.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use wasmfleet::client::Propagation;

use super::fakes::Link;
use super::objects::{
    budget, bystander, cron_job, daemon_set, deployment, image, job, large, priority_class,
    service, stateful_set,
};
use super::pausable::Pause;
use super::story::{
    BUDGET, CRON_JOB, DAEMON_SET, DEPLOYMENT, JOB, NODE, POD, PRIORITY_CLASS, SERVICE,
    STATEFUL_SET, What, Writer,
};
use super::truth::sets::Bounds;

pub struct Theme {
    pub name: &'static str,
    pub nodes: usize,
    /// Nothing but the controllers themselves makes pods of Deployments unavailable.
    pub is_calm: bool,
    /// Leases decide who leads.
    pub elects: bool,
    pub write: fn(&mut Writer),
}

/// All of them; [`super::story::Story::of`] takes them in turn.
pub const THEMES: &[Theme] = &[
    theme("rollouts", 3, true, rollouts),
    theme("recreations", 3, true, recreations),
    theme("sets", 3, false, sets),
    theme("set trouble", 3, false, set_trouble),
    theme("daemons", 3, false, daemons),
    theme("jobs", 3, false, jobs),
    theme("cron", 2, false, cron),
    theme("budgets", 3, false, budgets),
    theme("deletions", 2, false, deletions),
    theme("full nodes", 3, false, full_nodes),
    theme("priorities", 3, false, priorities),
    theme("node loss", 5, false, node_loss),
    theme("crashes", 2, true, crashes),
    theme("chaos", 4, false, chaos),
    Theme { elects: true, ..theme("two leaders", 3, true, two_leaders) },
];

const fn theme(name: &'static str, nodes: usize, is_calm: bool, write: fn(&mut Writer)) -> Theme {
    Theme { name, nodes, is_calm, elects: false, write }
}

/// What fails without doing anything to pods: by chance one of them, or nothing.
fn trouble(w: &mut Writer) {
    let what = match w.random.random_range(0..9) {
        0 | 1 => What::Crash,
        2 => What::Outage(Duration::from_secs(w.random.random_range(1..20))),
        3 => What::Compact,
        4 => What::EndWatches,
        _ => return,
    };
    w.within(10, what);
}

fn scale(replicas: i32) -> Value {
    json!({"spec": {"replicas": replicas}})
}

/// maxSurge and maxUnavailable as numbers or percentages, not both 0.
pub fn bounds(random: &mut StdRng) -> Value {
    if random.random_bool(0.5) {
        let percent = |random: &mut StdRng| format!("{}%", 25 * random.random_range(0..4));
        let surge = percent(random);
        let unavailable = if surge == "0%" { "25%".into() } else { percent(random) };
        return json!({"maxSurge": surge, "maxUnavailable": unavailable});
    }
    let surge = random.random_range(0..3);
    let unavailable = i32::from(surge == 0).max(random.random_range(0..2));
    json!({"maxSurge": surge, "maxUnavailable": unavailable})
}

/// Versions follow each other, often before the last one is there; then back to an older one.
fn rollouts(w: &mut Writer) {
    let replicas = w.random.random_range(1..6);
    let mut web = deployment("web", replicas, 0, 0);
    web["spec"]["strategy"]["rollingUpdate"] = bounds(&mut w.random);
    web["spec"]["minReadySeconds"] = json!(w.random.random_range(0..3) * 5);
    w.now(What::Create(POD, bystander()));
    w.now(What::Create(DEPLOYMENT, web));
    w.now(What::Create(SERVICE, service("web")));
    w.now(What::Rest);
    w.now(What::Faults(true));
    for version in 2..5 {
        w.within(20, What::Patch(DEPLOYMENT, "web", image(version)));
        trouble(w);
    }
    // Fewer replicas are fewer soon. More are there only after a while, which is no violation.
    if w.chance(0.5) {
        w.within(30, What::Patch(DEPLOYMENT, "web", scale(1)));
    }
    w.within(60, What::Patch(DEPLOYMENT, "web", image(2)));
    w.after(40, What::Faults(false));
}

/// Pods of two templates never live side by side.
fn recreations(w: &mut Writer) {
    let mut web = deployment("web", 4, 0, 0);
    web["spec"]["strategy"] = json!({"type": "Recreate"});
    w.now(What::Create(DEPLOYMENT, web));
    w.now(What::Create(SERVICE, service("web")));
    w.now(What::Rest);
    w.now(What::Faults(true));
    for version in 2..6 {
        w.within(15, What::Patch(DEPLOYMENT, "web", image(version)));
        trouble(w);
    }
    w.after(20, What::Faults(false));
}

/// An ordered StatefulSet comes up, is updated, in part at first, and rolled back.
fn sets(w: &mut Writer) {
    let replicas = w.random.random_range(2..5usize);
    let unavailable = w.random.random_range(1..replicas.min(3));
    w.now(What::Bounds(Some(Bounds { replicas, unavailable: replicas })));
    w.now(What::Faults(true));
    w.now(What::Create(STATEFUL_SET, stateful_set(replicas, "OrderedReady", unavailable)));
    w.within(60, What::Crash);
    w.after(30, What::Rest);
    w.now(What::Bounds(Some(Bounds { replicas, unavailable })));
    w.now(What::Faults(true));
    let rolling = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 1}}}});
    w.now(What::Patch(STATEFUL_SET, "db", rolling));
    w.within(5, What::Patch(STATEFUL_SET, "db", image(2)));
    trouble(w);
    w.after(20, What::Rest);
    w.now(What::Faults(true));
    let rolling = json!({"spec": {"updateStrategy": {"rollingUpdate": {"partition": 0}}}});
    w.now(What::Patch(STATEFUL_SET, "db", rolling));
    for version in [3, 2] {
        w.within(20, What::Patch(STATEFUL_SET, "db", image(version)));
        trouble(w);
    }
    w.after(30, What::Faults(false));
}

fn set_trouble(w: &mut Writer) {
    let policy = if w.chance(0.5) { "OrderedReady" } else { "Parallel" };
    w.now(What::Create(STATEFUL_SET, stateful_set(4, policy, 1)));
    w.now(What::Faults(true));
    for version in 2..10 {
        let what = match w.random.random_range(0..4) {
            0 => What::DeletePod(w.pick("db")),
            1 => What::FailPod(w.pick("db")),
            2 => What::Patch(STATEFUL_SET, "db", scale(w.random.random_range(0..6))),
            _ => What::Patch(STATEFUL_SET, "db", image(version)),
        };
        w.within(25, what);
        trouble(w);
    }
    w.now(What::Faults(false));
}

fn daemons(w: &mut Writer) {
    let surge = u32::from(w.chance(0.5));
    w.now(What::Create(DAEMON_SET, daemon_set(surge)));
    w.now(What::Rest);
    w.now(What::LeastDaemons(Some(if surge > 0 { 3 } else { 2 })));
    w.now(What::Faults(true));
    for version in 2..5 {
        w.within(30, What::Patch(DAEMON_SET, "agent", image(version)));
        trouble(w);
    }
    w.after(40, What::Rest);
    w.now(What::LeastDaemons(None));
    w.now(What::Faults(true));
    let pick = w.pick("agent");
    w.within(10, What::DeletePod(pick));
    let pick = w.pick("agent");
    w.within(20, What::FailPod(pick));
    w.within(20, What::AddNode("n9"));
    trouble(w);
    w.after(30, What::Faults(false));
}

fn jobs(w: &mut Writer) {
    let policy = if w.chance(0.5) { "Failed" } else { "TerminatingOrFailed" };
    let spec = json!({"completions": 8, "parallelism": 3, "backoffLimit": 1000,
        "podReplacementPolicy": policy});
    w.now(What::Faults(true));
    w.now(What::Create(JOB, job("many", spec, "some")));
    let spec = json!({"completions": 5, "parallelism": 3, "completionMode": "Indexed",
        "backoffLimitPerIndex": 1});
    w.now(What::Create(JOB, job("each", spec, "some")));
    let spec = json!({"completions": 2, "parallelism": 1, "backoffLimit": 2});
    w.now(What::Create(JOB, job("hopeless", spec, "1")));
    for _ in 0..6 {
        trouble(w);
        if w.chance(0.4) {
            let app = ["many", "each"][w.random.random_range(0..2usize)];
            let pick = w.pick(app);
            w.within(20, What::DeletePod(pick));
        }
    }
    w.within(30, What::Patch(JOB, "many", json!({"spec": {"suspend": true}})));
    w.within(40, What::Patch(JOB, "many", json!({"spec": {"suspend": false}})));
    w.after(30, What::Faults(false));
}

/// Pods run for up to 20 s, starts are a minute apart; some Jobs take longer than that.
fn cron(w: &mut Writer) {
    let policy = ["Forbid", "Forbid", "Replace", "Allow"][w.random.random_range(0..4usize)];
    w.now(What::Create(CRON_JOB, cron_job("minutes", policy)));
    w.now(What::Faults(true));
    for _ in 0..5 {
        trouble(w);
        w.within(60, What::Crash);
        if w.chance(0.2) {
            let seconds = w.random.random_range(-90..90);
            w.within(10, What::Jump(seconds));
        }
    }
    w.now(What::Patch(CRON_JOB, "minutes", json!({"spec": {"suspend": true}})));
    w.after(20, What::Faults(false));
}

/// Drains ask for more than the budget gives.
fn budgets(w: &mut Writer) {
    let replicas = w.random.random_range(3..7);
    let least = w.random.random_range(1..replicas);
    w.now(What::Create(DEPLOYMENT, deployment("web", replicas, 1, 0)));
    w.now(What::Create(BUDGET, budget("web", least)));
    w.now(What::Rest);
    w.now(What::Faults(true));
    for _ in 0..25 {
        let pick = w.pick("web");
        w.within(2, What::Evict(pick));
        if w.chance(0.2) {
            trouble(w);
        }
    }
    w.after(10, What::Faults(false));
}

/// Owners go in every way, and others come under their names at once.
fn deletions(w: &mut Writer) {
    w.now(What::Create(POD, bystander()));
    for name in ["back", "fore", "orphan", "stays"] {
        w.now(What::Create(DEPLOYMENT, deployment(name, 2, 1, 0)));
    }
    w.now(What::Create(STATEFUL_SET, stateful_set(2, "Parallel", 1)));
    let spec = json!({"completions": 2, "parallelism": 2});
    w.now(What::Create(JOB, job("many", spec, "0")));
    w.now(What::Rest);
    w.now(What::Faults(true));
    w.within(5, What::Delete(DEPLOYMENT, "back", Propagation::Background));
    w.now(What::Create(DEPLOYMENT, deployment("back", 2, 1, 0)));
    w.within(5, What::Delete(DEPLOYMENT, "fore", Propagation::Foreground));
    w.within(5, What::Delete(DEPLOYMENT, "orphan", Propagation::Orphan));
    w.within(5, What::Delete(STATEFUL_SET, "db", Propagation::Background));
    w.now(What::Create(STATEFUL_SET, stateful_set(3, "OrderedReady", 1)));
    w.within(5, What::Delete(JOB, "many", Propagation::Background));
    trouble(w);
    trouble(w);
    w.within(30, What::Create(DEPLOYMENT, deployment("fore", 3, 1, 1)));
    trouble(w);
    w.after(60, What::Faults(false));
}

/// The places that three nodes have for pods of 300 m.
const PLACES: i32 = 9;

fn full_nodes(w: &mut Writer) {
    w.now(What::Create(DEPLOYMENT, large("web", PLACES + 4, None)));
    w.after(20, What::Faults(true));
    for _ in 0..10 {
        let node = w.random.random_range(0..3);
        let cordon = json!({"spec": {"unschedulable": w.chance(0.6)}});
        let what = match w.random.random_range(0..5) {
            0 => What::Patch(DEPLOYMENT, "web", scale(w.random.random_range(0..PLACES + 6))),
            1 => What::Patch(NODE, ["n0", "n1", "n2"][node], cordon),
            2 => What::FailPod(w.pick("web")),
            _ => What::DeletePod(w.pick("web")),
        };
        w.within(12, what);
        trouble(w);
    }
    w.now(What::Patch(DEPLOYMENT, "web", scale(PLACES)));
    w.now(What::Faults(false));
}

/// Pods of a higher priority come into a full cluster.
fn priorities(w: &mut Writer) {
    for (name, value) in [("low", 1), ("even", 1), ("high", 9)] {
        w.now(What::Create(PRIORITY_CLASS, priority_class(name, value)));
    }
    w.now(What::Create(DEPLOYMENT, large("low", PLACES, Some("low"))));
    w.after(20, What::Create(DEPLOYMENT, large("even", 2, Some("even"))));
    w.after(10, What::Create(DEPLOYMENT, large("high", 3, Some("high"))));
    w.after(10, What::Faults(true));
    for _ in 0..8 {
        let what = match w.random.random_range(0..4) {
            0 => What::Patch(DEPLOYMENT, "high", scale(w.random.random_range(0..6))),
            1 => What::DeletePod(w.pick("high")),
            _ => What::DeletePod(w.pick("low")),
        };
        w.within(10, what);
        trouble(w);
    }
    w.now(What::Patch(DEPLOYMENT, "even", scale(0)));
    w.now(What::Patch(DEPLOYMENT, "high", scale(3)));
    w.now(What::Patch(DEPLOYMENT, "low", scale(PLACES - 3)));
    w.now(What::Faults(false));
}

/// A node is cut off for a short and a long time, most or all vanish at once, and all come back.
fn node_loss(w: &mut Writer) {
    w.now(What::Create(DEPLOYMENT, deployment("web", 10, 1, 1)));
    w.now(What::Create(SERVICE, service("web")));
    w.now(What::Rest);
    let node = w.random.random_range(0..5);
    let faulty = w.chance(0.5);
    w.now(What::Faults(faulty));
    w.now(What::Link(node, Link::Cut));
    w.after(100, What::Faults(false));
    w.after(40, What::ExpectNobodyLeaves);
    w.now(What::ExpectEndpoints);
    w.now(What::Faults(faulty));
    w.after(400, What::Faults(false));
    w.now(What::ExpectServing);
    w.now(What::Link(node, Link::Up));
    w.after(5, What::Rest);
    // Of most, the pace of a zone's evictions takes care as well; of all, the brake alone.
    let vanish = if w.chance(0.5) { 3 } else { 5 };
    for node in 0..vanish {
        w.now(What::Link(node, Link::Down));
    }
    trouble(w);
    w.after(700, What::ExpectNobodyLeaves);
}

/// The control plane crashes after each write, or each few.
fn crashes(w: &mut Writer) {
    let every = w.random.random_range(1..4);
    w.now(What::CrashEvery(every));
    w.now(What::Create(DEPLOYMENT, deployment("web", 2, 1, 0)));
    w.now(What::Create(SERVICE, service("web")));
    w.now(What::Create(STATEFUL_SET, stateful_set(2, "OrderedReady", 1)));
    let spec = json!({"completions": 3, "parallelism": 2, "backoffLimit": 1000});
    w.now(What::Create(JOB, job("many", spec, "some")));
    w.after(60, What::Patch(DEPLOYMENT, "web", image(2)));
    w.after(60, What::Patch(STATEFUL_SET, "db", image(2)));
    w.after(60, What::CrashEvery(0));
}

/// Everything that can go wrong, at once.
fn chaos(w: &mut Writer) {
    for (name, replicas) in [("a", 3), ("b", 5)] {
        w.now(What::Create(DEPLOYMENT, deployment(name, replicas, 1, 1)));
        w.now(What::Create(SERVICE, service(name)));
    }
    w.now(What::Create(STATEFUL_SET, stateful_set(3, "OrderedReady", 1)));
    w.now(What::Create(DAEMON_SET, daemon_set(0)));
    w.within(10, What::Faults(true));
    for step in 0..14 {
        let name = ["a", "b"][w.random.random_range(0..2usize)];
        let node = w.random.random_range(0..4);
        let what = match w.random.random_range(0..13) {
            0 | 1 => What::Patch(DEPLOYMENT, name, image(step + 2)),
            2 => What::Patch(DEPLOYMENT, name, scale(w.random.random_range(0..7))),
            3 => What::Patch(DEPLOYMENT, name, json!({"spec": {"paused": w.chance(0.5)}})),
            4 => What::Link(node, if w.chance(0.5) { Link::Cut } else { Link::Down }),
            5 => What::Link(node, Link::Up),
            6 => What::Sicken(w.pick(name)),
            7 => What::DeletePod(w.pick(name)),
            8 => What::FailPod(w.pick(name)),
            9 => What::Jump(w.random.random_range(-400..400)),
            10 => What::DeletePod(w.pick("db")),
            11 => What::DeleteNode(node),
            _ => What::Patch(STATEFUL_SET, "db", image(step + 2)),
        };
        w.within(15, what);
        trouble(w);
    }
    let open = json!({"spec": {"paused": false}});
    w.now(What::Patch(DEPLOYMENT, "a", open.clone()));
    w.now(What::Patch(DEPLOYMENT, "b", open));
    w.now(What::Faults(false));
}

/// Two processes take turns: whichever is stopped, wakes up, crashes or cannot renew, one of them writes
/// at a time, and what holds of one leader holds of both.
fn two_leaders(w: &mut Writer) {
    w.now(What::Create(DEPLOYMENT, deployment("web", 3, 1, 0)));
    w.now(What::Create(SERVICE, service("web")));
    w.now(What::Create(STATEFUL_SET, stateful_set(3, "OrderedReady", 1)));
    w.now(What::SecondLeader(true));
    w.now(What::Rest);
    w.now(What::Bounds(Some(Bounds { replicas: 3, unavailable: 1 })));
    let spec = json!({"completions": 8, "parallelism": 2, "backoffLimit": 1000});
    w.within(10, What::Create(JOB, job("many", spec, "some")));
    for version in 2..5 {
        let faulty = w.chance(0.5);
        w.now(What::Faults(faulty));
        w.within(20, What::Patch(STATEFUL_SET, "db", image(version)));
        w.within(5, What::Patch(DEPLOYMENT, "web", image(version)));
        // In the middle of what follows from that.
        let millis = w.random.random_range(0..100);
        let pause = if w.chance(0.3) { Pause::Leases } else { Pause::All };
        w.after_millis(millis, What::Pause(pause));
        trouble(w);
        // Often long enough for the other one to take over.
        w.within(70, What::Resume);
    }
    w.within(60, What::SecondLeader(false));
    w.now(What::Faults(false));
}
