//! Runs cases side by side, the serial ones alone and last, each until its deadline and in a
//! namespace of its own. A case that panics fails alone.

use std::collections::HashSet;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::time::Instant;

use futures::{FutureExt, StreamExt};
use serde_json::json;

use super::client::Client;
use super::context::{Context, NotTested};
use super::operations::includes;
use super::report::Outcomes;
use super::{Case, names};

/// As many requests as two cores answer without cases waiting for each other.
const SIDE_BY_SIDE: usize = 8;

pub enum Outcome {
    Passed,
    /// What was expected and what came.
    Failed(String),
    /// A tool that the case needs is missing.
    NotTested(String),
    /// The server does not have this resource.
    NotServed(&'static str),
}

impl Outcome {
    pub fn is_failure(&self) -> bool {
        matches!(self, Outcome::Failed(_))
    }
}

type Key = (&'static str, &'static str);

pub fn run(kubeconfig: &Path, cases: Vec<(Key, &'static Case)>, tell: bool) -> Outcomes {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    let serial: HashSet<Key> =
        names::all().filter(|name| name.is_serial()).map(|name| (name.sig, name.name)).collect();
    let (alone, beside): (Vec<_>, Vec<_>) =
        cases.into_iter().partition(|(key, _)| serial.contains(key));
    runtime.block_on(async {
        let client = Client::new(kubeconfig).await.expect("a client");
        let one = |(key, case)| {
            let client = client.clone();
            async move { (key, run_one(client, kubeconfig, key, case, tell).await) }
        };
        let mut outcomes: Outcomes =
            futures::stream::iter(beside).map(one).buffer_unordered(SIDE_BY_SIDE).collect().await;
        outcomes.extend(futures::stream::iter(alone).then(one).collect::<Vec<_>>().await);
        outcomes
    })
}

async fn run_one(
    client: Client,
    kubeconfig: &Path,
    key: Key,
    case: &'static Case,
    tell: bool,
) -> Outcome {
    let begin = Instant::now();
    let outcome = outcome(client, kubeconfig, case).await;
    if tell {
        let word = match &outcome {
            Outcome::Passed => "ok",
            Outcome::Failed(_) => "FAILED",
            Outcome::NotTested(_) => "not tested",
            Outcome::NotServed(_) => "not served",
        };
        let seconds = begin.elapsed().as_secs_f32();
        let _ = writeln!(std::io::stderr(), "{word} {seconds:.1} s {} {}", key.0, key.1);
    }
    outcome
}

/// The first resource of these that the server does not have.
async fn missing(client: &Client, needs: &'static [&'static str]) -> Option<&'static str> {
    for resource in needs {
        let (version, plural) = resource.rsplit_once('/').expect("group/version/resource");
        let list = client.get(&format!("/apis/{version}")).await.unwrap_or_default();
        if !includes(&list["resources"], &json!([{ "name": plural }])) {
            return Some(resource);
        }
    }
    None
}

async fn outcome(client: Client, kubeconfig: &Path, case: &'static Case) -> Outcome {
    if let Some(resource) = missing(&client, case.needs).await {
        return Outcome::NotServed(resource);
    }
    let context = match Context::new(client, kubeconfig).await {
        Ok(context) => context,
        Err(error) => return Outcome::Failed(format!("no namespace for it: {error:#}")),
    };
    let running = AssertUnwindSafe((case.run)(&context)).catch_unwind();
    let result = tokio::time::timeout(case.deadline, running).await;
    context.clean_up().await;
    match result {
        Ok(Ok(Ok(()))) => Outcome::Passed,
        Ok(Ok(Err(error))) => match error.downcast::<NotTested>() {
            Ok(NotTested(why)) => Outcome::NotTested(why),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        },
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()));
            Outcome::Failed(format!("panicked: {}", text.unwrap_or_default()))
        }
        Err(_) => Outcome::Failed(format!("no end after {:?}", case.deadline)),
    }
}
