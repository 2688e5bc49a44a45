//! Runs components and modules: the only room, with `engine`, that names wasmtime.
//!
//! A container is a process (`wasi:cli/run` components, preview 1 modules) or an HTTP handler
//! (`wasi:http` components, served on the pod's IP). The runtime knows nothing of Pods' specs or
//! of the API: it is given a [`ContainerSpec`] and it *pushes* what happens as [`RuntimeEvent`]s.

mod code;
mod command;
mod container;
mod core_dump;
mod denials;
mod exec;
pub mod fake;
mod floor;
mod held_fields;
mod held_streams;
mod host;
mod http;
mod http_activity;
mod http_body;
mod http_complaints;
mod http_connection;
mod http_guest;
mod http_limits;
mod http_listen;
mod http_request_body;
mod http_reuse;
mod input;
mod limits;
mod listings;
mod lookup;
mod memory;
#[cfg(test)]
mod memory_tests;
mod meter;
mod outgoing;
mod policy;
mod pool;
mod prepared;
mod profile;
mod signals;
mod socket_count;
mod sockets;
mod stacks;
mod stdio;
mod store_memory;
mod tasks;
mod told;
pub mod wasm;
pub mod workload;
mod workload_host;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use jiff::Timestamp;

/// What a container is identified by while it runs; unique over restarts.
pub type ContainerId = String;

/// Addresses that the memory of one instance takes, in use or not.
pub const ADDRESSES_OF_A_MEMORY: u64 =
    crate::engine::MEMORY_RESERVATION_BYTES + crate::engine::MEMORY_GUARD_BYTES;

pub use crate::artifact::ArtifactKind;
pub use crate::artifact::interfaces::refusal;
pub use crate::engine::WASMTIME_VERSION;
pub use crate::engine::supply::Runner;
pub use container::Clock;
pub use core_dump::CoreDumps;
pub use denials::Denial;
pub use http_limits::HttpLimits;
pub use http_listen::MAX_HTTP_PORTS;
pub use input::Input;
pub use outgoing::ApiAccess;
pub use policy::IpRange;
pub use profile::MAX_DURATION as MAX_PROFILE;
pub use wasm::{NewRuntimeError, Options, WasmRuntime};

/// Compiled code, ready to be started any number of times.
pub trait Prepared: Send + Sync + 'static {
    fn kind(&self) -> ArtifactKind;
    /// Imports beyond WASI itself, which a pod may have to grant, or which change how it is run.
    fn special_imports(&self) -> &[String] {
        &[]
    }
    /// Whether the guest says itself when it is ready; until then it is not.
    fn tells_readiness(&self) -> bool {
        self.kind() != ArtifactKind::Http && self.imports("wasmfleet:workload/readiness")
    }
    /// Whether the guest hears that it shall end.
    fn hears_shutdown(&self) -> bool {
        self.imports("wasmfleet:workload/lifecycle") || self.imports("wasmfleet:workload/shutdown")
    }
    /// Whether it imports an interface, of whatever version.
    fn imports(&self, interface: &str) -> bool {
        self.special_imports().iter().any(|name| name.split('@').next() == Some(interface))
    }
    /// For the implementation's own downcast.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// A directory of the host that the guest sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// A directory whose path no guest can change.
    pub host_path: PathBuf,
    /// The way from there to what is mounted; empty: `host_path` itself. Guests may put links on it:
    /// it is resolved once, when the container starts, and never out of `host_path`.
    pub sub_path: PathBuf,
    pub guest_path: String,
    pub read_only: bool,
}

/// Where a container's output goes; one call is one chunk of one stream, in order.
pub trait LogSink: Send + Sync + 'static {
    /// Never blocks for long: the sink bounds its own buffer and drops with a marker beyond it.
    fn write(&self, stream: LogStream, bytes: &[u8]);

    /// Ready when it takes another chunk. A sink that loses nothing makes its guest wait here.
    fn poll_ready(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// Answers a guest's name look-ups (services, pods); `None`: no such name.
pub trait Names: Send + Sync + 'static {
    fn resolve(&self, namespace: &str, name: &str) -> Option<Vec<IpAddr>>;
}

/// Everything that is needed to start one container once.
#[derive(Clone)]
pub struct ContainerSpec {
    pub id: ContainerId,
    pub namespace: String,
    pub pod_name: String,
    pub pod_uid: String,
    pub container_name: String,
    pub artifact: Arc<dyn Prepared>,
    /// The program's arguments; the first is its name.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    /// Sockets are bound to this address; wildcards and the loopback are rewritten to it.
    pub pod_ip: IpAddr,
    /// The ports an HTTP handler is served on, [`MAX_HTTP_PORTS`] at most.
    pub http_ports: Vec<u16>,
    /// Requests that one instance of an HTTP handler serves, one after the other; 1: each has a
    /// fresh one.
    pub requests_per_instance: u32,
    /// Bound of linear memories, tables, a fixed amount for each instance, and what the host holds
    /// for the guests beyond that, together, in bytes (see `limits`).
    pub memory_limit_bytes: u64,
    /// CPU budget in thousandths of a core; `None`: as much as is free, fairly shared.
    pub cpu_limit_millicores: Option<u64>,
    /// Its weight beside other containers that want to run, in thousandths of a core; `None`: the
    /// least.
    pub cpu_request_millicores: Option<u64>,
    pub logs: Arc<dyn LogSink>,
    /// Standard input; without one it is at its end.
    pub stdin: Option<Input>,
    /// Whether the standard streams are a terminal to the guest.
    pub tty: bool,
    pub names: Arc<dyn Names>,
    /// Hosts outside the cluster that the guest may call; `*` allows all.
    pub allowed_hosts: Vec<String>,
    /// Where a core dump of a trap goes; without it none is made.
    pub core_dumps: Option<Arc<dyn CoreDumps>>,
    /// What it is told and given beside WASI.
    pub workload: Arc<workload::Workload>,
}

/// One more run of a container's program, in its sandbox.
pub struct ExecSpec {
    /// Unique, as a container's.
    pub id: ContainerId,
    /// The program's arguments; the first is its name.
    pub args: Vec<String>,
    pub logs: Arc<dyn LogSink>,
    pub stdin: Option<Input>,
    pub tty: bool,
}

/// Why an artifact cannot be run; the message is for the user.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Not Wasm, not valid, or it imports what nothing provides.
    #[error("{0}")]
    InvalidModule(String),
    /// Compiling needed more time or memory than the limit.
    #[error("{0}")]
    CompileLimit(String),
    #[error("{0}")]
    Internal(String),
}

/// Why a container did not start; the message is for the user.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The pod's own fault (a port in use, a missing mount).
    #[error("{0}")]
    Container(String),
    #[error("{0}")]
    Internal(String),
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// 0–255; 137 when killed, 134 after a trap.
    pub code: i32,
    pub reason: ExitReason,
    /// A trap's message and the like.
    pub message: String,
    pub started_at: Timestamp,
    pub finished_at: Timestamp,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitReason {
    /// Returned 0.
    Completed,
    /// Returned another code, trapped or was killed.
    Error,
    /// Asked for more memory than its limit.
    OomKilled,
}

/// What the runtime tells of a container, pushed. After `Exited` nothing more comes for this id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    Started {
        id: ContainerId,
        at: Timestamp,
    },
    /// The guest said of itself whether it is ready.
    Readiness {
        id: ContainerId,
        ready: bool,
    },
    Exited {
        id: ContainerId,
        exit: Exit,
    },
}

/// A running container. Dropping it kills the guest.
#[async_trait::async_trait]
pub trait Container: Send + Sync + 'static {
    /// Says that the guest will be told to end soon: an HTTP handler still takes connections and
    /// requests, but every response ends its connection, so that clients move elsewhere. Calling
    /// it again changes nothing.
    fn drain(&self) {}
    /// Asks the guest to end: an HTTP handler stops accepting and finishes what it has; a process
    /// that hears shutdown is told, any other one (WASI has no signals) is killed. After `grace`
    /// everything is killed (code 137). `Exited` is pushed when it has ended.
    fn stop(&self, grace: std::time::Duration);
    /// What it used and holds now; the bytes are those that count against the limit.
    fn usage(&self) -> Usage;
    /// Runs the program once more with other arguments, in the same sandbox: mounts, environment,
    /// address, and the container's own limits, which both share. It ends with the container, or
    /// when what is returned is dropped; its events are sent to a channel of its own.
    async fn exec(
        &self,
        _: ExecSpec,
        _: tokio::sync::mpsc::Sender<RuntimeEvent>,
    ) -> Result<Box<dyn Container>, StartError> {
        Err(StartError::Container("nothing more can be run beside it".to_owned()))
    }
    /// Samples what its guests do until `until`; a profile for the Firefox profiler, as JSON.
    async fn profile(
        &self,
        _until: futures::future::BoxFuture<'static, ()>,
    ) -> Result<Vec<u8>, StartError> {
        Err(StartError::Container("nothing can be profiled".to_owned()))
    }
}

#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Usage {
    pub cpu_micros: u64,
    pub memory_bytes: u64,
    /// Instances that there are now: one of a process, one for each request that is served, and
    /// those that rest between two requests.
    pub instances: u64,
    /// Whether requests come to it at all.
    pub is_handler: bool,
    /// Requests that an HTTP handler got, and those among them that its guest did not answer.
    pub requests: u64,
    pub failed_requests: u64,
    /// Connections, datagrams and look-ups that it was refused.
    pub denials: u64,
}

/// Runs containers. One per process, shared by the nodes in it.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes code ready to run: from the memory or disk cache by `digest` (`sha256:…`), or by
    /// compiling `wasm`. Concurrent calls for one digest compile once; compiles are bounded.
    async fn prepare(&self, digest: &str, wasm: Bytes) -> Result<Arc<dyn Prepared>, PrepareError>;

    /// The code of a digest that is in the memory or disk cache already, without its bytes.
    async fn prepared(&self, digest: &str) -> Option<Arc<dyn Prepared>>;

    /// The code of a program that somebody else compiles and knows by the image's name; `None`: its
    /// bytes are needed.
    ///
    /// # Errors
    /// A verdict on the program, or when it cannot be asked for.
    async fn fetched(
        &self,
        _digest: &str,
        _runner: &Runner,
    ) -> Result<Option<Arc<dyn Prepared>>, PrepareError> {
        Ok(None)
    }

    /// Starts a container and pushes its events to `events`. HTTP handlers are listening when this
    /// returns.
    async fn start(
        &self,
        spec: ContainerSpec,
        events: tokio::sync::mpsc::Sender<RuntimeEvent>,
    ) -> Result<Box<dyn Container>, StartError>;
}
