//! Which tools made a program: the custom section `producers`
//! (WebAssembly tool-conventions, ProducersSection.md), of the program and of all that it contains.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use wasmparser::{KnownCustom, Parser, Payload};

/// Tools that are listed of one program at most.
const MAX_PRODUCERS: usize = 100;

/// One tool.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Producer {
    /// `language`, `processed-by` or `sdk`.
    pub field: String,
    pub name: String,
    pub version: String,
}

/// The tools that made a program, each once, in order. A section that cannot be read says nothing:
/// it is a note of strangers that nothing depends on.
pub fn producers(bytes: &[u8]) -> Vec<Producer> {
    let mut found = BTreeSet::new();
    for payload in Parser::new(0).parse_all(bytes) {
        let Ok(Payload::CustomSection(section)) = payload else { continue };
        let KnownCustom::Producers(fields) = section.as_known() else { continue };
        for field in fields.into_iter().flatten() {
            for value in field.values.into_iter().flatten() {
                if found.len() >= MAX_PRODUCERS {
                    break;
                }
                found.insert(Producer {
                    field: field.name.to_owned(),
                    name: value.name.to_owned(),
                    version: value.version.to_owned(),
                });
            }
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_are_listed_once() {
        let component = include_bytes!("../../examples/guests/built/rust-http-wstd.wasm");
        let found = producers(component);
        let one = |field: &str, name: &str| {
            found.iter().filter(|p| p.field == field && p.name == name).count()
        };
        assert_eq!(one("language", "Rust"), 1, "{found:?}");
        assert_eq!(one("processed-by", "rustc"), 1, "{found:?}");
        assert_eq!(producers(b"\0asm"), []);
        assert_eq!(producers(b"no program"), []);
    }
}
