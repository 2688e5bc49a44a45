//! Estimates of costs beside upstream's figures
//! (k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/compilation_test.go).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use serde_json::{Value as Json, json};

use crate::api::cel::schema::Shape;
use crate::api::cel::{Env, Program, Type};
use crate::api::custom::schema::Schema;

/// The cost of a rule about a value of a schema.
fn estimate(schema: Json, rule: &str) -> u64 {
    let props: JSONSchemaProps = serde_json::from_value(schema).unwrap();
    let shape = Shape::of(&Schema::parse(&props), false).unwrap();
    let type_ = shape.check_type();
    let env = Env::new().with("self", type_.clone()).with("oldSelf", type_);
    let program = Program::compile_as(rule, &env, &[Type::Bool]);
    let program = program.unwrap_or_else(|why| panic!("{rule}: {why}"));
    program.estimate(&[("self", shape.clone()), ("oldSelf", shape)])
}

fn scalar(name: &str) -> Json {
    match name {
        "duration" | "date" | "date-time" | "byte" => json!({"type": "string", "format": name}),
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        name => json!({"type": name}),
    }
}

/// `list of number`, with at most so many elements everywhere.
fn schema(text: &str, most: Option<u64>) -> Json {
    let with = |mut schema: Json, field: &str| {
        if let Some(most) = most {
            schema[field] = json!(most);
        }
        schema
    };
    match text.split_once(" of ") {
        Some(("list", item)) => {
            with(json!({"type": "array", "items": schema(item, None)}), "maxItems")
        }
        Some(("lists", item)) => {
            with(json!({"type": "array", "items": schema(item, most)}), "maxItems")
        }
        Some((_, values)) => {
            let values = schema(values, None);
            with(json!({"type": "object", "additionalProperties": values}), "maxProperties")
        }
        None if text == "object" => json!({"type": "object", "required": ["required"],
            "properties": {"required": {"type": "string"}, "optional": {"type": "string"}}}),
        None if matches!(text, "string" | "byte") => with(scalar(text), "maxLength"),
        None => scalar(text),
    }
}

/// Schema, rule, the cost without bounds, a bound, and the cost with it.
const FIGURES: &[(&str, &str, u64, u64, u64)] = &[
    ("list of number", "self.all(x, true)", 4718591, 10, 32),
    ("list of string", "self.all(x, true)", 3145727, 20, 62),
    ("list of boolean", "self.all(x, true)", 1887437, 5, 17),
    ("list of list of number", "self.all(x, true)", 3145727, 100, 302),
    ("list of object", "self.all(x, true)", 555128, 50, 152),
    ("map of number", "self.all(x, true)", 1348169, 10, 32),
    ("map of string", "self.all(x, true)", 1179647, 3, 11),
    ("map of boolean", "self.all(x, true)", 943718, 100, 302),
    ("string", "self.contains('test')", 314574, 10, 5),
    ("string", "self.startsWith('test')", 2, 15, 2),
    ("string", "self.endsWith('test')", 2, 30, 2),
    ("string", "size(self + \"hello\") > size(\"hello\")", 314578, 4, 7),
    ("list of number", "self[1] == 0.0", 2, 5000, 2),
    ("list of string", "self[1] == self[1]", 314577, 8, 314577),
    ("list of number", "self.all(x, self.all(y, true))", 7421701914624, 10, 352),
    ("string", "self.matches(\"x\")", 314574, 50, 22),
    ("string", "\"\".matches(\"(((((((((())))))))))[0-9]\")", 7, 10, 7),
    ("string", "self.matches(\"\")", 1, 100, 1),
    ("map of string", "self.all(x, x.contains(self[x]))", 2752507, 10, 72),
    ("map of number", "self[\"x\"] == 0.0", 2, 0, 2),
    ("string", "self == \"x\"", 2, 0, 1),
    ("byte", "self == b\"x\"", 2, 0, 1),
    ("list of number", "self.all(x, x == 0.0)", 6291454, 6291456, 25165826),
    ("list of int-or-string", "self.all(x, true)", 4718591, 10, 32),
    ("list of int-or-string", "self[0] == 5", 3, 10, 3),
    ("list of object", "self[0] == null", 2, 422, 2),
    ("list of list of number", "self[0][0] == -1.0", 3, 51, 3),
    ("list of map of number", "self.all(x, x.y == 25.2)", 6291452, 12, 74),
    ("list of map of number", "self[0].x > 2.0", 4, 3000, 4),
    ("list of duration", "self.all(x, true)", 2359295, 5, 17),
    ("list of duration", "self[0].getHours() == 2", 4, 525, 4),
    ("list of date", "self.all(x, true)", 725936, 15, 47),
    ("list of date-time", "self.all(x, true)", 428963, 25, 77),
    ("map of duration", "self.all(x, true)", 1048577, 5, 17),
    ("map of date", "self.all(x, true)", 524288, 10, 32),
    ("map of date-time", "self.all(x, true)", 349526, 25, 77),
    ("lists of string", "self.join(' ') == 'aa bb'", 329853068905, 10, 43),
    ("lists of string", "self.isSorted() == true", 329854432052, 10, 52),
    ("string", "self.lowerAscii() == 'lower!'", 314575, 10, 6),
    ("map of integer", "oldSelf.size() == self.size()", 5, 10, 5),
    ("map of date-time", "self[\"a\"] == self[\"b\"]", 8, 7, 8),
    ("map of duration", "self[\"c\"] == self[\"d\"]", 8, 42, 8),
];

#[test]
fn estimates_are_upstreams() {
    let mut others = Vec::new();
    for (text, rule, free, most, bounded) in FIGURES {
        let found = (estimate(schema(text, None), rule), estimate(schema(text, Some(*most)), rule));
        if found != (*free, *bounded) {
            others.push(format!("{text}: {rule}: {found:?}, not {:?}", (free, bounded)));
        }
    }
    assert!(others.is_empty(), "{}", others.join("\n"));
    let values = json!({"type": "string", "enum": ["A", "B", "C", "LongValue"]});
    assert_eq!(estimate(values, "self.contains('A')"), 2);
}

#[test]
fn results_of_calls_have_sizes() {
    let text = json!({"type": "object", "properties": {"s": {"type": "string", "maxLength": 10},
        "l": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 10}}}});
    for (rule, most) in [
        ("self.l.map(x, x + 'a').all(x, x.contains(self.s))", 400),
        ("self.l.filter(x, x != '').map(x, size(x)).sum() < 9", 200),
        ("self.s.split(',').all(x, x.trim().matches('^[a-z]+$'))", 2_000),
        ("self.s.replace('aa', 'bbb').findAll('b').size() > 1", 100),
        ("(self.s == 'a' ? self.l : []).exists(x, x == self.s)", 200),
        ("cel.bind(t, self.s + self.s, t.contains(t))", 200),
        ("self.?s.orValue('').startsWith('a')", 20),
        ("self.l.sortBy(x, x).slice(0, 2).distinct().join('-').size() < 99", 400),
        ("dyn(self.s) == 'a' && string(self.l.size()).contains('1')", 40),
        ("quantity(self.s) == quantity('1') && ip('::1') == ip(self.s)", 20),
        ("{'a': self.s}.all(k, v, v.contains(k)) && [self.s, 'b'][0] != self.l[1]", 200),
    ] {
        let cost = estimate(text.clone(), rule);
        assert!(cost > 1 && cost <= most, "{rule}: {cost}");
    }
    // What nothing bounds costs more than any limit.
    let free = json!({"type": "object", "additionalProperties": {"type": "string"}});
    assert!(estimate(free, "self.all(a, self.all(b, self[a] != self[b]))") > 100_000_000_000);
}
