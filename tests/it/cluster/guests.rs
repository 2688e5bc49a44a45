//! The Wasm programs that the tests run, and manifests around them.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Images of the shared cluster and the files that they are made of.
pub const SHARED: &[(&str, &str)] = &[
    // Two versions of a service that answer differently.
    ("hello:v1", "rust-http-p2.wasm"),
    ("hello:v2", "c-http-p2.wasm"),
    // Answers with $WHO, and logs each request.
    ("who:v1", "rust-http-wstd.wasm"),
    // Prints its arguments and environment; arguments such as exit=3, cat=PATH, sleep=MS do things.
    ("tool:v1", "rust-cmd-p1.wasm"),
    ("command:v1", "rust-cmd-p2.wasm"),
    ("exit7:v1", "p1-exit7.wat"),
    ("greet:v1", "p1-hello.wat"),
    ("hog:v1", "p1-hog.wat"),
    ("sleep:v1", "p1-sleep.wat"),
    ("spin:v1", "p1-spin.wat"),
];

/// The file of a guest, text guests assembled.
pub fn path(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match name.ends_with(".wat") {
        false => root.join("examples/guests/built").join(name),
        true => {
            let text = std::fs::read_to_string(root.join("tests/it/guests").join(name));
            assembled(name, &text.expect("a text guest"))
        }
    }
}

/// A module of this text in a file that lives as long as the tests.
pub fn assembled(name: &str, text: &str) -> PathBuf {
    written(name, &wat::parse_str(text).expect("a module"))
}

/// A program in a file that lives as long as the tests.
pub fn written(name: &str, wasm: &[u8]) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
        std::fs::create_dir_all(&dir).expect("a directory");
        dir
    });
    let path = dir.join(name).with_extension("wasm");
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&temporary, wasm).expect("written");
    std::fs::rename(&temporary, &path).expect("renamed");
    path
}

/// A Deployment of an HTTP component, with a readiness probe.
pub fn deployment(name: &str, image: &str, replicas: u32) -> String {
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers:
      - name: main
        image: {image}
        env:
        - name: WHO
          valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}
        ports: [{{containerPort: 8080, name: http}}]
        readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
"
    )
}

/// A Service in front of it.
pub fn service(name: &str) -> String {
    format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec:
  selector: {{app: {name}}}
  ports: [{{port: 80, targetPort: http}}]
"
    )
}

/// A pod that runs once with these arguments.
pub fn job_pod(name: &str, image: &str, args: &[&str]) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  restartPolicy: Never
  containers: [{{name: main, image: '{image}', args: {args:?}}}]
"
    )
}
