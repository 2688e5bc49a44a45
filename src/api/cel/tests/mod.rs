//! The language by examples. What is made by grammar and by accident is in `tests/it/fuzz`.

mod estimates;

use std::collections::BTreeMap;

use serde_json::json;

use super::convert::{json as to_json, untyped};
use super::cost::Budget;
use super::*;

/// Expressions that are true. `o` is an object, `l` a list of numbers, `d` what nothing is known of.
const TRUE: &[&str] = &[
    // Numbers, and that they are what they say.
    "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9 && -7 / 2 == -3 && -7 % 3 == -1",
    "1u + 2u == 3u && 7u / 2u == 3u && 1.5 * 2.0 == 3.0 && 1.0 / 0.0 > 1e300",
    "dyn(1) == dyn(1u) && dyn(1) == dyn(1.0) && 1 < 2u && 2 > 1.5 && 1u <= 1.0",
    "9223372036854775807 == 0x7fffffffffffffff && -9223372036854775808 < 0",
    "dyn(9007199254740993) > dyn(9007199254740992.0)",
    "int('42') == 42 && uint(7) == 7u && int(3.9) == 3 && double('1.5') == 1.5",
    "string(1.5) == '1.5' && string(1e21) == '1e+21' && string(-3) == '-3' && bool('true')",
    "type(1) == int && type(1u) == uint && type('') == string && type([]) == list",
    "type(null) == null_type && type(type(1)) == type && type({}) == map",
    // Logic absorbs what fails where the other side decides.
    "true || 1 / 0 == 1",
    "1 / 0 == 1 || true",
    "!(1 / 0 == 1 && false) && !(false && 1 / 0 == 1)",
    "true ? true : 1 / 0 == 1",
    "[0, 1].exists(x, 1 / x == 1) && ![0, 2].all(x, 1 / x == 1)",
    // Strings, bytes, literals.
    r#""a\tb\u00e9\x41\101" == 'a	b' + 'éAA' && r'\d' == '\\d' && b'\xff' != b'a'"#,
    r#"'''a
b''' == "a\nb" && "it's" == 'it\'s'"#,
    "size('höhe') == 4 && 'höhe'.size() == 4 && size(b'h\\xf6') == 2",
    "'abc' < 'abd' && 'a' + 'b' == 'ab' && 'hello'.contains('ell')",
    "'hello'.startsWith('he') && 'hello'.endsWith('lo') && 'a1'.matches('^[a-z][0-9]$')",
    "'tacocat'.charAt(4) == 'c' && 'ab'.charAt(2) == '' && 'höhe'.indexOf('h', 1) == 2",
    "'hello mellow'.lastIndexOf('ello') == 7 && 'hello mellow'.lastIndexOf('ello', 6) == 1",
    "'hello mellow'.indexOf('jello') == -1 && 'hello mellow'.indexOf('', 2) == 2",
    "'ABÉ'.lowerAscii() == 'abÉ' && ' a '.trim() == 'a' && 'höhe'.substring(1, 3) == 'öh'",
    "'hello hello'.replace('he', 'we', 1) == 'wello hello'",
    "'ab'.replace('', '_') == '_a_b_' && 'a,b,c'.split(',') == ['a', 'b', 'c']",
    "'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'ab'.split('') == ['a', 'b']",
    "'a b'.split(' ', 0) == [] && ['a', 'b'].join('-') == 'a-b' && [].join('/') == ''",
    r#"strings.quote("a\"b\n") == "\"a\\\"b\\n\"""#,
    "'%s %d %.2f %x %b %o'.format([dyn('a'), 3, 1.5, 255, 5, 8]) == 'a 3 1.50 ff 101 10'",
    r#"'%s'.format([[dyn(1), 'a', {'k': true}]]) == '[1, "a", {"k":true}]'"#,
    "'%s'.format([timestamp('2023-02-03T23:31:20Z')]) == '2023-02-03T23:31:20Z'",
    "'%s'.format([duration('1h45m47s')]) == '6347s'",
    "'%%%e'.format([2.71828]) == '%2.718280e+00'",
    // Lists and maps.
    "[1, 2] + [3] == [1, 2, 3] && [1, 2, 3][1] == 2 && 2 in [1, 2] && !(4 in [1])",
    "{'a': 1, 'b': 2}['b'] == 2 && {'a': 1}.a == 1 && 'a' in {'a': 1} && size({1: 2}) == 1",
    "{1: 'a'}[1] == 'a' && {true: 1}[true] == 1 && dyn({1: 'a'})[1u] == 'a'",
    "[1, 2, 3].all(x, x > 0) && [1, 2].exists_one(x, x == 1) && ![1, 1].exists_one(x, x == 1)",
    "[1, 2, 3].filter(x, x > 1) == [2, 3] && [1, 2].map(x, x * 2) == [2, 4]",
    "[1, 2, 3].map(x, x > 1, x * 2) == [4, 6] && {'a': 1, 'b': 2}.map(k, k) == ['a', 'b']",
    "[1, 2].all(i, v, i + 1 == v) && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
    "[1, 2].transformList(i, v, i * v) == [0, 2] && {'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
    "[1, 2].transformMapEntry(i, v, {string(v): i}) == {'1': 0, '2': 1}",
    "[3, 1, 2].sortBy(x, -x) == [3, 2, 1] && ['b', 'a'].sort() == ['a', 'b']",
    "[1, 2, 2].isSorted() && ![2, 1].isSorted() && [1, 3].sum() == 4 && [1.5, 1.0].sum() == 2.5",
    "[3, 1, 2].min() == 1 && ['a', 'c', 'b'].max() == 'c' && [1, 2, 2].indexOf(2) == 1",
    "[1, 2, 2].lastIndexOf(2) == 2 && [1, 2, 3, 4].slice(1, 3) == [2, 3]",
    "(true ? [1] : []) == [1] && [] + [1] == [1] && [].size() == 0 && {} == {}",
    "[dyn(1), [dyn(2), [3]]].flatten() == [dyn(1), 2, [3]]",
    "[[1], [2]].flatten() == [1, 2] && [1, 2, 1].distinct() == [1, 2]",
    "lists.range(3) == [0, 1, 2] && [1, 2].reverse() == [2, 1] && [1].first().value() == 1",
    "!dyn([]).last().hasValue() && sets.contains([1, 2], [2])",
    "sets.equivalent([1, 2], [2, 1, 1])",
    "sets.intersects([1, 2], [2, 3]) && !sets.intersects([1], [2])",
    // What may be missing.
    "has(o.a) && !has(o.x) && o.?x.orValue(3) == 3 && o.?a.hasValue() && !o.?x.y.z.hasValue()",
    "optional.of(1).value() == 1 && optional.none().orValue(2) == 2",
    "!optional.ofNonZeroValue('').hasValue() && o[?'a'].hasValue() && !l[?9].hasValue()",
    "optional.none().or(optional.of(1)).value() == 1 && [?optional.none(), 1] == [dyn(1)]",
    "{?'a': optional.of(1), ?'b': optional.none()} == {'a': 1}",
    "optional.of(2).optMap(x, x + 1).value() == 3 && cel.bind(x, 2, x * x) == 4",
    "o.n == null && has(o.n) && o.list[0].x == 1 && o['a'] == 'b'",
    // Times.
    "timestamp('2024-02-29T10:20:30Z').getFullYear() == 2024",
    "timestamp('2024-02-29T10:20:30Z').getMonth() == 1",
    "timestamp('2024-02-29T10:20:30Z').getDayOfMonth() == 28",
    "timestamp('2024-02-29T10:20:30Z').getDate() == 29 && timestamp(0).getDayOfWeek() == 4",
    "timestamp('2024-02-29T10:20:30.5Z').getMilliseconds() == 500",
    "timestamp('2024-02-29T10:20:30Z').getHours('+02:00') == 12",
    "timestamp('2024-01-01T00:00:00Z') + duration('90m') == timestamp('2024-01-01T01:30:00Z')",
    "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
    "duration('1h30m').getMinutes() == 90 && duration('-1.5s').getMilliseconds() == -500",
    "duration('1h') > duration('59m59s') && string(duration('1500ms')) == '1.5s'",
    "int(timestamp('1970-01-01T00:00:10Z')) == 10 && timestamp(10) == timestamp('1970-01-01T00:00:10Z')",
    // The libraries of Kubernetes.
    "'abc 123'.find('[0-9]+') == '123' && 'abc'.find('[0-9]') == ''",
    "'a1b22'.findAll('[0-9]+') == ['1', '22'] && 'a1b22'.findAll('[0-9]+', 1) == ['1']",
    "quantity('1.5G').isGreaterThan(quantity('200M')) && quantity('1Gi') == quantity('1024Mi')",
    "quantity('50k').add(20).sub(quantity('100k')).sub(-50000) == quantity('20')",
    "isQuantity('1.3Gi') && !isQuantity('200K') && quantity('50k').asInteger() == 50000",
    "quantity('-1').sign() == -1 && quantity('200M').compareTo(quantity('0.2G')) == 0",
    "!quantity('1m').isInteger() && quantity('500m').asApproximateFloat() == 0.5",
    "url('https://user:p@[::1]:80/a b?k=a&k=b&x').getHost() == '[::1]:80'",
    "url('https://[::1]:80/').getHostname() == '::1' && url('https://a:80/').getPort() == '80'",
    "url('https://example.com/path with spaces/').getEscapedPath() == '/path%20with%20spaces/'",
    "url('https://a/p?k1=a&k2=b&k2=c').getQuery() == {'k1': ['a'], 'k2': ['b', 'c']}",
    "url('/path').getScheme() == '' && isURL('/absolute-path') && !isURL('../relative-path')",
    "!isURL('https://a:b:c/') && isURL('https://example.com') && !isURL('') && !isURL('a b')",
    "ip('127.0.0.1').isLoopback() && ip('::1').family() == 6 && !isIP('127.0.0.256')",
    "ip.isCanonical('2001:db8::abcd') && !ip.isCanonical('2001:DB8::ABCD')",
    "!isIP('::ffff:1.2.3.4') && ip('192.168.0.1').isGlobalUnicast()",
    "cidr('192.168.0.0/24').containsIP('192.168.0.1') && !isCIDR('192.168.0.0/33')",
    "cidr('192.168.0.0/16').containsCIDR('192.168.10.0/24')",
    "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8')",
    "cidr('::/0').containsIP(ip('::1')) && cidr('192.168.0.0/24').prefixLength() == 24",
    "string(ip('::1')) == '::1' && cidr('10.0.0.1/8').ip() == ip('10.0.0.1')",
    "!format.dns1123Label().validate('my-label').hasValue()",
    "format.dns1123Label().validate('My_label').value().size() == 1",
    "format.named('uuid').hasValue() && !format.named('nothing').hasValue()",
    "format.datetime().validate('2021-01-01T00:00:00Z') == optional.none()",
    "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-alpha').isLessThan(semver('1.0.0'))",
    "isSemver('1.0.0') && !isSemver('v1.0') && isSemver('v1.0', true) && semver('1.2.3').minor() == 2",
    "jsonpatch.escapeKey('k8s.io/my~label') == 'k8s.io~1my~0label'",
];

/// Expressions that fail when they run, and a part of why.
const FAILS: &[(&str, &str)] = &[
    ("1 / 0 == 1", "division by zero"),
    ("1 % 0 == 1", "modulus by zero"),
    ("9223372036854775807 + 1 == 0", "integer overflow"),
    ("-d.least == 0 || 0u - 1u == 1u", "overflow"),
    ("l[9] == 1", "index out of bounds: 9"),
    ("o.x == 1", "no such key: x"),
    ("{'a': 1}['b'] == 1", "no such key: b"),
    ("o.a.b == 1", "no such overload"),
    ("d.a + 1 == 2", "no such overload"),
    ("int('x') == 1", "conversion"),
    ("optional.none().value() == 1", "optional.none() dereference"),
    ("'a'.substring(2) == ''", "index out of range: 2"),
    ("dyn([]).min() == 1", "empty list"),
    ("[1, 2, 3].all(x, d.x)", "no such key"),
    ("{dyn('a'): 1, dyn('a'): 2} == {}", "repeated key"),
    ("[dyn(1), dyn('a')].sort() == []", "comparable"),
    ("quantity('x') == quantity('1')", "quantities must match"),
    ("timestamp(d.a) == timestamp(0)", "RFC 3339"),
    ("'%d'.format([d.a]) == ''", "cannot be used on string"),
    ("'%d %d'.format([1]) == ''", "out of range"),
    ("'a'.matches(d.bad)", "regex"),
];

/// Expressions that are refused, and a part of why.
const REFUSED: &[(&str, &str)] = &[
    ("", "Syntax error"),
    ("1 +", "Syntax error"),
    ("a.b", "undeclared reference to 'a'"),
    ("nothing(1)", "undeclared reference to 'nothing'"),
    ("1 + 'a'", "found no matching overload for '_+_' applied to '(int, string)'"),
    ("1 == 'a'", "found no matching overload for '_==_' applied to '(int, string)'"),
    ("s.nam == ''", "undefined field 'nam'"),
    ("has(s.nam)", "undefined field 'nam'"),
    ("s.name.size", "does not support field selection"),
    ("s.name.all(x, true)", "cannot be range of a comprehension"),
    ("s.count.startsWith('a')", "found no matching overload for 'startsWith'"),
    ("[1, 'a']", "expected type 'int' but found 'string'"),
    ("s.tags.all(t, t + 1 > 0)", "found no matching overload"),
    ("s.name && true", "expected type 'bool' but found 'string'"),
    ("true ? 1 : 'a'", "found no matching overload for '_?_:_'"),
    ("has(s)", "invalid argument to has() macro"),
    ("[1].all(1, true)", "argument must be a simple name"),
    ("'a'.matches('(')", "invalid matches argument"),
    ("duration('1x')", "invalid duration argument"),
    ("timestamp('today')", "invalid timestamp argument"),
    ("namespace", "reserved identifier: namespace"),
    ("s[0]", "found no matching overload for '_[_]'"),
    ("'abc", "unterminated"),
    ("Object{a: 1}", "undeclared reference to 'Object'"),
    ("9223372036854775808", "invalid int literal"),
    ("#", "token recognition error"),
];

fn env() -> Env {
    let fields = [
        ("name", Type::String),
        ("count", Type::Int),
        ("tags", Type::list(Type::String)),
        ("labels", Type::map(Type::String, Type::String)),
    ];
    Env::new()
        .with("o", Type::Dyn)
        .with("d", Type::Dyn)
        .with("l", Type::list(Type::Int))
        .with("s", types::Struct::of("object", &fields))
}

fn variables() -> BTreeMap<String, Value> {
    let values = json!({
        "o": {"a": "b", "n": null, "list": [{"x": 1}]},
        "d": {"a": "x", "least": i64::MIN, "bad": "("},
        "l": [1, 2, 3],
        "s": {"name": "n", "count": 1, "tags": [], "labels": {"a": "b"}}
    });
    values.as_object().unwrap().iter().map(|(name, v)| (name.clone(), untyped(v))).collect()
}

fn run(source: &str) -> Result<Value, Error> {
    let program = Program::compile(source, &env()).unwrap_or_else(|why| panic!("{source}: {why}"));
    program.run(&variables(), None, &mut Budget::new(cost::OBJECT_BUDGET))
}

#[test]
fn expressions_are_true() {
    for source in TRUE {
        match run(source) {
            Ok(Value::Bool(true)) => {}
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn expressions_fail() {
    for (source, why) in FAILS {
        match run(source) {
            Err(Error::Failed(text)) if text.contains(why) => {}
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn expressions_are_refused() {
    for (source, why) in REFUSED {
        match Program::compile(source, &env()) {
            Err(error) if error.to_string().contains(why) => {}
            other => panic!("{source}: {other:?}"),
        }
    }
    let error = Program::compile("true &&\n  s.nam == ''", &env()).unwrap_err().to_string();
    let wanted = "compilation failed: ERROR: <input>:2:4: undefined field 'nam'\n |   s.nam == ''\n \
                  | ...^";
    assert_eq!(error, wanted);
    let error = Program::compile_as("1", &env(), &[Type::Bool]).unwrap_err();
    assert_eq!(error.to_string(), "must evaluate to bool");
    assert!(Program::compile_as("o.a", &env(), &[Type::Bool]).is_err());
}

#[test]
fn what_is_too_deep_or_too_long_is_refused() {
    let deep = [
        format!("{}1{}", "(".repeat(5000), ")".repeat(5000)),
        "[".repeat(50_000),
        "-".repeat(50_000),
        "!".repeat(5_000) + "true",
        vec!["1"; 5_000].join(" + "),
        format!("o{}", ".a".repeat(5_000)),
        "true ? ".repeat(3_000),
        format!("o{}", "[0]".repeat(5_000)),
        format!("{}true{}", "[1].all(x, ".repeat(500), ")".repeat(500)),
        format!("'{}'", "a".repeat(100_001)),
    ];
    for source in deep {
        assert!(Program::compile(&source, &env()).is_err(), "{}", &source[..40]);
    }
    let wide = vec!["true"; 10_000].join(" && ");
    let program = Program::compile(&wide, &env()).unwrap();
    assert!(program.run(&variables(), None, &mut Budget::new(1_000_000)).is_ok());
}

#[test]
fn what_costs_too_much_ends() {
    let ranges =
        "lists.range(1000).all(a, lists.range(1000).all(b, lists.range(1000).all(c, true)))";
    let doubled = |start: &str, times: usize| {
        let binds: String = (0..times).map(|_| "cel.bind(x, x + x, ").collect();
        format!("cel.bind(x, {start}, {binds}size(x)){} > 0", ")".repeat(times))
    };
    let costly = [
        ranges.to_string(),
        "lists.range(1000000000).size() > 0".into(),
        doubled("'abcdefgh'", 40),
        doubled("[1, 2, 3]", 40),
        "lists.range(5000).map(x, lists.range(5000)).size() > 0".into(),
        "lists.range(3000).distinct().size() > 0".into(),
        format!("'{}'.replace('', '{}').size() > 0", "a".repeat(40_000), "b".repeat(40_000)),
        format!("'{}'.matches('(((a{{50}}){{50}}){{50}})')", "a".repeat(20_000)),
        "lists.range(1000).exists(x, string(x).matches('a' + string(x)))".into(),
        "lists.range(1000).map(x, lists.range(1000)) == lists.range(1000).map(x, lists.range(1000))"
            .into(),
    ];
    for source in costly {
        let shown = &source[..source.len().min(60)];
        match Program::compile(&source, &env()) {
            Err(_) => {}
            Ok(program) => {
                let result = program.run(&variables(), None, &mut Budget::new(10_000_000));
                assert_eq!(result.unwrap_err(), Error::CallLimit, "{shown}");
            }
        }
    }
    // A budget that is used up is told apart, and nothing is evaluated after it.
    let mut budget = Budget::new(1_500_000);
    let program = Program::compile(ranges, &env()).unwrap();
    assert_eq!(program.run(&variables(), None, &mut budget).unwrap_err(), Error::CallLimit);
    assert_eq!(program.run(&variables(), None, &mut budget).unwrap_err(), Error::Budget);
    assert_eq!(budget.left(), 0);
}

#[test]
fn names_of_fields_are_escaped() {
    for name in ["namespace", "a.b", "a-b/c", "__x", "_a", "true", "x__dot__y"] {
        let escaped = convert::escape(name).unwrap();
        assert!(escaped.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
        if name != "x__dot__y" {
            assert_eq!(convert::unescape(&escaped), name);
        }
    }
    assert_eq!(convert::escape("namespace").as_deref(), Some("__namespace__"));
    assert!(convert::escape("ü").is_none() && convert::escape("1a").is_none());
}

#[test]
fn objects_are_made_where_they_may_be() {
    let env = env().with_objects();
    let source =
        "Object{spec: Object.spec{replicas: l.size(), tags: ['a'], ?none: optional.none()}}";
    let program = Program::compile(source, &env).unwrap();
    let made = program.run(&variables(), None, &mut Budget::new(1_000)).unwrap();
    assert_eq!(to_json(&made).unwrap(), json!({"spec": {"replicas": 3, "tags": ["a"]}}));
    assert_eq!(program.output().to_string(), "Object");
    assert!(Program::compile("JSONPatch{op: 1}", &env).is_err());
    assert!(Program::compile("JSONPatch{what: ''}", &env).is_err());
    assert!(Program::compile("[JSONPatch{op: 'add', path: '/a', value: 1}]", &env).is_ok());
}

#[test]
fn values_that_share_parts_are_no_huge_json() {
    let twice = |from: &str, times: usize| {
        let binds = "cel.bind(x, [x, x], ".repeat(times);
        format!("cel.bind(x, {from}, {binds}x{})", ")".repeat(times))
    };
    let made = run(&twice("'abc'", 40)).unwrap();
    assert!(to_json(&made).unwrap_err().contains("bytes as JSON"));
    assert!(to_json(&run(&twice("'abc'", 5)).unwrap()).is_ok());
}

struct Roles;

impl Authorizer for Roles {
    fn decide(&self, check: &Check) -> Decision {
        let allowed = check.verb == "create" && check.resource == "pods" && check.namespace == "a";
        Decision { allowed, reason: format!("{:?}", check.service_account) }
    }
}

#[test]
fn conditions_ask_the_authorizer() {
    let request = json!({"name": "x", "operation": "CREATE", "userInfo": {"username": "u"}});
    let resource = Check { resource: "pods".into(), namespace: "a".into(), ..Check::default() };
    let inputs = admission::Inputs { request: Some(&request), resource, ..Default::default() };
    let variables = admission::variables(&inputs);
    let matched = |expressions: &[&str]| {
        let named = expressions.iter().map(|expression| ("c", *expression));
        let conditions = admission::Conditions::compile(named, &admission::webhook_env());
        conditions.unwrap().matched(&variables, Some(&Roles))
    };
    use admission::Matched;
    assert_eq!(matched(&[]), Matched::Yes);
    assert_eq!(matched(&["authorizer.requestResource.check('create').allowed()"]), Matched::Yes);
    let other = "authorizer.group('').resource('pods').namespace('b').check('create').allowed()";
    assert_eq!(matched(&[other]), Matched::No("c".into()));
    let account = "authorizer.serviceAccount('n', 's').path('/x').check('get').reason() != ''";
    assert_eq!(matched(&[account, "request.operation == 'CREATE'"]), Matched::Yes);
    assert!(matches!(matched(&["object.x == 1"]), Matched::Failed(_)));
    assert_eq!(matched(&["object.x == 1", "false"]), Matched::No("c".into()));
    let thrice = format!("{other} || {other} || {other}");
    assert!(matches!(matched(&[&thrice]), Matched::Failed(why) if why.contains("cost")));
    let bad = admission::Conditions::compile(
        [("a", "true"), ("b", "request.nam == ''")],
        &admission::webhook_env(),
    );
    assert_eq!(bad.unwrap_err().0, 1);
}
