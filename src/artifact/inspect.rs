//! Reads an artifact without compiling it: what it is, what it imports, what it exports, and
//! whether this host can run it.
//!
//! Used where artifacts come in (the registry, a node's pull), so that a program that cannot run
//! is refused with the import's name and not found out by a crash loop. It needs no engine.

use serde::{Deserialize, Serialize};
use wasmparser::{
    ComponentExternalKind, ComponentTypeRef, Encoding, ExternalKind, Imports, Parser, Payload,
    Validator,
};

use super::bounds::{self, MAX_MEMORIES, MAX_TABLE_ELEMENTS};
use super::interfaces::{self, InterfaceName};
use super::least_memory::least_memory;
use super::{mistakes, preview1};

/// Largest artifact that is accepted, in bytes: a StarlingMonkey or Python component is 20 MB.
pub const MAX_ARTIFACT_BYTES: usize = 256 << 20;

/// Imports or exports that an artifact may list at most; a bound for what is kept of it.
pub const MAX_NAMES: usize = 10_000;

/// What an artifact's exports say about how it is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ArtifactKind {
    /// A preview 1 core module with `_start`: a process, every exit code survives.
    Preview1Command,
    /// A component that exports `wasi:cli/run` (0.2 or 0.3): a process.
    Command,
    /// A component that exports `wasi:http/incoming-handler` (0.2) or `wasi:http/handler` (0.3).
    Http,
}

/// Which generation of WASI an artifact's entry export belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WasiVersion {
    Preview1,
    /// WASI 0.2.x.
    P2,
    /// WASI 0.3.x: asynchronous exports.
    P3,
}

/// What [`inspect`] read from an artifact.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inspection {
    pub kind: ArtifactKind,
    pub wasi: WasiVersion,
    /// The export a host calls: `_start`, `wasi:cli/run@0.2.6`, ….
    pub entry: String,
    /// `module::function` of a core module, interface names of a component.
    pub imports: Vec<String>,
    pub exports: Vec<String>,
    /// See [`least_memory`].
    pub least_memory_bytes: u64,
}

/// Why an artifact cannot be run here; the message is for its author.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LinkError {
    #[error("not a WebAssembly module or component{}", .0.map_or(String::new(), |is| format!(": {is}")))]
    NotWasm(Option<&'static str>),
    #[error("the artifact has {bytes} bytes, more than the limit of {MAX_ARTIFACT_BYTES}")]
    TooLarge { bytes: usize },
    #[error("the artifact lists more than {MAX_NAMES} imports or exports")]
    TooManyNames,
    #[error("not valid WebAssembly: {0}")]
    Invalid(String),
    #[error(
        "the {what} exports no entry point (it has: {exports}); a core module needs `_start`, a \
         component `wasi:cli/run` or `wasi:http/incoming-handler` of WASI 0.2, or `wasi:cli/run` \
         or `wasi:http/handler` of WASI 0.3"
    )]
    NoEntry { what: &'static str, exports: String },
    #[error("nothing provides the import `{import}`; this host provides {provided}")]
    MissingImport { import: String, provided: String },
    #[error("the import `{import}` is {has}; this host provides it as {wanted}")]
    ImportType { import: String, has: String, wanted: String },
    #[error(
        "the export `{entry}` is {has}; it is called without parameters and has no result: (func)"
    )]
    EntryType { entry: &'static str, has: String },
    #[error(
        "its table {table} has {elements} elements at least; no node gives a table more than \
         {MAX_TABLE_ELEMENTS}"
    )]
    TableSize { table: usize, elements: u64 },
    #[error("it defines {0} memories; no node gives a program more than {MAX_MEMORIES}")]
    Memories(usize),
}

/// Classifies an artifact and lists its imports and exports. Does not validate function bodies.
///
/// # Errors
/// When the bytes are not WebAssembly, are malformed, too large, or have no known entry export.
pub fn inspect(bytes: &[u8]) -> Result<Inspection, LinkError> {
    if bytes.len() > MAX_ARTIFACT_BYTES {
        return Err(LinkError::TooLarge { bytes: bytes.len() });
    }
    if bytes.get(..4) != Some(b"\0asm") {
        return Err(LinkError::NotWasm(mistakes::told(bytes)));
    }
    let names = read_names(bytes).map_err(|error| match error {
        ReadError::Malformed(error) => LinkError::Invalid(error.to_string()),
        ReadError::TooMany => LinkError::TooManyNames,
    })?;
    let least = least_memory(bytes).map_err(|error| LinkError::Invalid(error.to_string()))?;
    Ok(Inspection { least_memory_bytes: least, ..classify(names)? })
}

/// [`inspect`], full validation, and the checks that everything imported is provided, by name and a
/// core module's also by type, and that every node has room for its tables. Takes about 10 ms a
/// megabyte: call it where blocking is allowed.
///
/// # Errors
/// Says what is wrong, with the import's or export's name and what the host has instead.
pub fn check_imports(bytes: &[u8]) -> Result<Inspection, LinkError> {
    let inspection = inspect(bytes)?;
    let types = Validator::new_with_features(super::features())
        .validate_all(bytes)
        .map_err(|error| LinkError::Invalid(error.to_string()))?;
    for import in &inspection.imports {
        check_import(&inspection, import)?;
    }
    preview1::check_types(types.as_ref())?;
    bounds::check(bytes)?;
    Ok(inspection)
}

/// Whether the host provides one of a program's imports.
///
/// # Errors
/// Says what it provides instead.
pub fn check_import(inspection: &Inspection, import: &str) -> Result<(), LinkError> {
    let (provided, known) = if inspection.kind == ArtifactKind::Preview1Command {
        let provided = format!("the functions of {} to core modules", preview1::MODULE);
        (provided, preview1::function(import).is_some())
    } else {
        (interfaces::describe_provided(import), interfaces::provides(import))
    };
    if known {
        return Ok(());
    }
    Err(LinkError::MissingImport { import: import.to_owned(), provided })
}

enum ReadError {
    Malformed(wasmparser::BinaryReaderError),
    TooMany,
}

impl From<wasmparser::BinaryReaderError> for ReadError {
    fn from(error: wasmparser::BinaryReaderError) -> Self {
        Self::Malformed(error)
    }
}

#[derive(Default)]
struct Names {
    component: bool,
    imports: Vec<String>,
    /// Names with whether the export can be an entry point (a function or an instance).
    exports: Vec<(String, bool)>,
}

impl Names {
    fn import(&mut self, name: String) -> Result<(), ReadError> {
        if self.imports.len() >= MAX_NAMES {
            return Err(ReadError::TooMany);
        }
        self.imports.push(name);
        Ok(())
    }

    fn export(&mut self, name: &str, entry: bool) -> Result<(), ReadError> {
        if self.exports.len() >= MAX_NAMES {
            return Err(ReadError::TooMany);
        }
        self.exports.push((name.to_owned(), entry));
        Ok(())
    }
}

/// The outermost module's or component's names; what is nested inside is its own affair.
fn read_names(bytes: &[u8]) -> Result<Names, ReadError> {
    let mut names = Names::default();
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding, .. } if depth == 0 => {
                names.component = encoding == Encoding::Component;
                depth = 1;
            }
            Payload::Version { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ImportSection(section) if depth == 1 => {
                for group in section {
                    read_core_imports(&mut names, group?)?;
                }
            }
            Payload::ExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export?;
                    names.export(export.name, export.kind == ExternalKind::Func)?;
                }
            }
            Payload::ComponentImportSection(section) if depth == 1 => {
                for import in section {
                    let import = import?;
                    // Importing a type alone asks the host for nothing.
                    if !matches!(import.ty, ComponentTypeRef::Type(_)) {
                        names.import(import.name.name.to_owned())?;
                    }
                }
            }
            Payload::ComponentExportSection(section) if depth == 1 => {
                for export in section {
                    let export = export?;
                    let entry = export.kind == ComponentExternalKind::Instance;
                    names.export(export.name.name, entry)?;
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

fn read_core_imports(names: &mut Names, group: Imports<'_>) -> Result<(), ReadError> {
    match group {
        Imports::Single(_, import) => names.import(format!("{}::{}", import.module, import.name)),
        Imports::Compact1 { module, items } => {
            for item in items {
                names.import(format!("{module}::{}", item?.name))?;
            }
            Ok(())
        }
        Imports::Compact2 { module, names: items, .. } => {
            for item in items {
                names.import(format!("{module}::{}", item?))?;
            }
            Ok(())
        }
    }
}

fn classify(names: Names) -> Result<Inspection, LinkError> {
    let exports: Vec<String> = names.exports.iter().map(|(name, _)| name.clone()).collect();
    let candidates = names.exports.iter().filter(|(_, entry)| *entry).map(|(name, _)| name);
    let found = if names.component {
        // A component that can do both serves: its commands are reached by `exec`-like arguments
        // in no Kubernetes field, its handler by every request.
        let mut known: Vec<_> = candidates
            .filter_map(|name| entry_of(name).map(|(kind, wasi)| (kind, wasi, name.clone())))
            .collect();
        known
            .sort_by_key(|(kind, wasi, _)| (*kind != ArtifactKind::Http, *wasi != WasiVersion::P3));
        known.into_iter().next()
    } else {
        candidates
            .filter(|name| *name == preview1::ENTRY)
            .map(|name| (ArtifactKind::Preview1Command, WasiVersion::Preview1, name.clone()))
            .next()
    };
    let Some((kind, wasi, entry)) = found else {
        let what = if names.component { "component" } else { "module" };
        return Err(LinkError::NoEntry { what, exports: summary(&exports) });
    };
    let imports = names.imports;
    Ok(Inspection { kind, wasi, entry, imports, exports, least_memory_bytes: 0 })
}

/// What an exported interface makes of a component; `None`: nothing a host would call.
pub fn entry_of(export: &str) -> Option<(ArtifactKind, WasiVersion)> {
    let name = InterfaceName::parse(export)?;
    match (name.package, name.interface, name.track()) {
        ("wasi:cli", "run", "0.2") => Some((ArtifactKind::Command, WasiVersion::P2)),
        ("wasi:cli", "run", "0.3") => Some((ArtifactKind::Command, WasiVersion::P3)),
        ("wasi:http", "incoming-handler", "0.2") => Some((ArtifactKind::Http, WasiVersion::P2)),
        ("wasi:http", "handler", "0.3") => Some((ArtifactKind::Http, WasiVersion::P3)),
        _ => None,
    }
}

/// The first few names, for an error's text.
fn summary(names: &[String]) -> String {
    const SHOWN: usize = 8;
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).expect("the test's text is a module")
    }

    #[test]
    fn a_core_module_is_a_preview1_command() {
        let got = check_imports(&wasm(
            r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
                       (func (export "_start")))"#,
        ))
        .expect("it can be run");
        assert_eq!(got.kind, ArtifactKind::Preview1Command);
        assert_eq!(got.imports, ["wasi_snapshot_preview1::proc_exit"]);
        assert_eq!(got.entry, "_start");
    }

    #[test]
    fn a_missing_import_is_named() {
        let error = check_imports(&wasm(
            r#"(module (import "env" "magic" (func)) (func (export "_start")))"#,
        ))
        .expect_err("nothing provides it");
        assert!(error.to_string().contains("`env::magic`"), "{error}");
        let error = check_imports(&wasm(
            r#"(component
                 (import "acme:store/kv@1.0.0" (instance))
                 (instance $run)
                 (export "wasi:cli/run@0.2.0" (instance $run)))"#,
        ))
        .expect_err("nothing provides it");
        assert!(error.to_string().contains("`acme:store/kv@1.0.0`"), "{error}");
        assert!(error.to_string().contains("wasi:http@0.2.x"), "{error}");
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        assert_eq!(check_imports(b"hello"), Err(LinkError::NotWasm(None)));
        let error = check_imports(b"(module)").expect_err("it is text");
        assert!(error.to_string().contains("component: it is WebAssembly's text"), "{error}");
        assert!(matches!(check_imports(b"\0asm\x01\0\0"), Err(LinkError::Invalid(_))));
        let library = wasm(r#"(module (func (export "add")))"#);
        let error = check_imports(&library).expect_err("no entry");
        assert!(error.to_string().contains("(it has: add)"), "{error}");
        // A function body that does not type-check is found by validation.
        let mut broken = wasm(r#"(module (func (export "_start") (drop (i32.const 1))))"#);
        let at = broken.windows(2).position(|w| w == [0x41, 1]).expect("i32.const 1");
        broken[at] = 0x01;
        broken[at + 1] = 0x01;
        assert!(matches!(check_imports(&broken), Err(LinkError::Invalid(_))));
        let threads = wasm(r#"(module (memory 1 1 shared) (func (export "_start")))"#);
        assert!(matches!(check_imports(&threads), Err(LinkError::Invalid(_))));
    }

    #[test]
    fn a_module_of_wrong_types_is_refused_with_both() {
        let told = |text: &str| match check_imports(&wasm(text)) {
            Ok(_) => "it can be run".to_owned(),
            Err(error) => error.to_string(),
        };
        let read = "the import `wasi_snapshot_preview1::fd_read` is ";
        let provided = "; this host provides it as (func (param i32 i32 i32 i32) (result i32))";
        for (what, has) in [
            ("(func (param i32 i32 i32) (result i32))", "(func (param i32 i32 i32) (result i32))"),
            ("(func (param i32 i32 i32 i32))", "(func (param i32 i32 i32 i32))"),
            (
                "(func (param i32 i32 i32 i64) (result i32))",
                "(func (param i32 i32 i32 i64) (result i32))",
            ),
            ("(memory 1)", "a memory"),
            ("(global i32)", "a global"),
            ("(table 1 funcref)", "a table"),
        ] {
            let text = format!(
                r#"(module (import "wasi_snapshot_preview1" "fd_read" {what})
                     (func (export "_start")))"#
            );
            assert_eq!(told(&text), format!("{read}{has}{provided}"));
        }
        let both = r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func (param i32)))
            (func (export "_start")))"#;
        assert_eq!(told(both), format!("{read}(func (param i32)){provided}"));
        for entry in ["(func (param i32))", "(func (result i32))"] {
            let body = entry.replace("(func", "(func (export \"_start\")");
            let text = format!("(module {} unreachable))", &body[..body.len() - 1]);
            let wanted = "it is called without parameters and has no result: (func)";
            assert_eq!(told(&text), format!("the export `_start` is {entry}; {wanted}"));
        }
    }

    #[test]
    fn what_no_node_has_room_for_is_refused() {
        let told = |text: &str| match check_imports(&wasm(text)) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        let module = |with: &str| format!("(module {with} (func (export \"_start\")))");
        let small = format!("(table 1 funcref) (table {MAX_TABLE_ELEMENTS} funcref)");
        assert_eq!(told(&module(&small)), "");
        let table = format!("(table 1 funcref) (table {} funcref)", MAX_TABLE_ELEMENTS + 1);
        let large =
            "its table 1 has 1048577 elements at least; no node gives a table more than 1048576";
        assert_eq!(told(&module(&table)), large);
        let many = module(&"(memory 0)".repeat(MAX_MEMORIES + 1));
        assert_eq!(told(&many), "it defines 17 memories; no node gives a program more than 16");
        // Also in a component, where there may be many modules.
        let component = format!(
            r#"(component (core module (table 1 funcref)) (core module (table 1 funcref) (table
                 {} funcref)) (instance $i) (export "wasi:cli/run@0.2.6" (instance $i)))"#,
            MAX_TABLE_ELEMENTS + 1
        );
        assert_eq!(told(&component), large);
    }

    #[test]
    fn components_are_classified_by_their_export() {
        let component = |export: &str| {
            wasm(&format!(r#"(component (instance $i) (export "{export}" (instance $i)))"#))
        };
        let kind = |export| inspect(&component(export)).map(|got| (got.kind, got.wasi));
        use ArtifactKind::{Command, Http};
        assert_eq!(kind("wasi:cli/run@0.2.6"), Ok((Command, WasiVersion::P2)));
        assert_eq!(kind("wasi:cli/run@0.3.0"), Ok((Command, WasiVersion::P3)));
        assert_eq!(kind("wasi:http/incoming-handler@0.2.0"), Ok((Http, WasiVersion::P2)));
        assert_eq!(kind("wasi:http/handler@0.3.1"), Ok((Http, WasiVersion::P3)));
        assert!(kind("acme:app/main@1.0.0").is_err());
    }
}
