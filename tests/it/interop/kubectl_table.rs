//! Every command of kubectl, in three of its versions, against one cluster: the tables of
//! `tests/data/kubectl/*.txt`, where each file is a story in a namespace of its own.
//!
//! ```text
//!   # A comment.
//!   $ create configmap conf --from-literal=a=b     must succeed ('…' keeps spaces)
//!   = configmap/conf created                       all that it prints, line by line
//!   ! get pod nobody                               must fail
//!   ~ "nobody" not found                           is printed, among others
//!   - panic                                        is not printed
//!   % get pods                                     asked again until its answer is as told
//!   [>1.31] $ wait …                               only in versions that are newer
//!   < kind: ConfigMap                              a line of its standard input
//!   @ KUBE_EDITOR=true                             a variable of its environment
//! ```
//!
//! Both of its outputs count; spaces do not. `{ns}` is the namespace.

use std::path::Path;

use crate::cluster::tools::kubectl_of;
use crate::cluster::{Cluster, Output, Space, WASMCTL, guests, until};

/// How a command must end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Well,
    Badly,
    /// Well, sooner or later.
    WellAtLast,
}

#[derive(Debug)]
enum Check {
    Line(String),
    Has(String),
    Lacks(String),
}

/// One command, and what must come of it.
#[derive(Debug)]
struct Row {
    line: usize,
    newer_than: Option<String>,
    end: End,
    words: String,
    stdin: String,
    env: Vec<(String, String)>,
    checks: Vec<Check>,
}

fn rows(file: &str, text: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (number, whole) in text.lines().enumerate() {
        let line = number + 1;
        let (newer_than, rest) = match whole.strip_prefix("[>").and_then(|l| l.split_once("] ")) {
            Some((version, rest)) => (Some(version.to_string()), rest),
            None => (None, whole),
        };
        let (mark, rest) = (rest.chars().next(), rest.get(2..).unwrap_or_default().to_string());
        let end = match mark {
            None | Some('#') => continue,
            Some('$') => Some(End::Well),
            Some('!') => Some(End::Badly),
            Some('%') => Some(End::WellAtLast),
            Some(_) => None,
        };
        if let Some(end) = end {
            let (stdin, env, checks) = Default::default();
            rows.push(Row { line, newer_than, end, words: rest, stdin, env, checks });
            continue;
        }
        let row = rows.last_mut().unwrap_or_else(|| panic!("{file}:{line}: no command yet"));
        match mark {
            Some('<') => row.stdin.push_str(&format!("{rest}\n")),
            Some('@') => {
                let (name, value) = rest.split_once('=').expect("NAME=value");
                row.env.push((name.to_string(), value.to_string()));
            }
            Some('=') => row.checks.push(Check::Line(rest)),
            Some('~') => row.checks.push(Check::Has(rest)),
            Some('-') => row.checks.push(Check::Lacks(rest)),
            _ => panic!("{file}:{line}: {whole}"),
        }
    }
    rows
}

/// Spaces as single ones.
fn squeezed(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is wrong with an answer, if anything.
fn fault(row: &Row, output: &Output, told: impl Fn(&str) -> String) -> Option<String> {
    if (row.end == End::Badly) == (output.code == 0) {
        return Some("it ended otherwise".into());
    }
    let all = format!("{}\n{}", output.stdout, output.stderr);
    let lines: Vec<String> = all.lines().map(squeezed).filter(|line| !line.is_empty()).collect();
    let wanted = row.checks.iter().filter_map(|check| match check {
        Check::Line(line) => Some(squeezed(&told(line))),
        _ => None,
    });
    let wanted: Vec<String> = wanted.collect();
    if !wanted.is_empty() && wanted != lines {
        return Some(format!("it should print {wanted:?}"));
    }
    let all = squeezed(&all);
    row.checks.iter().find_map(|check| match check {
        Check::Has(text) if !all.contains(&squeezed(&told(text))) => Some(format!("no {text:?}")),
        Check::Lacks(text) if all.contains(&squeezed(&told(text))) => {
            Some(format!("{text:?} is there"))
        }
        _ => None,
    })
}

fn number(version: &str) -> u32 {
    version.split_once('.').and_then(|(_, minor)| minor.parse().ok()).expect("1.minor")
}

/// Runs a story with one version in a namespace of a cluster.
fn play(cluster: &Cluster, namespace: &str, story: &str, version: &str) {
    play_with(kubectl_of(version).expect("looked for first"), cluster, namespace, story, version);
}

/// The same with a program that is like a version of kubectl. All of its faults are told at once.
fn play_with(program: &Path, cluster: &Cluster, namespace: &str, story: &str, version: &str) {
    let name = program.file_name().unwrap_or_default().display();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kubectl").join(story);
    let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{file:?}: {e}"));
    let told = |text: &str| text.replace("{ns}", namespace);
    let mut faults = Vec::new();
    for row in rows(story, &text) {
        if row.newer_than.as_ref().is_some_and(|least| number(version) <= number(least)) {
            continue;
        }
        let words = format!("-n {namespace} {}", told(&row.words));
        let env: Vec<(&str, &str)> =
            row.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let ask = || cluster.run_with(program, &words, &told(&row.stdin), &env);
        if row.end == End::WellAtLast {
            until(&format!("{story}:{} {words}", row.line), || {
                let output = ask();
                fault(&row, &output, told).map_or(Ok(()), |why| Err(format!("{why}\n{output:?}")))
            });
            continue;
        }
        let output = ask();
        if let Some(why) = fault(&row, &output, told) {
            let Output { code, stdout, stderr, .. } = output;
            faults.push(format!(
                "{story}:{} {name} {version} {words}: {why} → {code}\n{stdout}{stderr}",
                row.line
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn in_shared(story: &str, version: &str) {
    if kubectl_of(version).is_some() {
        let space = Space::new(&format!("k-{story}-{}", number(version)));
        play(space.cluster, &space.name, &format!("{story}.txt"), version);
    }
}

/// One test a story and version, so that they run side by side.
macro_rules! stories {
    ($($module:ident $version:literal: $($story:ident)*;)*) => {
        $(mod $module {
            $(#[test]
            fn $story() {
                super::in_shared(stringify!($story), $version);
            })*
        })*
    };
}

stories! {
    v1_29 "1.29": create change owners read workload access kinds streams inside wait;
    v1_32 "1.32": create change owners read workload access kinds streams inside wait;
    v1_35 "1.35": create change owners read workload access kinds streams inside wait;
}

/// What `wasmctl` promises to do in kubectl's words.
#[test]
fn wasmctl_waits_like_kubectl() {
    let space = Space::new("k-wait-wasmctl");
    play_with(Path::new(WASMCTL), space.cluster, &space.name, "wait.txt", "1.35");
}

/// On a cluster of its own: what is done to nodes concerns every pod.
#[test]
fn nodes_are_tainted_drained_and_taken_back() {
    let versions = ["1.29", "1.32", "1.35"].map(|version| (version, kubectl_of(version)));
    if versions.iter().all(|(_, found)| found.is_none()) {
        return;
    }
    let cluster = Cluster::start(2);
    cluster.push(&guests::path("rust-http-p2.wasm"), "hello:v1");
    for (version, _) in versions.iter().filter(|(_, found)| found.is_some()) {
        play(&cluster, "default", "nodes.txt", version);
    }
}

/// A proxy of kubectl's own: what is asked of it is asked with its user's rights.
#[test]
fn a_proxy_passes_requests_on() {
    use crate::cluster::{Program, http};
    for version in ["1.29", "1.32", "1.35"] {
        let Some(kubectl) = kubectl_of(version) else { continue };
        let kubeconfig = Cluster::shared().kubeconfig();
        let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
        let program = kubectl.to_str().expect("UTF-8");
        let proxy = Program::start(program, &[&kubeconfig, "proxy", "--port=0"], None);
        let line = proxy.wait_line("Starting to serve on ");
        let address = line.rsplit(' ').next().expect("an address");
        let mut connection = http::Connection::open(&format!("http://{address}")).unwrap();
        let told = connection.get("/api/v1/namespaces/default").unwrap().body;
        assert!(told.contains("\"kind\":\"Namespace\""), "{version}: {told}");
    }
}
