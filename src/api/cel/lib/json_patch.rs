//! What JSON patches need (k8s.io/apiserver/pkg/cel/library/jsonpatch.go).

use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::Value;

pub fn rows() -> Vec<Row> {
    vec![row(
        "jsonpatch.escapeKey(string) -> string",
        Cost::TwiceText,
        native!(
            [Value::String(a)] => Ok(Value::string(a.replace('~', "~0").replace('/', "~1")))
        ),
    )]
}
