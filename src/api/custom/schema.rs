//! A structural schema, parsed once a version: types without references, patterns compiled.

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;
use regex::Regex;
use serde_json::Value;

use crate::api::regexp;

/// The largest program that a pattern may become, in bytes.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// One node of a schema.
#[derive(Debug, Default)]
pub struct Schema {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`; empty where anything goes.
    pub type_name: String,
    pub properties: BTreeMap<String, Schema>,
    pub additional: Additional,
    pub items: Option<Box<Schema>>,
    pub required: Vec<String>,
    pub default: Option<Value>,
    pub nullable: bool,
    pub preserve_unknown: bool,
    pub int_or_string: bool,
    /// A whole object with `apiVersion`, `kind` and `metadata`.
    pub embedded: bool,
    pub list: List,
    pub checks: Checks,
}

/// What may stand beside the properties.
#[derive(Debug, Default)]
pub enum Additional {
    #[default]
    Nothing,
    Anything,
    Of(Box<Schema>),
}

/// Which elements of a list must differ, and in what.
#[derive(Debug, Default)]
pub enum List {
    #[default]
    Atomic,
    Set,
    Map(Vec<String>),
}

/// What a value must fulfil beside its type.
#[derive(Debug, Default)]
pub struct Checks {
    pub enumeration: Vec<Value>,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub format: String,
    pub pattern: Option<Regex>,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Box<Schema>>,
}

/// A pattern; the error is for people.
pub fn pattern(text: &str) -> Result<Regex, String> {
    regexp::compile(text, MAX_PATTERN_BYTES)
}

impl Schema {
    /// Whether some part has a default, so that objects may lack what they should have.
    pub fn has_defaults(&self) -> bool {
        let additional = match &self.additional {
            Additional::Of(values) => Some(&**values),
            _ => None,
        };
        let parts = self.properties.values().chain(self.items.as_deref()).chain(additional);
        self.default.is_some() || parts.into_iter().any(Schema::has_defaults)
    }

    /// The schema of a definition that was validated: what is no structural schema is left out.
    pub fn parse(props: &ext::JSONSchemaProps) -> Schema {
        let is = |flag: Option<bool>| flag == Some(true);
        let count = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        let all = |list: &Option<Vec<ext::JSONSchemaProps>>| {
            list.iter().flatten().map(Schema::parse).collect::<Vec<_>>()
        };
        let properties = props.properties.iter().flatten();
        let checks = Checks {
            enumeration: props.enum_.iter().flatten().map(|value| value.0.clone()).collect(),
            minimum: props.minimum,
            exclusive_minimum: is(props.exclusive_minimum),
            maximum: props.maximum,
            exclusive_maximum: is(props.exclusive_maximum),
            multiple_of: props.multiple_of,
            min_length: count(props.min_length),
            max_length: count(props.max_length),
            min_items: count(props.min_items),
            max_items: count(props.max_items),
            min_properties: count(props.min_properties),
            max_properties: count(props.max_properties),
            format: props.format.clone().unwrap_or_default(),
            pattern: props.pattern.as_deref().and_then(|text| pattern(text).ok()),
            all_of: all(&props.all_of),
            any_of: all(&props.any_of),
            one_of: all(&props.one_of),
            not: props.not.as_deref().map(|not| Box::new(Schema::parse(not))),
        };
        Schema {
            type_name: props.type_.clone().unwrap_or_default(),
            properties: properties.map(|(name, p)| (name.clone(), Schema::parse(p))).collect(),
            additional: match &props.additional_properties {
                Some(ext::JSONSchemaPropsOrBool::Bool(true)) => Additional::Anything,
                Some(ext::JSONSchemaPropsOrBool::Schema(values)) => {
                    Additional::Of(Box::new(Schema::parse(values)))
                }
                _ => Additional::Nothing,
            },
            items: match &props.items {
                Some(ext::JSONSchemaPropsOrArray::Schema(item)) => {
                    Some(Box::new(Schema::parse(item)))
                }
                _ => None,
            },
            required: props.required.clone().unwrap_or_default(),
            default: props.default.as_ref().map(|value| value.0.clone()),
            nullable: is(props.nullable),
            preserve_unknown: is(props.x_kubernetes_preserve_unknown_fields),
            int_or_string: is(props.x_kubernetes_int_or_string),
            embedded: is(props.x_kubernetes_embedded_resource),
            list: match props.x_kubernetes_list_type.as_deref() {
                Some("set") => List::Set,
                Some("map") => {
                    List::Map(props.x_kubernetes_list_map_keys.clone().unwrap_or_default())
                }
                _ => List::Atomic,
            },
            checks,
        }
    }

    /// The schema of a field, where one says something about it.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        match (self.properties.get(name), &self.additional) {
            (Some(known), _) => Some(known),
            (None, Additional::Of(values)) => Some(values),
            _ => None,
        }
    }
}

/// The version of a path that goes one field deeper; the root has no path.
pub(super) fn child<'a>(
    path: Option<&'a crate::api::field::Path<'a>>,
    name: &'a str,
) -> crate::api::field::Path<'a> {
    match path {
        Some(path) => path.child(name),
        None => crate::api::field::Path::new(name),
    }
}
