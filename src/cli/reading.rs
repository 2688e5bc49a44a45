//! Reads a program in a child process with limits: one of too deep types ends whoever reads it.
//! `wasmctl` starts itself with a hidden subcommand; neither end needs a cluster.
//!
//! ```text
//!   stdin:  WebAssembly … EOF      stdout: a `Program` as JSON        exit 0
//!                                  stderr: why it is none             exit 65
//! ```

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::artifact::inspect::{LinkError, MAX_ARTIFACT_BYTES, check_import};
use crate::artifact::{ArtifactKind, Producer, check_imports, inspect, producers};
use crate::base::confine::{ARENA_RESERVE, confine};
use crate::images::MAX_BLOB_BYTES;

/// With this argument `wasmctl` is the child.
pub const SUBCOMMAND: &str = "read-program";
/// `EX_DATAERR` of sysexits.h: the program is at fault.
const EXIT_INVALID: u8 = 65;
/// Beyond the program itself, which is read whole; as the control plane's compiler has.
const MEMORY_BYTES: u64 = 1 << 30;
/// Ten times what the largest program needs.
const CPU_SECONDS: u64 = 30;

/// What is read of a program.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    pub kind: ArtifactKind,
    /// The export that is called.
    pub entry: String,
    pub imports: Vec<Import>,
    pub exports: Vec<String>,
    pub producers: Vec<Producer>,
    /// Why it cannot run here; none if it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[derive(Serialize, Deserialize)]
pub struct Import {
    pub name: String,
    pub provided: bool,
}

/// A program's file, if it is one and not too large.
///
/// # Errors
/// Says what it is instead.
pub fn file(path: &Path) -> anyhow::Result<Bytes> {
    let place = || path.display().to_string();
    let found = std::fs::metadata(path).with_context(place)?;
    if found.is_dir() {
        bail!("{} is a directory; name the .wasm file in it", place());
    }
    if found.len() > MAX_BLOB_BYTES {
        bail!("{} is larger than {} MiB", place(), MAX_BLOB_BYTES >> 20);
    }
    Ok(std::fs::read(path).with_context(place)?.into())
}

/// Reads a program in a child.
///
/// # Errors
/// Why it is none, or too much for the limits.
pub async fn program(wasm: Bytes) -> anyhow::Result<Program> {
    tokio::task::spawn_blocking(move || ask(&wasm)).await?
}

fn ask(wasm: &[u8]) -> anyhow::Result<Program> {
    let (name, value) = ARENA_RESERVE;
    let mut child = Command::new("/proc/self/exe")
        .arg(SUBCOMMAND)
        .env_clear()
        .env(name, value)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start the process that reads programs")?;
    // It reads all before it writes. One that dies early closes its end; its status says why.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(wasm);
    }
    let output = child.wait_with_output()?;
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => Ok(serde_json::from_slice(&output.stdout)?),
        (Some(_), _) => bail!("{}", String::from_utf8_lossy(&output.stderr).trim()),
        (None, signal) => bail!(
            "to read this program takes more than {} MiB of memory, {CPU_SECONDS} s of processor \
             time or the stack (signal {})",
            MEMORY_BYTES >> 20,
            signal.unwrap_or(0)
        ),
    }
}

/// The child's whole life.
pub fn child_main() -> ExitCode {
    let made = confine(MEMORY_BYTES, CPU_SECONDS).map_err(anyhow::Error::from).and_then(|()| {
        let mut wasm = Vec::new();
        let most = MAX_ARTIFACT_BYTES as u64 + 1;
        std::io::stdin().lock().take(most).read_to_end(&mut wasm)?;
        Ok(serde_json::to_vec(&read(&wasm)?)?)
    });
    let mut out = std::io::stdout().lock();
    match made.and_then(|text| Ok(out.write_all(&text).and_then(|()| out.flush())?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::from(EXIT_INVALID)
        }
    }
}

fn read(wasm: &[u8]) -> anyhow::Result<Program> {
    let found = inspect(wasm)?;
    let provided = |import: &String| Import {
        name: import.clone(),
        provided: check_import(&found, import).is_ok(),
    };
    let problem = check_imports(wasm).err().filter(|e| !matches!(e, LinkError::NotWasm(_)));
    Ok(Program {
        kind: found.kind,
        entry: found.entry.clone(),
        imports: found.imports.iter().map(provided).collect(),
        exports: found.exports.clone(),
        producers: producers(wasm),
        problem: problem.map(|error| error.to_string()),
    })
}
