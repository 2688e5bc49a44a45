//! Whether a stored object has all that its schema has defaults for, told from its bytes: reads send
//! them as they are, unless a default came after the object was stored. Goes over the text once and
//! makes nothing.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::schema::Schema;

/// False only if [`super::default::set_defaults`] would change the object. The schema's own
/// `metadata` has no defaults.
pub fn is_complete(schema: &Schema, raw: &[u8]) -> bool {
    let mut deserializer = serde_json::Deserializer::from_slice(raw);
    let found = Part { schema: Some(schema), is_root: true }.deserialize(&mut deserializer);
    // Bytes that cannot be read are no matter of defaults.
    !matches!(found, Ok(Found::Lacking))
}

enum Found {
    Null,
    Complete,
    Lacking,
}

/// A value, and what is known of it.
#[derive(Clone, Copy)]
struct Part<'s> {
    schema: Option<&'s Schema>,
    is_root: bool,
}

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Found;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Found, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }
    fn visit_unit<E>(self) -> Result<Found, E> {
        Ok(Found::Null)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Found, E> {
        Ok(Found::Complete)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Found, E> {
        Ok(Found::Complete)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Found, E> {
        Ok(Found::Complete)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Found, E> {
        Ok(Found::Complete)
    }
    fn visit_str<E>(self, _: &str) -> Result<Found, E> {
        Ok(Found::Complete)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Found, A::Error> {
        let schema = self.schema.and_then(|schema| schema.items.as_deref());
        let mut complete = true;
        while let Some(found) = access.next_element_seed(Part { schema, is_root: false })? {
            complete &= !matches!(found, Found::Lacking);
        }
        Ok(if complete { Found::Complete } else { Found::Lacking })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Found, A::Error> {
        let Some(schema) = self.schema else {
            while access.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Found::Complete);
        };
        let defaults = |known: &&Schema| known.default.is_some();
        let wanted = schema.properties.values().filter(defaults).count();
        let (mut seen, mut complete) = (0, true);
        while let Some(key) = access.next_key_seed(Key(schema))? {
            let known = key.field.filter(|_| !(self.is_root && key.is_metadata));
            seen += usize::from(known.is_some_and(|known| known.default.is_some() && key.is_own));
            match access.next_value_seed(Part { schema: known, is_root: false })? {
                Found::Null => complete &= known.is_none_or(|known| known.nullable),
                Found::Complete => {}
                Found::Lacking => complete = false,
            }
        }
        Ok(if complete && seen >= wanted { Found::Complete } else { Found::Lacking })
    }
}

/// What a schema says of a key.
struct Key<'s>(&'s Schema);

struct Known<'s> {
    field: Option<&'s Schema>,
    /// One of the properties, not of the values beside them.
    is_own: bool,
    is_metadata: bool,
}

impl<'de, 's> DeserializeSeed<'de> for Key<'s> {
    type Value = Known<'s>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Known<'s>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'s> Visitor<'_> for Key<'s> {
    type Value = Known<'s>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Known<'s>, E> {
        Ok(Known {
            field: self.0.field(key),
            is_own: self.0.properties.contains_key(key),
            is_metadata: key == "metadata",
        })
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
    use serde_json::{Value, json};

    use super::super::default::set_defaults;
    use super::*;

    #[test]
    fn it_agrees_with_what_defaulting_does() {
        let props = json!({"type": "object", "properties": {
            "metadata": {"type": "object", "properties": {
                "odd": {"type": "string", "default": "x"}}},
            "spec": {"type": "object", "properties": {
                "zone": {"type": "string", "default": "UTC"},
                "note": {"type": "string", "nullable": true},
                "plain": {"type": "string"},
                "ports": {"type": "array", "items": {"type": "object", "properties": {
                    "protocol": {"type": "string", "default": "TCP"}}}},
                "by": {"type": "object", "additionalProperties": {"type": "object",
                    "properties": {"n": {"type": "integer", "default": 1}}}}}}}});
        let props: JSONSchemaProps = serde_json::from_value(props).unwrap();
        let schema = Schema::parse(&props);
        let cases = [
            json!({"metadata": {"name": "a"}}),
            json!({"spec": {}}),
            json!({"spec": {"zone": "x"}, "other": {"zone": null}}),
            json!({"spec": {"zone": null}}),
            json!({"spec": {"zone": "x", "note": null}}),
            json!({"spec": {"zone": "x", "plain": null}}),
            json!({"spec": {"zone": "x", "ports": [{"protocol": "UDP"}, {}]}}),
            json!({"spec": {"zone": "x", "ports": [{"protocol": "UDP"}], "by": {"a": {"n": 2}}}}),
            json!({"spec": {"zone": "x", "by": {"a": {"n": 2}, "zone": {}}}}),
            json!({"spec": "of another kind"}),
        ];
        for case in cases {
            let mut defaulted: Value = case.clone();
            let metadata = defaulted.as_object_mut().unwrap().remove("metadata");
            set_defaults(&schema, &mut defaulted);
            if let Some(metadata) = metadata {
                defaulted["metadata"] = metadata;
            }
            let complete = is_complete(&schema, case.to_string().as_bytes());
            assert_eq!(complete, defaulted == case, "{case}");
        }
        assert!(is_complete(&schema, b"no JSON"));
    }
}
