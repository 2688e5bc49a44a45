//! The target for expressions in CEL: an input is an expression, an empty line, and the object that it
//! is evaluated on, as JSON.
//!
//! Whatever both are, compiling tells an error or gives a program, evaluating ends within the limit
//! of one call and within the time that its cost stands for, and gives the same twice.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use rand::Rng;
use rand::rngs::StdRng;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value as Json, json};
use wasmfleet::api::cel::admission::{self, Declared, Inputs};
use wasmfleet::api::cel::cost::{Budget, OBJECT_BUDGET, PER_CALL_LIMIT};
use wasmfleet::api::cel::schema::Shape;
use wasmfleet::api::cel::{Authorizer, Check, Decision, Env, Error, Program, Type, Value, convert};
use wasmfleet::api::custom::schema::Schema;

use super::engine::Verdict;
use super::grammar;
use super::mutate::{bytes_of, split, text};

/// What an evaluation may take beside what its cost stands for, in nanoseconds of the thread's own
/// time.
const FREE_NANOSECONDS: i64 = 100_000_000;
/// What a unit may take, in nanoseconds, in a build without optimization.
const NANOSECONDS_PER_UNIT: i64 = 20_000;

const WORDS: &[&str] = &[
    "object",
    "params",
    "request",
    "authorizer",
    ".",
    ".?",
    "[?",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    ",",
    " + ",
    " - ",
    " * ",
    " / ",
    " % ",
    " == ",
    " != ",
    " < ",
    " in ",
    " && ",
    " || ",
    " ? ",
    " : ",
    "!",
    "-",
    "'",
    "\"",
    "'''",
    "r'",
    "b'",
    "\\",
    "\\u",
    "\\x",
    "0x",
    "1e",
    "u",
    "true",
    "null",
    ".all(x, ",
    ".map(x, ",
    ".filter(x, ",
    ".sortBy(x, ",
    ".size()",
    ".format([",
    "cel.bind(y, ",
    "has(",
    "dyn(",
    "x",
    "y",
    "// c\n",
    ".matches('",
    "(a*)*",
    "{1000}",
    "[^a-z]",
    "`",
    "Object{",
    "lists.range(",
    "9223372036854775807",
    "'1Gi'",
    ".flatten()",
    ".split('')",
    ".join()",
    "Ä",
];

struct World {
    shape: Arc<Shape>,
    env: Env,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let props: JSONSchemaProps = serde_json::from_value(schema()).unwrap();
    let shape = Shape::of(&Schema::parse(&props), true).unwrap();
    let declared = Declared { params: true, authorizer: true };
    let env = admission::env(declared, shape.check_type(), Type::Dyn).with_objects();
    World { shape, env }
});

fn schema() -> Json {
    json!({"type": "object", "properties": {
        "b": {"type": "boolean"}, "i": {"type": "integer"}, "d": {"type": "number"},
        "s": {"type": "string"}, "by": {"type": "string", "format": "byte"},
        "at": {"type": "string", "format": "date-time"},
        "du": {"type": "string", "format": "duration"},
        "any": {"x-kubernetes-int-or-string": true},
        "texts": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
        "numbers": {"type": "array", "items": {"type": "integer"}},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "named": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {
                "k": {"type": "string"}, "v": {"type": "integer"}}}}}})
}

/// Allows what has an even number of letters.
struct Even;

impl Authorizer for Even {
    fn decide(&self, check: &Check) -> Decision {
        let allowed = (check.verb.len() + check.resource.len()).is_multiple_of(2);
        Decision { allowed, reason: "counted".into() }
    }
}

fn objects() -> [Json; 3] {
    let texts: Vec<String> = (0..300).map(|n| format!("text {n}")).collect();
    [
        json!({"apiVersion": "example.com/v1", "kind": "Tab", "metadata": {"name": "t"},
            "b": true, "i": 3, "d": 1.5, "s": "hello", "by": "aGk=", "any": "5%", "du": "1h",
            "at": "2024-01-01T00:00:00Z", "texts": ["a", "b"], "numbers": [3, 1, 2],
            "labels": {"a": "b"}, "named": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]}),
        json!({"s": "x".repeat(20_000), "texts": texts, "numbers": (0..2_000).collect::<Vec<_>>()}),
        json!({"i": "no number", "d": [1], "texts": {"a": null}, "at": "never", "any": {"x": [[]]}}),
    ]
}

const EXAMPLES: &[&str] = &[
    "object.i < 5 && object.texts.all(t, t.matches('^[a-z]+$')) && !has(params.x)",
    "object.named.exists(n, n.k == 'a' && n.v > 0) ? size(object.labels) : object.numbers.sum()",
    "object.s.split('l').map(p, p.upperAscii()).join('-') + string(object.at.getFullYear())",
    "authorizer.group('apps').resource('deployments').namespace('a').check('get').allowed()",
    "params.?x.?y[?'z'].optMap(v, dyn(v)).orValue(request.userInfo.groups)",
    "cel.bind(a, [params, params], cel.bind(b, [a, a], {'a': b, 'c': [b, b]}))",
    "'%s is %d or %.3f'.format([object.any, object.i, object.d])",
    "Object{spec: Object.spec{a: object.numbers.sortBy(n, -n), ?b: params.?b}}",
    "object.numbers.map(n, object.numbers.map(m, n * m)).flatten().distinct().isSorted()",
];

pub fn seeds() -> Vec<Vec<u8>> {
    let bodies = objects().map(|object| object.to_string());
    let pairs = EXAMPLES.iter().flat_map(|example| bodies.iter().map(move |body| (example, body)));
    pairs.map(|(example, body)| text(example, body)).collect()
}

/// Another input: mostly by grammar, or a change of the text, or of the object.
pub fn mutate(input: &[u8], other: &[u8], random: &mut StdRng) -> Vec<u8> {
    let (head, body) = split(input);
    let (other_head, other_body) = split(other);
    let head_text = String::from_utf8_lossy(head).into_owned();
    match random.random_range(0..10) {
        0..=4 => text(&grammar::expression(random), body),
        5 | 6 => {
            // A part in parentheses becomes another expression, or the whole becomes a part.
            let made = match random.random_bool(0.5) {
                true => grammar::expression(random),
                false => String::from_utf8_lossy(other_head).into_owned(),
            };
            text(&spliced(&head_text, &made, random), body)
        }
        7 => text(&String::from_utf8_lossy(&bytes_of(head, other_head, WORDS, random)), body),
        8 => text(&head_text, bytes_of(body, other_body, WORDS, random)),
        _ => text(&head_text, other_body),
    }
}

fn spliced(text: &str, made: &str, random: &mut StdRng) -> String {
    let opens: Vec<usize> = text.match_indices('(').map(|(at, _)| at).collect();
    if opens.is_empty() {
        return format!("[{text}, {made}].exists(x, x == {text})");
    }
    let open = opens[random.random_range(0..opens.len())];
    let mut depth = 0;
    let close = text[open..].char_indices().find(|(_, c)| {
        depth += i32::from(*c == '(') - i32::from(*c == ')');
        depth == 0
    });
    let close = close.map_or(text.len(), |(at, _)| open + at);
    format!("{}({made}{}", &text[..open], &text[close..])
}

fn thread_nanoseconds() -> i64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

pub fn compiles(source: &str) -> bool {
    Program::compile(source, &WORLD.env).is_ok()
}

pub fn run(input: &[u8]) -> Verdict {
    let (head, body) = split(input);
    let Ok(source) = std::str::from_utf8(head) else { return Ok(()) };
    let object: Json = serde_json::from_slice(body).unwrap_or_default();
    let begin = thread_nanoseconds();
    let compiled = Program::compile(source, &WORLD.env);
    let took = thread_nanoseconds() - begin;
    if took > FREE_NANOSECONDS + source.len() as i64 * NANOSECONDS_PER_UNIT {
        return Err(format!("compiling took {took} ns"));
    }
    let program = match compiled {
        Ok(program) => program,
        Err(error) if error.to_string().is_empty() => return Err("an error without a text".into()),
        Err(_) => return Ok(()),
    };
    let (first, second) = (evaluate(&program, &object)?, evaluate(&program, &object)?);
    match first == second {
        true => Ok(()),
        false => Err(format!("once {first}, then {second}")),
    }
}

/// What it came to, and what it cost, as text.
fn evaluate(program: &Program, object: &Json) -> Result<String, String> {
    let request = json!({"name": "n", "operation": "CREATE", "userInfo": {"groups": ["a", "b"]}});
    let inputs = Inputs { params: Some(object), request: Some(&request), ..Inputs::default() };
    let mut variables: BTreeMap<String, Value> = admission::variables(&inputs);
    variables.insert("object".into(), convert::typed(&WORLD.shape, object));
    let mut budget = Budget::new(OBJECT_BUDGET);
    let begin = thread_nanoseconds();
    let result = program.run(&variables, Some(&Even), &mut budget);
    let spent = OBJECT_BUDGET - budget.left();
    let made = match &result {
        Ok(value) => convert::json(value).map_or_else(|why| why, |json| json.to_string()),
        Err(error) => error.to_string(),
    };
    let took = thread_nanoseconds() - begin;
    if spent > PER_CALL_LIMIT {
        return Err(format!("{spent} units were spent"));
    }
    if took > FREE_NANOSECONDS + spent as i64 * NANOSECONDS_PER_UNIT {
        return Err(format!("{spent} units took {took} ns"));
    }
    if matches!(&result, Err(Error::Failed(why)) if why.is_empty()) {
        return Err("an error without a text".into());
    }
    Ok(format!("{spent}: {made}"))
}
