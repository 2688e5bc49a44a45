//! The memory that a program has before its first instruction runs: what the linear memories and
//! tables of its instances begin with. A container that is limited to less runs nothing.
//!
//! It never says too much. What is instantiated is counted as often as it is; modules and components
//! that come from outside, or out of an instance, are counted as nothing.

use wasmparser::{
    BinaryReaderError, ComponentAlias, ComponentExternalKind, ComponentInstance,
    ComponentOuterAliasKind, ComponentTypeRef, Encoding, Instance, MemoryType, Parser, Payload,
};

use super::bounds::TABLE_ELEMENT_BYTES;

/// Of a linear memory; other sizes are a proposal that is off.
const PAGE_BYTES: u64 = 64 << 10;

/// A module or a component that is being read.
#[derive(Default)]
struct Open {
    is_component: bool,
    /// What one instance of it begins with.
    bytes: u64,
    /// The same of what a component has by an index.
    modules: Vec<u64>,
    components: Vec<u64>,
}

impl Open {
    fn add(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// In bytes; 0 for what has neither memories nor tables.
///
/// # Errors
/// When the bytes are malformed.
pub fn least_memory(bytes: &[u8]) -> Result<u64, BinaryReaderError> {
    // They lie in each other; the innermost is the last.
    let mut outer: Vec<Open> = Vec::new();
    let mut open = Open::default();
    for payload in Parser::new(0).parse_all(bytes) {
        match payload? {
            Payload::Version { encoding, .. } => {
                let is_component = encoding == Encoding::Component;
                outer.push(std::mem::replace(&mut open, Open { is_component, ..Open::default() }));
            }
            Payload::End(_) => {
                let Some(parent) = outer.pop() else { break };
                let done = std::mem::replace(&mut open, parent);
                match done.is_component {
                    true => open.components.push(done.bytes),
                    false => open.modules.push(done.bytes),
                }
                if outer.is_empty() {
                    return Ok(done.bytes);
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    let MemoryType { initial, .. } = memory?;
                    open.add(initial.saturating_mul(PAGE_BYTES));
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    open.add(table?.ty.initial.saturating_mul(TABLE_ELEMENT_BYTES));
                }
            }
            Payload::InstanceSection(section) => {
                for instance in section {
                    if let Instance::Instantiate { module_index, .. } = instance? {
                        open.add(at(&open.modules, module_index));
                    }
                }
            }
            Payload::ComponentInstanceSection(section) => {
                for instance in section {
                    if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                        open.add(at(&open.components, component_index));
                    }
                }
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    match import?.ty {
                        ComponentTypeRef::Module(_) => open.modules.push(0),
                        ComponentTypeRef::Component(_) => open.components.push(0),
                        _ => {}
                    }
                }
            }
            Payload::ComponentAliasSection(section) => {
                for alias in section {
                    name_again(&mut open, &outer, alias?);
                }
            }
            // What is exported has one more index.
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export?;
                    match export.kind {
                        ComponentExternalKind::Module => {
                            open.modules.push(at(&open.modules, export.index));
                        }
                        ComponentExternalKind::Component => {
                            open.components.push(at(&open.components, export.index));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(0)
}

fn at(known: &[u64], index: u32) -> u64 {
    known.get(index as usize).copied().unwrap_or(0)
}

fn name_again(open: &mut Open, outer: &[Open], alias: ComponentAlias) {
    match alias {
        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Module, .. } => {
            open.modules.push(0);
        }
        ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => {
            open.components.push(0);
        }
        ComponentAlias::Outer { kind, count, index } => {
            let of = match (count as usize).checked_sub(1) {
                None => Some(&*open),
                Some(up) => outer.iter().rev().nth(up),
            };
            match kind {
                ComponentOuterAliasKind::CoreModule => {
                    let bytes = of.map_or(0, |of| at(&of.modules, index));
                    open.modules.push(bytes);
                }
                ComponentOuterAliasKind::Component => {
                    let bytes = of.map_or(0, |of| at(&of.components, index));
                    open.components.push(bytes);
                }
                ComponentOuterAliasKind::CoreType | ComponentOuterAliasKind::Type => {}
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn least(text: &str) -> u64 {
        let bytes = wat::parse_str(text).expect("the test's text is a program");
        wasmparser::Validator::new().validate_all(&bytes).expect("it is valid");
        least_memory(&bytes).expect("it is read")
    }

    const PAGE: u64 = PAGE_BYTES;

    #[test]
    fn a_module_begins_with_its_memories_and_tables() {
        assert_eq!(least("(module)"), 0);
        assert_eq!(least("(module (memory 17 100))"), 17 * PAGE);
        assert_eq!(least("(module (memory 1) (memory 2) (table 10 funcref))"), 3 * PAGE + 80);
        // Neither what it is given nor what it may grow to.
        assert_eq!(least(r#"(module (import "a" "m" (memory 5)) (table 0 9 funcref))"#), 0);
        assert_eq!(least("(module (memory 65536))"), 4 << 30);
    }

    #[test]
    fn a_component_begins_with_what_it_instantiates() {
        let module = "(core module $m (memory 3))";
        assert_eq!(least(&format!("(component {module})")), 0, "nobody instantiates it");
        let twice = "(core instance (instantiate $m)) (core instance (instantiate $m))";
        assert_eq!(least(&format!("(component {module} {twice})")), 6 * PAGE);
        let other =
            "(core module $n (memory 1) (table 2 funcref)) (core instance (instantiate $n))";
        assert_eq!(least(&format!("(component {module} {twice} {other})")), 7 * PAGE + 16);
        // Components in components, with modules of the outer one and of one further out.
        let nested = format!(
            "(component {module}
               (component $inner
                 (alias outer 1 $m (core module $of_outer))
                 (core instance (instantiate $of_outer))
                 (component $innermost
                   (alias outer 2 $m (core module $of_outermost))
                   (core instance (instantiate $of_outermost)))
                 (instance (instantiate $innermost)))
               (alias outer 0 $inner (component $again))
               (instance (instantiate $inner)) (instance (instantiate $again)))"
        );
        assert_eq!(least(&nested), 12 * PAGE);
    }

    #[test]
    fn what_comes_from_elsewhere_is_nothing_and_shifts_nothing() {
        let text = r#"(component
            (import "m" (core module $given))
            (import "c" (component $whole))
            (core module $own (memory 2))
            (core instance (instantiate $given))
            (instance $of (instantiate $whole))
            (core instance (instantiate $own)))"#;
        assert_eq!(least(text), 2 * PAGE);
        let text = r#"(component
            (component $c (core module $m (memory 9)) (export "m" (core module $m))
              (core module $own (memory 1)) (core instance (instantiate $own)))
            (instance $of (instantiate $c))
            (alias export $of "m" (core module $got))
            (core module $own (memory 2))
            (core instance (instantiate $got))
            (core instance (instantiate $own)))"#;
        assert_eq!(least(text), 3 * PAGE, "less than it takes, which is said of no other");
    }

    /// 2^62 instances of 4 GiB: no number of bytes, and no work.
    #[test]
    fn nothing_overflows() {
        let mut text =
            "(core module $m (memory 65536)) (core instance (instantiate $m))".to_owned();
        for _ in 0..62 {
            text = format!(
                "(component $c {text}) (instance (instantiate $c)) (instance (instantiate $c))"
            );
        }
        let bytes = wat::parse_str(format!("(component {text})")).expect("a component");
        assert_eq!(least_memory(&bytes).expect("it is read"), u64::MAX);
    }
}
