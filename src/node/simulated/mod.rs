//! Simulated nodes: one process stands for thousands of Nodes that run nothing, for questions of
//! capacity, tests and benchmarks. Pods that are bound to them are reported Running and Ready after
//! a delay, and go when they are deleted; the control plane sees no difference.
//!
//! ```text
//!   Lease of the simulator ◀─ renewed by period, removed at the end: all its nodes are alive by it
//!   Nodes ◀─ created, told again when somebody takes one for lost or deletes it (nodes.rs)
//!   one watch of bound Pods ─▶ book (book.rs, pure) ─▶ statuses, deletions (pods.rs)
//! ```
//!
//! Knows nothing of the real agent: there is no runtime, no image, no volume and no probe here, and
//! no tunnel, so there are neither logs nor numbers of such nodes.

mod addresses;
mod book;
mod feed;
mod lease;
mod nodes;
mod options;
mod pods;
mod status;

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::api::simulated::MAX_NODES;
use crate::base::dirty_set::DirtySet;
use crate::base::{SharedClock, Tasks};
use crate::client::{Client, SharedApi};
use book::Book;
pub use options::{LabelPattern, Options, parse_capacity, parse_taint};

/// Writes in flight, of Nodes and of Pods each; they share the store's group commits.
const WRITES_IN_FLIGHT: usize = 64;
/// The wait after a write that failed.
const RETRY: Duration = Duration::from_secs(1);

/// The uid of a Pod.
type Uid = Arc<str>;

/// A simulator; cheap to clone.
#[derive(Clone)]
pub struct Simulator(Arc<Shared>);

struct Shared {
    options: Options,
    client: Client,
    clock: SharedClock,
    book: Mutex<Book>,
    /// Pods about which something is to be written.
    pods: DirtySet<Uid>,
    /// Nodes that are to be told, by index.
    nodes: DirtySet<u32>,
    /// The Nodes that were told at least once.
    told: watch::Sender<HashSet<u32>>,
    /// Whether the Lease is held: without it nothing is told of the nodes.
    leased: watch::Sender<bool>,
    /// Why the simulator cannot go on.
    failed: watch::Sender<Option<String>>,
}

impl Simulator {
    /// # Panics
    /// If there are more nodes than [`MAX_NODES`].
    pub fn new(options: Options, api: SharedApi, clock: SharedClock) -> Simulator {
        assert!(options.nodes <= MAX_NODES, "at most {MAX_NODES} nodes");
        let book = Mutex::new(Book::new(&options));
        let client = Client::new(api, "wasmfleet-simulator");
        Simulator(Arc::new(Shared {
            options,
            client,
            clock,
            book,
            pods: DirtySet::default(),
            nodes: DirtySet::default(),
            told: watch::channel(HashSet::new()).0,
            leased: watch::channel(false).0,
            failed: watch::channel(None).0,
        }))
    }

    /// Starts everything; it goes on until the tasks are shut down.
    pub fn run(&self, tasks: &Tasks) {
        let shared = || self.0.clone();
        tasks.spawn_until_done("lease", lease::keep(shared(), tasks.stop()));
        tasks.spawn("nodes", nodes::follow(shared()));
        tasks.spawn("pods", pods::follow(shared()));
        tasks.spawn("node-writes", workers(move_in(shared(), nodes::work)));
        tasks.spawn("pod-writes", workers(move_in(shared(), pods::work)));
    }

    /// Resolves when all Nodes are there, and their Lease: from then on they are missed when they go.
    pub async fn registered(&self) {
        self.0.leased().await;
        let (mut told, all) = (self.0.told.subscribe(), self.0.options.nodes as usize);
        // The sender lives as long as this simulator.
        let _ = told.wait_for(|told| told.len() >= all).await;
    }

    /// Resolves with the reason if the simulator cannot go on: another one has its name, or the server
    /// refuses its nodes.
    pub async fn failed(&self) -> String {
        let mut failed = self.0.failed.subscribe();
        match failed.wait_for(Option::is_some).await.map(|why| why.clone()) {
            Ok(Some(why)) => why,
            // The sender lives as long as this simulator, and what was waited for is there.
            _ => std::future::pending().await,
        }
    }

    /// How many pods are known, finished ones not counted.
    pub fn pods(&self) -> usize {
        self.0.book.lock().len()
    }
}

impl Shared {
    /// Resolves once the Lease is held.
    async fn leased(&self) {
        // The sender lives as long as self.
        let _ = self.leased.subscribe().wait_for(|held| *held).await;
    }

    /// The first reason counts.
    fn fail(&self, why: String) {
        self.failed.send_if_modified(|failed| {
            let is_first = failed.is_none();
            failed.get_or_insert(why);
            is_first
        });
    }
}

fn move_in<F, W>(shared: Arc<Shared>, work: W) -> impl Fn() -> F
where
    F: Future<Output = ()>,
    W: Fn(Arc<Shared>) -> F,
{
    move || work(shared.clone())
}

/// Takes and does one thing after another, so many at the same time.
async fn workers<F: Future<Output = ()>>(one: impl Fn() -> F) {
    let forever = |_| async {
        loop {
            one().await;
        }
    };
    futures::future::join_all((0..WRITES_IN_FLIGHT).map(forever)).await;
}
