//! A runtime, containers and their output, for the tests beside this file.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use wasmfleet::engine::compile::CompilerPlace;
use wasmfleet::runtime::{
    Container, ContainerSpec, Exit, LogSink, LogStream, Mount, Names, Options, PrepareError,
    Prepared, Runtime, RuntimeEvent, StartError, WasmRuntime,
};

/// No test waits longer than this for anything; a slow machine is slow, not wrong.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A committed guest of ours.
macro_rules! built {
    ($name:literal) => {
        include_bytes!(concat!("../../../examples/guests/built/", $name)).as_slice()
    };
}
pub(super) use built;

/// A text guest beside the tests.
macro_rules! text {
    ($name:literal) => {
        wat::parse_str(include_str!(concat!("../guests/", $name))).expect("a module")
    };
}
pub(super) use text;

pub fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("a module")
}

/// A component of the text guests' HTTP world around another core module.
pub fn http_component(core: &str) -> Vec<u8> {
    component_like(include_bytes!("../guests/wat-p2-http.wasm"), core)
}

/// A component of another one's world around a core module.
pub fn component_like(like: &[u8], core: &str) -> Vec<u8> {
    use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
    let wit_component::DecodedWasm::Component(resolve, world) =
        wit_component::decode(like).expect("a component")
    else {
        panic!("the guest is no component");
    };
    let mut core = wat(core);
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("embeds");
    let mut encoder = ComponentEncoder::default().module(&core).expect("a module");
    encoder.encode().expect("a component")
}

/// A component of a world around a core module.
pub fn world(wit: &str, name: &str, core: &str) -> Vec<u8> {
    use wit_component::{ComponentEncoder, DecodedWasm, StringEncoding, embed_component_metadata};
    let mut core = wat(core);
    let empty = wit_component::decode(&wat("(component)")).expect("a component");
    let DecodedWasm::Component(mut resolve, _) = empty else { panic!("no component") };
    let package = resolve.push_str("world.wit", wit).expect("WIT");
    let world = resolve.select_world(&[package], Some(name)).expect("a world");
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("embeds");
    let mut encoder = ComponentEncoder::default().module(&core).expect("a module");
    encoder.encode().expect("a component")
}

pub fn digest(wasm: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(wasm)))
}

/// An address no other test of this or another run uses now.
pub fn pod_ip() -> IpAddr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let pid = std::process::id();
    let next = NEXT.fetch_add(1, Ordering::Relaxed) + 1;
    let [_, _, high, low] = next.to_be_bytes();
    let block = 64 + (pid % 64) as u8;
    Ipv4Addr::new(127, block, ((pid / 64) as u8).wrapping_add(high), low).into()
}

/// Everything a container wrote.
#[derive(Default)]
pub struct Output(Mutex<(Vec<u8>, Vec<u8>)>);

impl LogSink for Output {
    fn write(&self, stream: LogStream, bytes: &[u8]) {
        let mut output = self.0.lock().expect("not poisoned");
        match stream {
            LogStream::Stdout => output.0.extend_from_slice(bytes),
            LogStream::Stderr => output.1.extend_from_slice(bytes),
        }
    }
}

impl Output {
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("not poisoned").0).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("not poisoned").1).into_owned()
    }
}

pub struct NoNames;

impl Names for NoNames {
    fn resolve(&self, _: &str, _: &str) -> Option<Vec<IpAddr>> {
        None
    }
}

pub struct Harness {
    pub runtime: Arc<WasmRuntime>,
}

impl Harness {
    pub fn new() -> Self {
        Self::with(Options::new(CompilerPlace::InProcess, None, Arc::new(jiff::Timestamp::now)))
    }

    pub fn with(options: Options) -> Self {
        Self { runtime: WasmRuntime::new(options).expect("a runtime") }
    }

    pub async fn prepare(&self, wasm: &[u8]) -> Result<Arc<dyn Prepared>, PrepareError> {
        self.runtime.prepare(&digest(wasm), Bytes::copy_from_slice(wasm)).await
    }

    pub async fn spec(&self, wasm: &[u8]) -> (ContainerSpec, Arc<Output>) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let logs = Arc::new(Output::default());
        let spec = ContainerSpec {
            id: format!("c{}", NEXT.fetch_add(1, Ordering::Relaxed)),
            namespace: "default".to_owned(),
            pod_name: "pod".to_owned(),
            pod_uid: "uid".to_owned(),
            container_name: "main".to_owned(),
            artifact: self.prepare(wasm).await.expect("it compiles"),
            args: vec!["guest".to_owned()],
            env: Vec::new(),
            mounts: Vec::new(),
            pod_ip: pod_ip(),
            http_ports: vec![8080],
            memory_limit_bytes: 64 << 20,
            cpu_limit_millicores: None,
            cpu_request_millicores: None,
            logs: logs.clone(),
            stdin: None,
            tty: false,
            names: Arc::new(NoNames),
            allowed_hosts: Vec::new(),
            core_dumps: None,
            requests_per_instance: 1,
            workload: Arc::default(),
        };
        (spec, logs)
    }

    pub async fn start(&self, spec: ContainerSpec) -> Result<Running, StartError> {
        let (sender, events) = mpsc::channel(16);
        let id = spec.id.clone();
        let container = self.runtime.start(spec, sender).await?;
        Ok(Running { container, events, id })
    }

    /// Runs a guest to its end.
    pub async fn run(&self, wasm: &[u8]) -> (Exit, Arc<Output>) {
        let (spec, output) = self.spec(wasm).await;
        let mut running = self.start(spec).await.expect("it starts");
        (running.exit().await, output)
    }

    pub async fn run_with(&self, wasm: &[u8], args: &[&str], mounts: &[Mount]) -> (Exit, String) {
        let (mut spec, output) = self.spec(wasm).await;
        spec.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        spec.env = vec![("COLOR".to_owned(), "blue".to_owned())];
        spec.mounts = mounts.to_vec();
        let mut running = self.start(spec).await.expect("it starts");
        let exit = running.exit().await;
        (exit, output.stdout() + &output.stderr())
    }
}

pub struct Running {
    pub container: Box<dyn Container>,
    pub events: mpsc::Receiver<RuntimeEvent>,
    pub id: String,
}

impl Running {
    pub async fn event(&mut self) -> RuntimeEvent {
        tokio::time::timeout(PATIENCE, self.events.recv())
            .await
            .expect("in time")
            .expect("an event")
    }

    pub async fn started(&mut self) {
        match self.event().await {
            RuntimeEvent::Started { id, .. } => assert_eq!(id, self.id),
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the end; the start may or may not have been taken already.
    pub async fn exit(&mut self) -> Exit {
        loop {
            if let RuntimeEvent::Exited { id, exit } = self.event().await {
                assert_eq!(id, self.id);
                return exit;
            }
        }
    }
}
