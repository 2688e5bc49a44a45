//! WASI preview 1 as core modules import it: every function that the host provides, with its type.
//!
//! It knows names and types only; what stands behind a name is the room `runtime`'s. A test there
//! holds that both are the linker's.

use wasmparser::FuncType;
use wasmparser::ValType::{self, I32, I64};
use wasmparser::types::{EntityType, TypesRef};

use super::inspect::LinkError;

/// The module name under which WASI preview 1 is imported.
pub const MODULE: &str = "wasi_snapshot_preview1";
/// The export that a host calls.
pub const ENTRY: &str = "_start";

/// One function, as wasi_snapshot_preview1.witx has it: pointers, sizes, handles and flags are `i32`.
pub struct Function {
    pub name: &'static str,
    params: &'static [ValType],
    results: &'static [ValType],
}

impl Function {
    pub fn func_type(&self) -> FuncType {
        FuncType::new(self.params.iter().copied(), self.results.iter().copied())
    }
}

/// One that answers with an error number.
const fn tells(name: &'static str, params: &'static [ValType]) -> Function {
    Function { name, params, results: &[I32] }
}

/// Every function that a core module may import, by name.
pub const FUNCTIONS: &[Function] = &[
    tells("args_get", &[I32, I32]),
    tells("args_sizes_get", &[I32, I32]),
    tells("clock_res_get", &[I32, I32]),
    tells("clock_time_get", &[I32, I64, I32]),
    tells("environ_get", &[I32, I32]),
    tells("environ_sizes_get", &[I32, I32]),
    tells("fd_advise", &[I32, I64, I64, I32]),
    tells("fd_allocate", &[I32, I64, I64]),
    tells("fd_close", &[I32]),
    tells("fd_datasync", &[I32]),
    tells("fd_fdstat_get", &[I32, I32]),
    tells("fd_fdstat_set_flags", &[I32, I32]),
    tells("fd_fdstat_set_rights", &[I32, I64, I64]),
    tells("fd_filestat_get", &[I32, I32]),
    tells("fd_filestat_set_size", &[I32, I64]),
    tells("fd_filestat_set_times", &[I32, I64, I64, I32]),
    tells("fd_pread", &[I32, I32, I32, I64, I32]),
    tells("fd_prestat_dir_name", &[I32, I32, I32]),
    tells("fd_prestat_get", &[I32, I32]),
    tells("fd_pwrite", &[I32, I32, I32, I64, I32]),
    tells("fd_read", &[I32, I32, I32, I32]),
    tells("fd_readdir", &[I32, I32, I32, I64, I32]),
    tells("fd_renumber", &[I32, I32]),
    tells("fd_seek", &[I32, I64, I32, I32]),
    tells("fd_sync", &[I32]),
    tells("fd_tell", &[I32, I32]),
    tells("fd_write", &[I32, I32, I32, I32]),
    tells("path_create_directory", &[I32, I32, I32]),
    tells("path_filestat_get", &[I32, I32, I32, I32, I32]),
    tells("path_filestat_set_times", &[I32, I32, I32, I32, I64, I64, I32]),
    tells("path_link", &[I32, I32, I32, I32, I32, I32, I32]),
    tells("path_open", &[I32, I32, I32, I32, I32, I64, I64, I32, I32]),
    tells("path_readlink", &[I32, I32, I32, I32, I32, I32]),
    tells("path_remove_directory", &[I32, I32, I32]),
    tells("path_rename", &[I32, I32, I32, I32, I32, I32]),
    tells("path_symlink", &[I32, I32, I32, I32, I32]),
    tells("path_unlink_file", &[I32, I32, I32]),
    tells("poll_oneoff", &[I32, I32, I32, I32]),
    Function { name: "proc_exit", params: &[I32], results: &[] },
    tells("proc_raise", &[I32]),
    tells("random_get", &[I32, I32]),
    tells("sched_yield", &[]),
    tells("sock_accept", &[I32, I32, I32]),
    tells("sock_recv", &[I32, I32, I32, I32, I32, I32]),
    tells("sock_send", &[I32, I32, I32, I32, I32]),
    tells("sock_shutdown", &[I32, I32]),
];

/// The function of an import, `module::name`; `None` where nothing provides it.
pub fn function(import: &str) -> Option<&'static Function> {
    let name = import.strip_prefix(MODULE)?.strip_prefix("::")?;
    FUNCTIONS.iter().find(|function| function.name == name)
}

/// Whether a module's imports and its entry have the types that a host has for them; of those that
/// nothing provides it says nothing.
///
/// # Errors
/// Names the first that has not, with both types.
pub fn check_types(types: TypesRef<'_>) -> Result<(), LinkError> {
    for (module, name, entity) in types.core_imports().into_iter().flatten() {
        let import = format!("{module}::{name}");
        let Some(function) = function(&import) else { continue };
        let wanted = function.func_type();
        if func_type(types, entity) != Some(&wanted) {
            let (has, wanted) = (told(types, entity), wanted.to_string());
            return Err(LinkError::ImportType { import, has, wanted });
        }
    }
    let mut exports = types.core_exports().into_iter().flatten();
    let entry = exports.find(|(name, _)| *name == ENTRY).map(|(_, entity)| entity);
    let is_plain = |found: &FuncType| found.params().is_empty() && found.results().is_empty();
    match entry.filter(|entity| !func_type(types, *entity).is_some_and(is_plain)) {
        Some(entity) => Err(LinkError::EntryType { entry: ENTRY, has: told(types, entity) }),
        None => Ok(()),
    }
}

fn func_type(types: TypesRef<'_>, entity: EntityType) -> Option<&FuncType> {
    match entity {
        EntityType::Func(id) | EntityType::FuncExact(id) => {
            match &types.get(id)?.composite_type.inner {
                wasmparser::CompositeInnerType::Func(found) => Some(found),
                _ => None,
            }
        }
        _ => None,
    }
}

fn told(types: TypesRef<'_>, entity: EntityType) -> String {
    if let Some(found) = func_type(types, entity) {
        return found.to_string();
    }
    let what = match entity {
        EntityType::Table(_) => "a table",
        EntityType::Memory(_) => "a memory",
        EntityType::Global(_) => "a global",
        _ => "of another kind",
    };
    what.to_owned()
}
