//! Programs in the languages of others: the sample of each language, pushed and served.

use std::path::PathBuf;

use crate::cluster::tools::{has, sample};
use crate::cluster::{Space, guests, http, until};

/// What compiling the large programs may take, beside other tests, by a compiler that is hardly
/// optimized itself: so many times as long as one command may wait.
const ROLLOUT: &str = "100s";
const ROLLOUTS: usize = 4;

#[test]
fn a_handler_in_each_language_serves() {
    let space = Space::new("languages");
    let committed = |file: &str| Some(guests::path(file));
    let samples: [(&str, Option<PathBuf>, &str); 4] = [
        ("rust", committed("rust-http-p2.wasm"), "hello from rust"),
        ("c", committed("c-http-p2.wasm"), "hello from c"),
        ("javascript", sample("js-http-p3.wasm"), "hello from javascript: get /a?b=1"),
        ("python", sample("python-http-p2.wasm"), "hello from python: get /a?b=1"),
    ];
    let found: Vec<_> =
        samples.into_iter().filter_map(|(name, file, says)| Some((name, file?, says))).collect();
    // All at once: the large ones are compiled beside each other.
    for (name, file, _) in &found {
        space.wasmctl(&format!("push {} languages/{name}:v1", file.display())).ok();
        space.apply(&guests::deployment(name, &format!("languages/{name}:v1"), 1));
        space.apply(&guests::service(name));
    }
    for (name, _, says) in &found {
        let status = format!("rollout status deployment/{name} --timeout {ROLLOUT}");
        let mut waits = (1..ROLLOUTS).map(|_| space.wasmctl(&status).code == 0);
        if !waits.any(|done| done) {
            space.wasmctl(&status).ok();
        }
        let ip = format!("get pods -l app={name} -o jsonpath={{.items[0].status.podIP}}");
        let url = format!("http://{}:8080", space.wasmctl(&ip).ok());
        let answer =
            until(&format!("{name} answers"), || http::Connection::open(&url)?.get("/a?b=1"));
        has(&answer.body, &[says]);
    }
}
