//! The shape of every built-in type: its fields, their types, and how lists and maps merge.
//!
//! Owns the two tables in `data/` and their lookup; the protobuf decoder, strategic merge patch
//! and the OpenAPI documents read it. Knows nothing of what a field means. The tables are parsed
//! once, at the first use, and then stay (about 200 KB).

use std::collections::HashMap;
use std::sync::OnceLock;

const FIELDS: &str = include_str!("data/proto_fields.tsv");
const MERGE_KEYS: &str = include_str!("data/merge_keys.tsv");

/// API groups of the built-in types, and the package each is called in the tables.
const PACKAGES: [(&str, &str); 23] = [
    ("", "core"),
    ("admission.k8s.io", "admission"),
    ("admissionregistration.k8s.io", "admissionregistration"),
    ("apidiscovery.k8s.io", "apidiscovery"),
    ("apiextensions.k8s.io", "apiextensions"),
    ("apiregistration.k8s.io", "apiregistration"),
    ("apps", "apps"),
    ("authentication.k8s.io", "authentication"),
    ("authorization.k8s.io", "authorization"),
    ("autoscaling", "autoscaling"),
    ("batch", "batch"),
    ("certificates.k8s.io", "certificates"),
    ("coordination.k8s.io", "coordination"),
    ("discovery.k8s.io", "discovery"),
    ("events.k8s.io", "events"),
    ("flowcontrol.apiserver.k8s.io", "flowcontrol"),
    ("networking.k8s.io", "networking"),
    ("node.k8s.io", "node"),
    ("policy", "policy"),
    ("rbac.authorization.k8s.io", "rbac"),
    ("resource.k8s.io", "resource"),
    ("scheduling.k8s.io", "scheduling"),
    ("storage.k8s.io", "storage"),
];

/// A type of the graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TypeId(u16);

/// Types whose JSON is not an object of their protobuf fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    /// Bytes that hold a JSON document: RawExtension, JSON, FieldsV1.
    RawJson,
    /// A message around a list of strings: Verbs, ExtraValue, AttestationValue.
    StringList,
    SchemaOrBool,
    SchemaOrArray,
    SchemaOrStringArray,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldType {
    String,
    Int32,
    Int64,
    Bool,
    Bytes,
    Double,
    Special(Special),
    Message(TypeId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    One,
    List,
    /// Keys are always strings.
    Map,
}

/// What a scalar's zero on the wire means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zero {
    /// Go writes zeros of plain fields: it means absent.
    Absent,
    /// A pointer, or a field without omitempty: the zero is a value.
    Value,
}

#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Protobuf field number.
    pub number: u32,
    /// Name in JSON; for an inlined field a name that never shows.
    pub name: &'static str,
    pub container: Container,
    pub kind: FieldType,
    pub zero: Zero,
    /// Always there to Go, though JSON may leave it out: a message that is no pointer, a list or map
    /// without omitempty.
    pub stays: bool,
    /// The fields of this message are the parent's in JSON.
    pub inlined: bool,
}

/// How a list or map field merges, for strategic merge patch and for OpenAPI. Absent texts are
/// empty.
#[derive(Debug, Clone, Copy, Default)]
pub struct MergeRule {
    /// `merge`, `retainKeys`, `replace` or `merge,retainKeys`.
    pub patch_strategy: &'static str,
    pub patch_merge_key: &'static str,
    /// `atomic`, `set` or `map`.
    pub list_type: &'static str,
    /// Comma-separated.
    pub list_map_keys: &'static str,
    /// `atomic` or `granular`.
    pub map_type: &'static str,
}

pub struct TypeGraph {
    names: HashMap<&'static str, TypeId>,
    /// Range of each type's fields in `fields`, by TypeId.
    ranges: Vec<(u32, u32)>,
    /// Sorted by number within each type.
    fields: Vec<Field>,
    rules: HashMap<(&'static str, &'static str), MergeRule>,
    type_names: Vec<&'static str>,
}

/// The graph; the first call parses the tables.
pub fn graph() -> &'static TypeGraph {
    static GRAPH: OnceLock<TypeGraph> = OnceLock::new();
    GRAPH.get_or_init(TypeGraph::parse)
}

impl TypeGraph {
    /// The type of a kind of a built-in group, or of the kinds that belong to every group
    /// (DeleteOptions, Status and the like).
    pub fn kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeId> {
        let (_, package) = PACKAGES.iter().find(|(name, _)| *name == group)?;
        self.named(&format!("{package}.{version}.{kind}"))
            .or_else(|| self.named(&format!("meta.v1.{kind}")))
    }

    /// A type by its abbreviated name, such as `core.v1.PodSpec`.
    pub fn named(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied()
    }

    /// The abbreviated name of a type.
    pub fn name(&self, id: TypeId) -> &'static str {
        self.type_names[usize::from(id.0)]
    }

    /// The fields of a type by their numbers.
    pub fn fields(&self, id: TypeId) -> &[Field] {
        let (start, end) = self.ranges[usize::from(id.0)];
        &self.fields[start as usize..end as usize]
    }

    /// A field by its protobuf number.
    pub fn field_numbered(&self, id: TypeId, number: u32) -> Option<&Field> {
        let fields = self.fields(id);
        let at = fields.binary_search_by_key(&number, |field| field.number).ok()?;
        fields.get(at)
    }

    /// A field by its JSON name, looking into inlined messages too.
    pub fn field_named(&self, id: TypeId, name: &str) -> Option<&Field> {
        let fields = self.fields(id);
        fields.iter().find(|field| !field.inlined && field.name == name).or_else(|| {
            fields.iter().filter(|field| field.inlined).find_map(|field| match field.kind {
                FieldType::Message(inner) => self.field_named(inner, name),
                _ => None,
            })
        })
    }

    /// The merge rule of a field of a type named as in `named`; with an empty field that of the type
    /// itself, which may be an atomic struct.
    pub fn merge_rule<'a>(&'a self, type_name: &'a str, field: &'a str) -> Option<&'a MergeRule> {
        self.rules.get(&(type_name, field))
    }

    fn parse() -> TypeGraph {
        let lines = || FIELDS.lines().filter(|line| !line.starts_with('#'));
        let type_names: Vec<&str> = lines().filter_map(|line| line.strip_prefix('@')).collect();
        let numbered = type_names.iter().enumerate();
        let names: HashMap<_, _> =
            numbered.map(|(index, name)| (*name, TypeId(index as u16))).collect();
        let mut fields = Vec::new();
        let mut ranges: Vec<(u32, u32)> = Vec::with_capacity(type_names.len());
        for line in lines() {
            if line.starts_with('@') {
                ranges.push((fields.len() as u32, fields.len() as u32));
            } else if let Some(last) = ranges.last_mut() {
                fields.push(parse_field(line, &names));
                last.1 = fields.len() as u32;
            }
        }
        fields.shrink_to_fit();
        TypeGraph { names, ranges, fields, rules: parse_rules(), type_names }
    }
}

/// Reads one line of the table. The table is part of the program, so a bad line is a broken
/// invariant.
fn parse_field(line: &'static str, names: &HashMap<&'static str, TypeId>) -> Field {
    let mut columns = line.split('\t');
    let mut column = || columns.next().unwrap_or_default();
    let number = column().parse().expect("a field number in proto_fields.tsv");
    let (name, type_text, flags) = (column(), column(), column());
    let (container, element) = match type_text.as_bytes() {
        [b'[', b']', ..] => (Container::List, &type_text[2..]),
        [b'{', b'}', ..] => (Container::Map, &type_text[2..]),
        _ => (Container::One, type_text),
    };
    let kind = match element {
        "s" => FieldType::String,
        "i" => FieldType::Int32,
        "l" => FieldType::Int64,
        "b" => FieldType::Bool,
        "y" => FieldType::Bytes,
        "d" => FieldType::Double,
        message => match special(message) {
            Some(special) => FieldType::Special(special),
            None => FieldType::Message(names[message]),
        },
    };
    let zero = if flags.contains(['p', 'r']) { Zero::Value } else { Zero::Absent };
    let stays = match (container, kind) {
        (Container::One, FieldType::Message(_)) => !flags.contains('p'),
        (Container::One, _) => false,
        (Container::List | Container::Map, _) => flags.contains('r'),
    };
    Field { number, name, container, kind, zero, stays, inlined: flags.contains('i') }
}

fn special(message: &str) -> Option<Special> {
    Some(match message.rsplit_once('.').map_or(message, |(_, name)| name) {
        "Time" => Special::Time,
        "MicroTime" => Special::MicroTime,
        "Quantity" => Special::Quantity,
        "IntOrString" => Special::IntOrString,
        "RawExtension" | "JSON" | "FieldsV1" => Special::RawJson,
        "Verbs" | "ExtraValue" | "AttestationValue" => Special::StringList,
        "JSONSchemaPropsOrBool" => Special::SchemaOrBool,
        "JSONSchemaPropsOrArray" => Special::SchemaOrArray,
        "JSONSchemaPropsOrStringArray" => Special::SchemaOrStringArray,
        _ => return None,
    })
}

fn parse_rules() -> HashMap<(&'static str, &'static str), MergeRule> {
    let mut rules = HashMap::new();
    for line in MERGE_KEYS.lines().filter(|line| !line.starts_with('#')) {
        let mut columns = line.split('\t');
        let mut column = || columns.next().unwrap_or_default();
        let key = (column(), column());
        let rule = MergeRule {
            patch_strategy: column(),
            patch_merge_key: column(),
            list_type: column(),
            list_map_keys: column(),
            map_type: column(),
        };
        rules.insert(key, rule);
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_parse_and_fit_together() {
        let graph = graph();
        assert!(graph.type_names.len() > 400);
        assert!(graph.rules.len() > 250);
        for (index, _) in graph.type_names.iter().enumerate() {
            let fields = graph.fields(TypeId(index as u16));
            assert!(fields.is_sorted_by(|a, b| a.number < b.number));
        }
        for (type_name, field) in graph.rules.keys() {
            let id = graph.named(type_name).unwrap_or_else(|| panic!("{type_name}"));
            assert!(
                field.is_empty() || graph.field_named(id, field).is_some(),
                "{type_name}.{field}"
            );
        }
    }

    #[test]
    fn kinds_are_found_by_group_and_version() {
        let graph = graph();
        let name = |group, version, kind| graph.kind(group, version, kind).map(|id| graph.name(id));
        assert_eq!(name("", "v1", "Pod"), Some("core.v1.Pod"));
        assert_eq!(name("rbac.authorization.k8s.io", "v1", "Role"), Some("rbac.v1.Role"));
        assert_eq!(name("apps", "v1", "DeleteOptions"), Some("meta.v1.DeleteOptions"));
        assert_eq!(name("apps.example.com", "v1", "Deployment"), None);
        assert_eq!(name("apps", "v9", "Deployment"), None);
        let probe = graph.named("core.v1.Probe").unwrap();
        assert!(graph.field_named(probe, "httpGet").is_some());
        assert!(graph.field_named(probe, "handler").is_none());
    }
}
