//! Clusters for the end-to-end tests: the built programs, started as a user starts them, on a
//! directory of their own. Knows nothing of the library: only programs, files and sockets.

pub mod guests;
pub mod http;
pub mod program;
pub mod space;
pub mod tools;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

pub use program::Program;
pub use space::Space;
pub use tools::Output;

/// No test waits longer than this for one thing; a slow machine is slow, not wrong.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks of `until`.
const LOOK_INTERVAL: Duration = Duration::from_millis(40);

pub const WASMFLEET: &str = env!("CARGO_BIN_EXE_wasmfleet");
pub const WASMCTL: &str = env!("CARGO_BIN_EXE_wasmctl");

/// Looks again and again until `look` finds something: for states that nothing can be waited on.
/// The one place where the end-to-end tests wait by the clock.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(why) if begin.elapsed() > PATIENCE => {
                panic!("{what}: not after {PATIENCE:?}, last: {why}")
            }
            Err(_) => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// Returns once nobody listens there. A program that is just being started holds, until it is, a copy
/// of every socket of its parent: so one that was closed may take connections a moment longer.
pub fn until_nobody_listens(address: SocketAddr) {
    until(&format!("nobody listens on {address}"), || {
        match std::net::TcpStream::connect(address) {
            Ok(_) => Err("it takes connections".into()),
            Err(_) => Ok(()),
        }
    });
}

/// Numbers of the address ranges for clusters that are stopped and started again: one that chooses by
/// itself takes the lowest free one of the sixteen that `wasmfleet` knows, and could take theirs
/// meanwhile.
const RANGES: std::ops::Range<u8> = 8..16;
/// Where `wasmfleet` listens, at the last address of its range of Services, for as long as it uses a
/// range that it chose. Who listens there has the range, among all processes of this machine.
const LOCK_PORT: u16 = 47_999;

/// One of them, until it is dropped.
pub struct Range {
    number: u8,
    _lock: TcpListener,
}

impl Range {
    pub fn take() -> Range {
        until("a free address range", || {
            RANGES.into_iter().find_map(Range::lock).ok_or_else(|| "all are taken".into())
        })
    }

    fn lock(number: u8) -> Option<Range> {
        let address = SocketAddr::from(([127, 128 + number, 255, 254], LOCK_PORT));
        let lock = TcpListener::bind(address).ok()?;
        Some(Range { number, _lock: lock })
    }

    pub fn options(&self) -> [String; 4] {
        let (pods, services) = (64 + 4 * self.number, 128 + self.number);
        let cidr = |second: u8, bits: u8| format!("127.{second}.0.0/{bits}");
        ["--cluster-cidr".into(), cidr(pods, 14), "--service-cidr".into(), cidr(services, 16)]
    }
}

#[test]
fn an_address_range_is_one_clusters() {
    let first = Range::take();
    assert!(Range::lock(first.number).is_none(), "it has it until it is dropped");
    assert_ne!(Range::take().number, first.number);
}

/// `wasmfleet up`, or `wasmfleet server`, on a directory that goes with it.
pub struct Cluster {
    command: &'static str,
    program: Option<Program>,
    options: Vec<String>,
    dir: tempfile::TempDir,
    /// The size of the disk that its directory of data is on, where it has one of its own.
    disk_bytes: Option<u64>,
    /// Given back after the program ended.
    _range: Range,
}

impl Cluster {
    /// A cluster of `nodes` nodes, ready.
    pub fn start(nodes: u32) -> Cluster {
        Cluster::start_with(nodes, &[])
    }

    pub fn start_with(nodes: u32, options: &[&str]) -> Cluster {
        let mut all: Vec<String> = vec!["--nodes".into(), nodes.to_string()];
        all.extend(options.iter().map(|option| option.to_string()));
        Cluster::start_command("up", all)
    }

    /// A cluster of one node whose directory of data is a disk of its own, in memory; `None` where
    /// none can be had.
    pub fn on_disk(bytes: u64) -> Option<Cluster> {
        tools::mounts()?;
        let mut cluster = Cluster::new("up", vec!["--nodes".into(), "1".into()]);
        cluster.disk_bytes = Some(bytes);
        cluster.start_again();
        Some(cluster)
    }

    /// A control plane without nodes, ready.
    pub fn control_plane() -> Cluster {
        Cluster::control_plane_with(&[])
    }

    pub fn control_plane_with(options: &[&str]) -> Cluster {
        Cluster::start_command("server", options.iter().map(|option| option.to_string()).collect())
    }

    fn start_command(command: &'static str, options: Vec<String>) -> Cluster {
        let mut cluster = Cluster::new(command, options);
        cluster.start_again();
        cluster
    }

    fn new(command: &'static str, mut options: Vec<String>) -> Cluster {
        let dir = tempfile::tempdir().expect("a directory");
        let range = Range::take();
        options.extend(range.options());
        Cluster { command, program: None, options, dir, disk_bytes: None, _range: range }
    }

    /// The cluster of all tests that need no more than a namespace of their own. It has the images
    /// of `guests::SHARED`.
    pub fn shared() -> &'static Cluster {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(|| {
            let cluster = Cluster::start(2);
            for (image, file) in guests::SHARED {
                cluster.push(&guests::path(file), image);
            }
            cluster
        })
    }

    /// Starts the program on the same directory once more, after it ended.
    pub fn start_again(&mut self) {
        let dir = self.data_dir();
        let kubeconfig = self.kubeconfig();
        let mut args = vec![self.command, "--listen", "127.0.0.1:0", "--log", "info"];
        args.extend(["--data-dir", dir.to_str().expect("UTF-8")]);
        args.extend(["--kubeconfig", kubeconfig.to_str().expect("UTF-8")]);
        args.extend(self.options.iter().map(String::as_str));
        let size;
        let program = match self.disk_bytes {
            None => Program::start(WASMFLEET, &args, Some(self.dir.path())),
            Some(bytes) => {
                std::fs::create_dir_all(&dir).expect("a directory");
                size = format!("size={bytes}");
                let mount = r#"mount -t tmpfs -o "$0" none "$1" && shift && exec "$@""#;
                let data = dir.to_str().expect("UTF-8");
                let mut all = vec!["--user", "--map-root-user", "--mount", "sh", "-c", mount];
                all.extend([size.as_str(), data, WASMFLEET]);
                all.extend(&args);
                Program::start("unshare", &all, Some(self.dir.path()))
            }
        };
        program.wait_line("ready");
        self.program = Some(program);
    }

    pub fn program(&mut self) -> &mut Program {
        self.program.as_mut().expect("started")
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where the program sees a file of its directory of data, also on a disk of its own.
    pub fn data_file(&mut self, name: &str) -> PathBuf {
        let root = format!("/proc/{}/root", self.program().id());
        let data = self.data_dir();
        Path::new(&root).join(data.strip_prefix("/").expect("absolute")).join(name)
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Runs `wasmctl`; words are split at spaces, and `'…'` keeps spaces.
    pub fn wasmctl(&self, words: &str) -> Output {
        self.run(Path::new(WASMCTL), words, "")
    }

    /// Runs `kubectl`.
    pub fn kubectl(&self, words: &str) -> Output {
        let kubectl = tools::kubectl().expect("tests with kubectl look for it first");
        self.run(kubectl, words, "")
    }

    pub fn run(&self, program: &Path, words: &str, stdin: &str) -> Output {
        self.run_with(program, words, stdin, &[])
    }

    pub fn run_with(
        &self,
        program: &Path,
        words: &str,
        stdin: &str,
        env: &[(&str, &str)],
    ) -> Output {
        let mut output =
            tools::run(program, words, stdin, &self.kubeconfig(), self.dir.path(), env);
        if let Some(program) = &self.program {
            output.server_log = program.log();
        }
        output
    }

    pub fn push(&self, file: &Path, image: &str) {
        self.wasmctl(&format!("push {} {image}", file.display())).ok();
    }

    /// Applies a manifest in the namespace `default`.
    pub fn apply(&self, manifest: &str) -> String {
        self.run(Path::new(WASMCTL), "apply -f -", manifest).ok()
    }

    /// The address of a Service's first port.
    pub fn service_url(&self, namespace: &str, name: &str) -> String {
        let template = "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}";
        let address =
            self.wasmctl(&format!("get service {name} -n {namespace} -o {template}")).ok();
        format!("http://{address}/")
    }
}
