//! Compiling for a cluster: once for all who ask, in bounds, in turn; and what a node takes of it.

pub mod bombs;
mod service;
mod supply;

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use wasmfleet::engine::compile::{self, CompilerPlace};
use wasmfleet::engine::seal::Signer;
use wasmfleet::engine::service::{CompileService, Options, Stats};
use wasmfleet::engine::target::Target;

use crate::cluster::WASMFLEET;

/// No test waits longer than this for anything; a slow machine is slow, not wrong.
const PATIENCE: Duration = Duration::from_secs(90);

fn digest(wasm: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(wasm)))
}

/// A program that ends with this code.
fn program(code: u32) -> Vec<u8> {
    let text = format!(
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
             (func (export "_start") (call $exit (i32.const {code}))) (memory (export "memory") 1))"#
    );
    wat::parse_str(text).expect("a module")
}

fn signer() -> Signer {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    Signer::new(&key.serialize_der()).expect("of P-256")
}

/// The built program as the compiler; `before` is a command that a shell runs first.
fn compiler(dir: &Path, before: &str) -> CompilerPlace {
    let path = dir.join("compiler");
    let mut file = std::fs::File::create(&path).expect("a file");
    writeln!(file, "#!/bin/sh\n{before}\nexec '{WASMFLEET}' \"$@\"").expect("writes");
    drop(file);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    CompilerPlace::ChildProcess(path)
}

struct Bench {
    service: Arc<CompileService>,
    dir: tempfile::TempDir,
}

impl Bench {
    /// A service with one worker, whose compiler notes each of its starts in the file `starts`.
    fn new(before: &str, change: impl FnOnce(&mut Options)) -> Bench {
        let dir = tempfile::tempdir().expect("a directory");
        let note = format!("echo $$ >>'{}'\n{before}", dir.path().join("starts").display());
        let limits = compile::Options::new(compiler(dir.path(), &note));
        let mut options = Options::new(limits, dir.path().join("code"));
        options.workers = 1;
        change(&mut options);
        let service = CompileService::open(options, signer()).expect("opens");
        Bench { service, dir }
    }

    fn run(&self) {
        for _ in 0..self.service.workers() {
            tokio::spawn(self.service.clone().work());
        }
    }

    fn file(&self, name: &str, wasm: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, wasm).expect("writes");
        path
    }

    fn starts(&self) -> usize {
        let text = std::fs::read_to_string(self.dir.path().join("starts")).unwrap_or_default();
        text.lines().count()
    }

    async fn until(&self, what: &str, holds: impl Fn(Stats) -> bool) {
        let wait = async {
            while !holds(self.service.stats()) {
                tokio::task::yield_now().await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        waited.unwrap_or_else(|_| panic!("{what}: {:?}", self.service.stats()));
    }
}

fn here() -> Target {
    Target::here().expect("a machine that is compiled for")
}
