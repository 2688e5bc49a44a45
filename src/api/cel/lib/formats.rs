//! Named formats of texts (k8s.io/apiserver/pkg/cel/library/format.go).

use std::any::Any;

use super::url::Url;
use crate::api::cel::cost::text;
use crate::api::cel::eval::{Error, Evaluation, no_overload};
use crate::api::cel::functions::{Cost, Row, native, row};
use crate::api::cel::value::{Opaque, Value};
use crate::api::custom::format;
use crate::api::names;
use crate::api::resource::NameRule;

#[derive(Clone, Copy)]
struct Named {
    name: &'static str,
    /// What is wrong with a text.
    validate: fn(&str) -> Vec<String>,
}

impl std::fmt::Debug for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Opaque for Named {
    fn type_name(&self) -> &'static str {
        "kubernetes.NamedFormat"
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        other.as_any().downcast_ref().is_some_and(|other: &Named| other.name == self.name)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn fits(name: &str, value: &str, why: &str) -> Vec<String> {
    if format::fits(name, value) { Vec::new() } else { vec![why.to_string()] }
}

/// Each with the function that gives it.
const FORMATS: &[(&str, Named)] = &[
    (
        "format.dns1123Label() -> kubernetes.NamedFormat",
        Named { name: "dns1123Label", validate: |s| NameRule::Label.check(s, false) },
    ),
    (
        "format.dns1123Subdomain() -> kubernetes.NamedFormat",
        Named { name: "dns1123Subdomain", validate: |s| NameRule::Subdomain.check(s, false) },
    ),
    (
        "format.dns1035Label() -> kubernetes.NamedFormat",
        Named { name: "dns1035Label", validate: |s| NameRule::Label1035.check(s, false) },
    ),
    (
        "format.qualifiedName() -> kubernetes.NamedFormat",
        Named { name: "qualifiedName", validate: names::is_qualified_name },
    ),
    (
        "format.dns1123LabelPrefix() -> kubernetes.NamedFormat",
        Named { name: "dns1123LabelPrefix", validate: |s| NameRule::Label.check(s, true) },
    ),
    (
        "format.dns1123SubdomainPrefix() -> kubernetes.NamedFormat",
        Named { name: "dns1123SubdomainPrefix", validate: |s| NameRule::Subdomain.check(s, true) },
    ),
    (
        "format.dns1035LabelPrefix() -> kubernetes.NamedFormat",
        Named { name: "dns1035LabelPrefix", validate: |s| NameRule::Label1035.check(s, true) },
    ),
    (
        "format.labelValue() -> kubernetes.NamedFormat",
        Named { name: "labelValue", validate: names::is_label_value },
    ),
    (
        "format.uri() -> kubernetes.NamedFormat",
        Named { name: "uri", validate: |s| Url::parse(s).err().into_iter().collect() },
    ),
    (
        "format.uuid() -> kubernetes.NamedFormat",
        Named { name: "uuid", validate: |s| fits("uuid", s, "does not match the UUID format") },
    ),
    (
        "format.byte() -> kubernetes.NamedFormat",
        Named { name: "byte", validate: |s| fits("byte", s, "invalid base64") },
    ),
    (
        "format.date() -> kubernetes.NamedFormat",
        Named { name: "date", validate: |s| fits("date", s, "invalid date") },
    ),
    (
        "format.datetime() -> kubernetes.NamedFormat",
        Named { name: "datetime", validate: |s| fits("date-time", s, "invalid datetime") },
    ),
];

/// A function without arguments is told its format by its place in the table.
macro_rules! constants {
    ($($index:literal)*) => {
        [$(row(FORMATS[$index].0, Cost::One, |_, _| Ok(Value::opaque(FORMATS[$index].1)))),*]
    };
}

pub fn rows() -> Vec<Row> {
    let mut rows = vec![
        row(
            "format.named(string) -> optional<kubernetes.NamedFormat>",
            Cost::One,
            native!(
                [Value::String(name)] => {
                    let found = FORMATS.iter().find(|(_, format)| format.name == &**name);
                    Ok(found.map_or(Value::NONE, |(_, format)| Value::some(Value::opaque(*format))))
                }
            ),
        ),
        row(
            "(kubernetes.NamedFormat).validate(string) -> optional<list<string>>",
            Cost::Own,
            validate,
        ),
    ];
    let constants: [Row; 13] = constants!(0 1 2 3 4 5 6 7 8 9 10 11 12);
    rows.extend(constants);
    rows
}

fn validate(run: &mut Evaluation<'_>, args: &[Value]) -> Result<Value, Error> {
    let [format, Value::String(value)] = args else { return Err(no_overload()) };
    let format = format.is::<Named>().ok_or_else(no_overload)?;
    run.meter.charge(text(value.len() as u64).max(1) * 8)?;
    let errors = (format.validate)(value);
    Ok(if errors.is_empty() { Value::NONE } else { Value::some(Value::strings(errors)) })
}
