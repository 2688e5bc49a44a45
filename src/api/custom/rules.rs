//! The rules of one version of a custom resource: [`Rules`] made of its schema.

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as ext;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cel_rules::NodeRules;
use super::schema::Schema;
use super::{cel_validate, complete, default, prune, validate};
use crate::api::field::{FieldError, FieldErrorKind};
use crate::api::jsonpath::{Template, plain};
use crate::api::resource::{Draft, Operation, Rules};
use crate::api::table::{self, AnyColumn};
use crate::api::typegraph::graph;
use crate::api::{ApiError, Object, duration, strict};

/// See the module's documentation.
pub struct CustomRules {
    schema: Schema,
    /// Objects that were stored before the schema had them get them when they are read.
    has_defaults: bool,
    /// Those in CEL, if there are any.
    cel: Option<NodeRules>,
    columns: Vec<CustomColumn>,
}

/// A printer column beside the name.
struct CustomColumn {
    name: String,
    type_name: String,
    format: String,
    description: String,
    priority: i32,
    /// None for a path that cannot be read: the cell stays empty.
    path: Option<Template>,
}

/// The part of an object that has a type.
#[derive(Deserialize, Serialize)]
struct Head {
    #[serde(default)]
    metadata: ObjectMeta,
}

impl CustomRules {
    pub fn of(version: &ext::CustomResourceDefinitionVersion) -> CustomRules {
        let props = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
        let schema = props.map(Schema::parse).unwrap_or_default();
        let cel = props.and_then(|props| NodeRules::of(props, &schema));
        let columns = version.additional_printer_columns.iter().flatten().map(CustomColumn::of);
        let mut columns: Vec<CustomColumn> = columns.collect();
        if columns.is_empty() {
            columns.push(CustomColumn {
                name: "Age".into(),
                type_name: "date".into(),
                format: String::new(),
                description: table::AGE.description.into(),
                priority: 0,
                path: Template::parse(".metadata.creationTimestamp").ok(),
            });
        }
        let has_defaults = schema.has_defaults();
        CustomRules { schema, has_defaults, cel, columns }
    }
}

impl CustomColumn {
    fn of(column: &ext::CustomResourceColumnDefinition) -> CustomColumn {
        CustomColumn {
            name: column.name.clone(),
            type_name: column.type_.clone(),
            format: column.format.clone().unwrap_or_default(),
            description: column.description.clone().unwrap_or_default(),
            priority: column.priority.unwrap_or_default(),
            path: Template::parse(&column.json_path).ok(),
        }
    }

    fn cell(&self, object: &Value, now: Timestamp) -> Value {
        let found = self.path.as_ref().map(|path| path.find(object)).unwrap_or_default();
        let Some(first) = found.first().filter(|value| !value.is_null()) else {
            return Value::Null;
        };
        match self.type_name.as_str() {
            "integer" => first.as_i64().map_or(Value::Null, Value::from),
            "number" => first.as_f64().map_or(Value::Null, Value::from),
            "boolean" => first.as_bool().map_or(Value::Null, Value::from),
            "date" => match first.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
                Some(time) => duration::human(now.duration_since(time).as_secs()).into(),
                None => "<invalid>".into(),
            },
            _ => found.iter().map(|value| plain(value)).collect::<Vec<_>>().join(",").into(),
        }
    }
}

impl Rules for CustomRules {
    fn decode(
        &self,
        value: Value,
        old: Option<&Object>,
        _operation: Operation,
    ) -> Result<Draft, ApiError> {
        let mut object = Object::from_value(value)?;
        let metadata = object.fields_mut().remove("metadata").unwrap_or_else(|| json!({}));
        let head = json!({"metadata": metadata});
        let (head, mut unknown) =
            strict::decode_typed::<Head>(head, || graph().named("meta.v1.PartialObjectMetadata"))?;
        let mut value = object.into_value();
        prune::prune(&self.schema, &mut value, &mut unknown);
        let mut object = Object::from_value(value)?;
        let metadata = serde_json::to_value(head.metadata).map_err(ApiError::internal)?;
        object.set("metadata", metadata);
        Ok(Draft::untyped(self.defaulted(object)?, unknown, old))
    }

    fn redefault(&self, draft: Draft) -> Result<Draft, ApiError> {
        let object = self.defaulted(draft.object.clone())?;
        Ok(draft.with_object(object))
    }

    fn is_complete(&self, raw: &[u8]) -> bool {
        !self.has_defaults || complete::is_complete(&self.schema, raw)
    }

    fn complete(&self, object: Object) -> Object {
        if !self.has_defaults {
            return object;
        }
        self.defaulted(object.clone()).unwrap_or(object)
    }

    fn validate(&self, draft: &Draft, _operation: Operation) -> Vec<FieldError> {
        let value = draft.object.clone().into_value();
        let mut errors = validate::validate(&self.schema, &value);
        let Some(cel) = &self.cel else { return errors };
        // Rules may rely on the schema: on types, on what is required, on sizes.
        if errors.iter().any(blocks) {
            let detail = "some validation rules were not checked because the object was invalid; \
                          correct the existing errors to complete validation";
            errors.push(FieldError {
                kind: FieldErrorKind::Invalid,
                field: "<nil>".into(),
                value: "null".into(),
                detail: detail.into(),
            });
            return errors;
        }
        let old = draft.untyped_old().map(|old| old.clone().into_value());
        errors.extend(cel_validate::validate(cel, &self.schema, &value, old.as_ref()));
        errors
    }

    fn warnings(&self, _draft: &Draft) -> Vec<String> {
        Vec::new()
    }

    fn columns(&self) -> Vec<AnyColumn<'_>> {
        let own = self.columns.iter().map(|column| AnyColumn {
            name: &column.name,
            kind: &column.type_name,
            format: &column.format,
            description: &column.description,
            priority: column.priority,
        });
        std::iter::once(table::NAME).chain(own).collect()
    }

    fn row(&self, raw: &[u8], now: Timestamp) -> Result<Vec<Value>, ApiError> {
        let object = stored(raw)?;
        let name = object.pointer("/metadata/name").cloned().unwrap_or_default();
        let cells = self.columns.iter().map(|column| column.cell(&object, now));
        Ok(std::iter::once(name).chain(cells).collect())
    }

    fn fields(&self, raw: &[u8], fields: &[&str]) -> Result<Vec<String>, ApiError> {
        let object = stored(raw)?;
        let value = |field: &&str| {
            let mut path = field.split('.').filter(|part| !part.is_empty());
            let found = path.try_fold(&object, |value, part| value.get(part));
            found.filter(|value| !value.is_null()).map(plain).unwrap_or_default()
        };
        Ok(fields.iter().map(value).collect())
    }
}

impl CustomRules {
    /// With defaults; those of the schema's own `metadata` are none.
    fn defaulted(&self, mut object: Object) -> Result<Object, ApiError> {
        let metadata = object.fields_mut().remove("metadata");
        let mut value = object.into_value();
        default::set_defaults(&self.schema, &mut value);
        let mut object = Object::from_value(value)?;
        if let Some(metadata) = metadata {
            object.set("metadata", metadata);
        }
        Ok(object)
    }
}

fn blocks(error: &FieldError) -> bool {
    matches!(
        error.kind,
        FieldErrorKind::Required
            | FieldErrorKind::TooLong
            | FieldErrorKind::TooMany
            | FieldErrorKind::TypeInvalid
    )
}

fn stored(raw: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(raw)
        .map_err(|e| ApiError::internal(format!("a stored object cannot be read: {e}")))
}
