//! Expressions of CEL made by grammar: of a wanted type, as a rule, out of the table of all functions,
//! the macros, the operators and the variables that are in scope.

use std::sync::LazyLock;

use rand::Rng;
use rand::rngs::StdRng;
use wasmfleet::api::cel;

/// How deep a made expression nests; the language takes more, which splicing makes.
const MAX_DEPTH: u32 = 7;
/// How often something stands where something else is wanted.
const WRONG: f64 = 0.015;

/// `list<string>`; a capital letter is a parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ty {
    name: String,
    args: Vec<Ty>,
}

struct Function {
    name: String,
    member: bool,
    params: Vec<Ty>,
    result: Ty,
}

static FUNCTIONS: LazyLock<Vec<Function>> =
    LazyLock::new(|| cel::signatures().into_iter().map(function).collect());

/// Literals and variables by type.
const LEAVES: &[(&str, &[&str])] = &[
    ("bool", &["true", "false", "object.b", "has(object.s)", "has(params.x)"]),
    ("int", &["0", "1", "-1", "3", "9223372036854775807", "-9223372036854775808", "object.i"]),
    ("uint", &["0u", "1u", "18446744073709551615u", "0x10u"]),
    ("double", &["0.0", "-1.5", "1e308", "0.0 / 0.0", "object.d"]),
    (
        "string",
        &[
            "''",
            "'a'",
            "'aé\\u4e16'",
            "r'\\d+'",
            "object.s",
            "request.name",
            "'%s %d'",
            "object.texts[0]",
            "'10.0.0.0/8'",
            "'1.2.3'",
            "'2024-01-01T00:00:00Z'",
            "'UTC'",
        ],
    ),
    ("bytes", &["b''", "b'\\xff'", "object.by"]),
    ("timestamp", &["timestamp('2024-02-29T23:59:59.999Z')", "object.at"]),
    ("duration", &["duration('1h1m1.5s')", "duration('-9s')", "object.du"]),
    ("type", &["int", "list", "type(object)"]),
    ("null", &["null"]),
    ("dyn", &["params", "object.any", "params.x", "dyn(object)", "request.options", "[1, 'a']"]),
    ("kubernetes.Quantity", &["quantity('1.5Gi')", "quantity('-3m')"]),
    ("net.IP", &["ip('127.0.0.1')", "ip('::1')"]),
    ("net.CIDR", &["cidr('10.0.0.0/8')", "cidr('fe80::/10')"]),
    ("kubernetes.URL", &["url('https://user@a.b:1/c?d=e&d=f')"]),
    ("kubernetes.Semver", &["semver('1.2.3-a.1')", "semver('v1.0', true)"]),
    ("kubernetes.NamedFormat", &["format.dns1123Label()", "format.named('uuid').value()"]),
    ("kubernetes.authorization.Authorizer", &["authorizer"]),
    ("kubernetes.authorization.ResourceCheck", &["authorizer.requestResource"]),
    ("list<string>", &["object.texts", "[]", "['b', 'a']", "request.userInfo.groups"]),
    ("list<int>", &["object.numbers", "[1, 2, 3]", "lists.range(5)"]),
    ("map<string, string>", &["object.labels", "{}", "{'a': 'b'}"]),
];
/// Types of what is made where any will do.
const ANY: &[&str] = &[
    "bool",
    "int",
    "uint",
    "double",
    "string",
    "bytes",
    "timestamp",
    "duration",
    "list<string>",
    "list<int>",
    "list<dyn>",
    "map<string, string>",
    "map<string, dyn>",
    "optional<string>",
    "kubernetes.Quantity",
    "dyn",
    "type",
    "null",
    "net.IP",
    "list<list<int>>",
    "kubernetes.authorization.Decision",
];

fn ty(text: &str) -> Ty {
    let Some((name, rest)) = text.split_once('<') else {
        return Ty { name: text.trim().into(), args: Vec::new() };
    };
    let inner = rest.strip_suffix('>').unwrap_or(rest);
    Ty { name: name.trim().into(), args: split(inner).into_iter().map(ty).collect() }
}

/// At the commas that are in no angle brackets.
fn split(text: &str) -> Vec<&str> {
    let mut depth = 0;
    let parts = text.split(move |c| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty()).collect()
}

fn function(signature: &str) -> Function {
    let (left, result) = signature.split_once(" -> ").unwrap();
    let (receiver, rest) = match left.strip_prefix('(').and_then(|rest| rest.split_once(").")) {
        Some((receiver, rest)) => (Some(receiver), rest),
        None => (None, left),
    };
    let (name, args) = rest.strip_suffix(')').unwrap().split_once('(').unwrap();
    let params = receiver.into_iter().chain(split(args)).map(ty).collect();
    Function { name: name.into(), member: receiver.is_some(), params, result: ty(result) }
}

impl Ty {
    fn is_parameter(&self) -> bool {
        self.name.len() == 1
    }

    /// Binds parameters of `self` so that it becomes `wanted`, if it can.
    fn unify(&self, wanted: &Ty, bound: &mut Vec<(String, Ty)>) -> bool {
        if self.is_parameter() {
            match bound.iter().find(|(name, _)| *name == self.name) {
                Some((_, known)) => return known == wanted,
                None => bound.push((self.name.clone(), wanted.clone())),
            }
            return true;
        }
        self.name == wanted.name
            && self.args.len() == wanted.args.len()
            && self.args.iter().zip(&wanted.args).all(|(a, b)| a.unify(b, bound))
    }

    fn resolve(&self, bound: &mut Vec<(String, Ty)>, random: &mut StdRng) -> Ty {
        if self.name == "number" {
            return ty(pick(&["int", "uint", "double"], random));
        }
        if self.is_parameter() {
            if let Some((_, known)) = bound.iter().find(|(name, _)| *name == self.name) {
                return known.clone();
            }
            let made = any(random);
            bound.push((self.name.clone(), made.clone()));
            return made;
        }
        let args = self.args.iter().map(|arg| arg.resolve(bound, random)).collect();
        Ty { name: self.name.clone(), args }
    }
}

fn pick<'a>(from: &[&'a str], random: &mut StdRng) -> &'a str {
    from[random.random_range(0..from.len())]
}

fn any(random: &mut StdRng) -> Ty {
    ty(pick(ANY, random))
}

/// An expression of some type.
pub fn expression(random: &mut StdRng) -> String {
    let depth = random.random_range(1..=MAX_DEPTH);
    let wanted = any(random);
    Maker { random, scope: Vec::new(), left: 120 }.expr(&wanted, depth)
}

struct Maker<'a> {
    random: &'a mut StdRng,
    scope: Vec<(String, Ty)>,
    /// How many more parts it may have.
    left: u32,
}

impl Maker<'_> {
    fn expr(&mut self, wanted: &Ty, depth: u32) -> String {
        let other;
        let wanted = match self.random.random_bool(WRONG) {
            true => {
                other = any(self.random);
                &other
            }
            false => wanted,
        };
        self.left = self.left.saturating_sub(1);
        if depth == 0 || self.left == 0 {
            return self.leaf(wanted);
        }
        let below = depth - 1;
        match self.random.random_range(0..20) {
            0..=3 => self.leaf(wanted),
            4 => {
                let condition = self.expr(&ty("bool"), below);
                let (yes, no) = (self.expr(wanted, below), self.expr(wanted, below));
                format!("({condition} ? {yes} : {no})")
            }
            5 => {
                let of = any(self.random);
                let value = self.expr(&of, below);
                let body = self.with(&[of], |maker, vars| {
                    format!("cel.bind({}, {value}, {})", vars[0], maker.expr(wanted, below))
                });
                format!("({body})")
            }
            6 => {
                let list = Ty { name: "list".into(), args: vec![wanted.clone()] };
                format!("{}[{}]", self.expr(&list, below), self.expr(&ty("int"), below))
            }
            7 => {
                let maybe = Ty { name: "optional".into(), args: vec![wanted.clone()] };
                format!("{}.orValue({})", self.expr(&maybe, below), self.expr(wanted, below))
            }
            8..=11 => self.macros(wanted, below),
            _ => self.call(wanted, below),
        }
    }

    fn with(&mut self, types: &[Ty], make: impl FnOnce(&mut Self, &[String]) -> String) -> String {
        let outside = self.scope.len();
        let names: Vec<String> = (0..types.len()).map(|n| format!("v{}", outside + n)).collect();
        self.scope.extend(names.iter().cloned().zip(types.iter().cloned()));
        let made = make(self, &names);
        self.scope.truncate(outside);
        made
    }

    fn leaf(&mut self, wanted: &Ty) -> String {
        let known: Vec<&String> =
            self.scope.iter().filter(|(_, of)| of == wanted).map(|(name, _)| name).collect();
        if !known.is_empty() && self.random.random_bool(0.6) {
            return known[self.random.random_range(0..known.len())].clone();
        }
        if let Some((_, leaves)) = LEAVES.iter().find(|(name, _)| ty(name) == *wanted) {
            return pick(leaves, self.random).to_string();
        }
        match (&*wanted.name, &wanted.args[..]) {
            ("list", [item]) => format!("[{}]", self.leaf(item)),
            ("map", [key, value]) => format!("{{{}: {}}}", self.leaf(key), self.leaf(value)),
            ("optional", [inner]) if self.random.random_bool(0.3) => {
                format!("optional.none().or(optional.of({}))", self.leaf(inner))
            }
            ("optional", [inner]) => format!("optional.of({})", self.leaf(inner)),
            _ => format!("dyn({})", pick(LEAVES[0].1, self.random)),
        }
    }

    fn call(&mut self, wanted: &Ty, below: u32) -> String {
        let mut fitting: Vec<(&Function, Vec<(String, Ty)>)> = Vec::new();
        for function in FUNCTIONS.iter() {
            let mut bound = Vec::new();
            if function.result.unify(wanted, &mut bound) {
                fitting.push((function, bound));
            }
        }
        if fitting.is_empty() {
            return self.leaf(wanted);
        }
        let (function, mut bound) = fitting.swap_remove(self.random.random_range(0..fitting.len()));
        let types: Vec<Ty> =
            function.params.iter().map(|param| param.resolve(&mut bound, self.random)).collect();
        let mut args: Vec<String> = types.iter().map(|of| self.expr(of, below)).collect();
        match (&*function.name, &args[..]) {
            ("@in", [a, b]) => format!("({a} in {b})"),
            (name, [a, b]) if name.starts_with('_') => {
                format!("({a} {} {b})", name.trim_matches('_'))
            }
            (name, [a]) if name.ends_with('_') => format!("{}({a})", name.trim_matches('_')),
            (name, _) if function.member => {
                let receiver = args.remove(0);
                format!("{receiver}.{name}({})", args.join(", "))
            }
            (name, args) => format!("{name}({})", args.join(", ")),
        }
    }

    fn macros(&mut self, wanted: &Ty, below: u32) -> String {
        let item = match (&*wanted.name, &wanted.args[..]) {
            ("list", [item]) => Some(item.clone()),
            _ => None,
        };
        let of = any(self.random);
        let list = |of: &Ty| Ty { name: "list".into(), args: vec![of.clone()] };
        let bool = ty("bool");
        match (&*wanted.name, item) {
            ("bool", _) => {
                let name = pick(&["all", "exists", "exists_one", "&&", "||"], self.random);
                if name == "&&" || name == "||" {
                    return format!(
                        "({} {name} {})",
                        self.expr(&bool, below),
                        self.expr(&bool, below)
                    );
                }
                let range = self.expr(&list(&of), below);
                if self.random.random_bool(0.3) {
                    return self.with(&[ty("int"), of], |maker, vars| {
                        let body = maker.expr(&bool, below);
                        format!("{range}.{name}({}, {}, {body})", vars[0], vars[1])
                    });
                }
                self.with(&[of], |maker, vars| {
                    format!("{range}.{name}({}, {})", vars[0], maker.expr(&bool, below))
                })
            }
            ("list", Some(item)) => match self.random.random_range(0..4) {
                0 => {
                    let range = self.expr(wanted, below);
                    self.with(&[item], |maker, vars| {
                        format!("{range}.filter({}, {})", vars[0], maker.expr(&bool, below))
                    })
                }
                1 => {
                    let (range, by) = (self.expr(wanted, below), any(self.random));
                    self.with(&[item], |maker, vars| {
                        format!("{range}.sortBy({}, {})", vars[0], maker.expr(&by, below))
                    })
                }
                2 => {
                    let range = self.expr(&list(&of), below);
                    self.with(&[ty("int"), of], |maker, vars| {
                        let (filter, body) = (maker.expr(&bool, below), maker.expr(&item, below));
                        format!("{range}.transformList({}, {}, {filter}, {body})", vars[0], vars[1])
                    })
                }
                _ => {
                    let range = self.expr(&list(&of), below);
                    self.with(&[of], |maker, vars| {
                        format!("{range}.map({}, {})", vars[0], maker.expr(&item, below))
                    })
                }
            },
            ("map", _) => {
                let (key, value) = (wanted.args[0].clone(), wanted.args[1].clone());
                let source = Ty { name: "map".into(), args: vec![key.clone(), of.clone()] };
                let range = self.expr(&source, below);
                let entries = self.random.random_bool(0.3);
                self.with(&[key.clone(), of], |maker, vars| {
                    let body = maker.expr(&value, below);
                    if entries {
                        let key = maker.expr(&key, below);
                        let (a, b) = (&vars[0], &vars[1]);
                        return format!("{range}.transformMapEntry({a}, {b}, {{{key}: {body}}})");
                    }
                    format!("{range}.transformMap({}, {}, {body})", vars[0], vars[1])
                })
            }
            ("optional", _) => {
                let inner = wanted.args[0].clone();
                let source = Ty { name: "optional".into(), args: vec![of.clone()] };
                let value = self.expr(&source, below);
                self.with(&[of], |maker, vars| {
                    format!("{value}.optMap({}, {})", vars[0], maker.expr(&inner, below))
                })
            }
            ("dyn", _) if self.random.random_bool(0.3) => {
                let (a, b) = (self.expr(&of, below), self.expr(&ty("dyn"), below));
                format!(
                    "Object.spec{{a: {a}, ?b: params.?x, c: [JSONPatch{{op: 'add', value: {b}}}]}}"
                )
            }
            ("dyn", _) => format!("dyn({})", self.expr(&of, below)),
            _ => self.call(wanted, below),
        }
    }
}
