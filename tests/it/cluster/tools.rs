//! Command lines run to their end: `wasmctl`, and kubectl where there is one.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::channel;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// The longest that one command may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);
/// The versions of kubectl that are tested, with the program of each; the last is `kubectl()`.
const KUBECTLS: &[(&str, &str)] =
    &[("1.29", "kubectl-1.29"), ("1.32", "kubectl-1.32"), ("1.35", "kubectl")];
const HELM_VERSION: &str = "v4.";
/// The version of the Python client.
const PYTHON_CLIENT: &str = "37.";
/// Set where a missing tool must be a failure, as in CI.
const REQUIRE_TOOLS: &str = "WASMFLEET_REQUIRE_TOOLS";

/// What a command left behind.
#[derive(Debug)]
pub struct Output {
    pub command: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub server_log: String,
}

impl Output {
    /// The output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.code == 0, "{}", self.told());
        self.stdout
    }

    /// The error text of a command that must have failed.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(self.code != 0, "{}", self.told());
        self.stderr
    }

    pub fn told(&self) -> String {
        format!(
            "{} → {}\n--- stdout\n{}\n--- stderr\n{}\n--- end of the server's log\n{}",
            self.command, self.code, self.stdout, self.stderr, self.server_log
        )
    }
}

/// Fails, with both texts, unless the text has every one of the pieces.
#[track_caller]
pub fn has(text: &str, pieces: &[&str]) {
    for piece in pieces {
        assert!(text.contains(piece), "{piece:?} is not in:\n{text}");
    }
}

/// Splits at spaces; `'…'` keeps spaces.
fn split(words: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut word = None::<String>;
    let mut quoted = false;
    for c in words.chars() {
        match c {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            c if c.is_whitespace() && !quoted => out.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    out.extend(word);
    out
}

/// Runs a program against the cluster of a kubeconfig, at most for `COMMAND_LIMIT`.
pub fn run(
    program: &Path,
    words: &str,
    stdin: &str,
    kubeconfig: &Path,
    home: &Path,
    env: &[(&str, &str)],
) -> Output {
    let mut command = Command::new(program);
    command.args(split(words)).env("KUBECONFIG", kubeconfig).env("HOME", home);
    command.envs(env.iter().copied()).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let told = format!("{name} {words}");
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{told}: {e}"));
    let id = Pid::from_child(&child);
    let mut pipe = child.stdin.take().expect("piped");
    // A program that does not read all of its input has its reasons.
    let _ = pipe.write_all(stdin.as_bytes());
    drop(pipe);
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match receiver.recv_timeout(COMMAND_LIMIT) {
        Ok(output) => output.unwrap_or_else(|e| panic!("{told}: {e}")),
        Err(_) => {
            let _ = kill_process(id, Signal::KILL);
            let output = receiver.recv().expect("a result").expect("an output");
            let (out, err) = (text(output.stdout), text(output.stderr));
            panic!("{told}: no end after {COMMAND_LIMIT:?}\n--- stdout\n{out}\n--- stderr\n{err}");
        }
    };
    Output {
        command: told,
        code: output.status.code().unwrap_or(-1),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
        server_log: String::new(),
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

/// kubectl of the newest version. `None`, with a line that says so, where there is none; a failure
/// where tools are required.
pub fn kubectl() -> Option<&'static Path> {
    KUBECTLS.last().and_then(|(version, _)| kubectl_of(version))
}

/// kubectl of a version (`1.29`), in the same way.
pub fn kubectl_of(version: &str) -> Option<&'static Path> {
    static FOUND: [OnceLock<Option<PathBuf>>; KUBECTLS.len()] =
        [const { OnceLock::new() }; KUBECTLS.len()];
    let index = KUBECTLS.iter().position(|(known, _)| *known == version).expect("a known version");
    let find = || find(KUBECTLS[index].1, &format!("v{version}."), &["version", "--client"]);
    FOUND[index].get_or_init(find).as_deref()
}

/// Helm, in the same way.
pub fn helm() -> Option<&'static Path> {
    static HELM: OnceLock<Option<PathBuf>> = OnceLock::new();
    HELM.get_or_init(|| find("helm", HELM_VERSION, &["version", "--short"])).as_deref()
}

/// Where Python finds the Kubernetes client (for PYTHONPATH), in the same way.
pub fn python_client() -> Option<&'static Path> {
    static CLIENT: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/python");
        let words = ["-c", "import kubernetes; print(kubernetes.__version__)"];
        let told = Command::new("python3").args(words).env("PYTHONPATH", &dir).output();
        if told.is_ok_and(|told| text(told.stdout).starts_with(PYTHON_CLIENT)) {
            return Some(dir);
        }
        missing(&format!(
            "python3 does not find kubernetes {PYTHON_CLIENT}x in target/tools/python"
        ))
    };
    CLIENT.get_or_init(find).as_deref()
}

/// The operator of `examples/operator`, in the same way.
pub fn operator() -> Option<&'static Path> {
    static OPERATOR: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/operator/debug");
        let path = path.join("site-operator");
        let told = "target/tools/operator has no built examples/operator";
        if path.exists() { Some(path) } else { missing(told) }
    };
    OPERATOR.get_or_init(find).as_deref()
}

/// A sample program that is built and not committed, in the same way.
pub fn sample(file: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/guests").join(file);
    if path.exists() { Some(path) } else { missing(&format!("target/tools/guests has no {file}")) }
}

/// Debian's registry and skopeo, in the same way.
pub fn registry_tools() -> Option<(&'static Path, &'static Path)> {
    static FOUND: OnceLock<Option<(PathBuf, PathBuf)>> = OnceLock::new();
    let find = || {
        let registry = find("docker-registry", "distribution 2.", &["--version"])?;
        Some((registry, find("skopeo", "version 1.", &["--version"])?))
    };
    FOUND.get_or_init(find).as_ref().map(|(registry, skopeo)| (&**registry, &**skopeo))
}

/// `wasmfleet` without compiler and control plane; in the same way, but that it is built here.
pub fn node_program() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target-node/debug/wasmfleet");
    if path.exists() {
        return Some(path);
    }
    let text = "target-node has no node program: cargo build --no-default-features --features node \
                --target-dir target-node";
    assert!(std::env::var_os(REQUIRE_TOOLS).is_none(), "{text}");
    println!("not tested: {text}");
    None
}

/// Whether a program can have mounts of its own; in the same way.
pub fn mounts() -> Option<()> {
    let mut unshare = Command::new("unshare");
    let status = unshare.args(["--user", "--map-root-user", "--mount", "true"]).status();
    if status.is_ok_and(|status| status.success()) {
        return Some(());
    }
    let text = "this system lets no user make a mount namespace (unshare --user --mount)";
    assert!(std::env::var_os(REQUIRE_TOOLS).is_none(), "{text}");
    println!("not tested: {text}");
    None
}

/// The program that `scripts/setup-tests.sh` brought, or the one in PATH.
fn find(name: &str, version: &str, words: &[&str]) -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name);
    let is_right = |path: &PathBuf| {
        let output = Command::new(path).args(words).output();
        output.is_ok_and(|output| text(output.stdout).contains(version))
    };
    let found = [own, PathBuf::from(name)].into_iter().find(is_right);
    found.or_else(|| {
        missing(&format!("{name} {version}x is neither in target/tools/bin nor in PATH"))
    })
}

/// Says what is missing; a failure where tools are required.
fn missing(what: &str) -> Option<PathBuf> {
    let text = format!("{what}; scripts/setup-tests.sh brings it");
    assert!(std::env::var_os(REQUIRE_TOOLS).is_none(), "{text}");
    println!("not tested: {text}");
    None
}
