//! How many and how large the tables and memories of a program may be, on every node. What of memory a
//! container may have, its pod says; these are the same for all, so that a program beyond them is
//! refused where it comes in. And what an instance counts for beside its memories, for who compares
//! a pod's limit with a program.

use wasmparser::{BinaryReaderError, Parser, Payload};

use super::inspect::LinkError;

/// Elements one table may have; the largest real programs have some ten thousand functions.
pub const MAX_TABLE_ELEMENTS: usize = 1 << 20;
/// In one store, of all modules of a component together.
pub const MAX_MEMORIES: usize = 16;

/// What an instance costs the host beside its memories: the touched part of its stack, its store,
/// and the buffers of the request it serves.
pub const INSTANCE_BYTES: u64 = 128 << 10;
/// What one table element costs the host.
pub const TABLE_ELEMENT_BYTES: u64 = 8;

/// What one module defines.
#[derive(Default)]
struct Defined {
    tables: usize,
    memories: usize,
}

/// Whether each module of a program, alone, is within the bounds that no node goes beyond.
///
/// # Errors
/// Says which table is too large, or how many memories there are.
pub fn check(bytes: &[u8]) -> Result<(), LinkError> {
    // Modules and components lie in each other; the innermost is the last.
    let mut open: Vec<Defined> = Vec::new();
    let invalid = |error: BinaryReaderError| LinkError::Invalid(error.to_string());
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version { .. } => open.push(Defined::default()),
            Payload::End(_) => {
                open.pop();
            }
            Payload::TableSection(section) => {
                let Some(module) = open.last_mut() else { continue };
                for table in section {
                    let elements = table.map_err(invalid)?.ty.initial;
                    if elements > MAX_TABLE_ELEMENTS as u64 {
                        return Err(LinkError::TableSize { table: module.tables, elements });
                    }
                    module.tables += 1;
                }
            }
            Payload::MemorySection(section) => {
                let Some(module) = open.last_mut() else { continue };
                module.memories += section.count() as usize;
                if module.memories > MAX_MEMORIES {
                    return Err(LinkError::Memories(module.memories));
                }
            }
            _ => {}
        }
    }
    Ok(())
}
