//! What an expression may name beside the functions, which are the same everywhere.

use std::collections::BTreeMap;

use super::types::Type;

/// Variables with their types.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: BTreeMap<String, Type>,
    /// Whether `Object{…}` and `JSONPatch{…}` can be made.
    makes_objects: bool,
}

impl Env {
    pub fn new() -> Env {
        Env::default()
    }

    pub fn with(mut self, name: &str, of: Type) -> Env {
        self.variables.insert(name.into(), of);
        self
    }

    pub fn with_objects(mut self) -> Env {
        self.makes_objects = true;
        self
    }

    /// A variable's name may have dots: `variables.total`.
    pub fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    pub(super) fn has_dots(&self) -> bool {
        self.variables.keys().any(|name| name.contains('.'))
    }

    pub(super) fn makes_objects(&self) -> bool {
        self.makes_objects
    }
}
