//! kubectl's JSONPath templates: `{.items[*].metadata.name}`, `{range .items[*]}…{end}`, filters
//! `[?(@.type=="Ready")]`, slices, recursive descent, quoted text. Source: the JSONPath page of the
//! Kubernetes documentation.

use anyhow::{anyhow, bail};
use serde_json::Value;

/// A parsed template.
#[derive(Clone, Debug)]
pub struct Template(Vec<Node>);

#[derive(Clone, Debug)]
enum Node {
    Text(String),
    Path(Path),
    Range(Path, Vec<Node>),
}

type Path = Vec<Step>;

#[derive(Clone, Debug)]
enum Step {
    Field(String),
    /// Every element or value.
    All,
    /// `..`: the value and everything below it.
    Descend,
    Index(i64),
    Slice(Option<i64>, Option<i64>),
    Filter(Path, Option<(Comparison, Value)>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Deeper templates are refused, and longer paths: columns of custom resources have them too.
const MAX_DEPTH: usize = 16;
const MAX_STEPS: usize = 100;
/// How often a path looks at all that is below: each time it finds most of it again.
const MAX_DESCENTS: usize = 8;
/// What one step finds at most: each `..` multiplies.
const MAX_FOUND: usize = 10_000;
/// How often the parts of a template are rendered at most: each `range` multiplies.
const MAX_RENDERED: usize = 1_000_000;

impl Template {
    pub fn parse(text: &str) -> anyhow::Result<Template> {
        // kubectl takes a bare path, too, even without its first dot.
        let braced = if text.contains('{') {
            text.to_string()
        } else if text.starts_with(['.', '[', '$', '@']) {
            format!("{{{text}}}")
        } else {
            format!("{{.{text}}}")
        };
        let mut parser = Parser { rest: &braced, filters: 0 };
        let nodes = parser.nodes(false, 0)?;
        Ok(Template(nodes))
    }

    /// The texts of what the paths of the template find.
    pub fn values(&self, value: &Value) -> Vec<String> {
        self.find(value).into_iter().map(plain).collect()
    }

    /// What the paths of the template find.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let paths = self.0.iter().filter_map(|node| match node {
            Node::Path(path) => Some(path),
            _ => None,
        });
        paths.flat_map(|path| select(path, value, value)).collect()
    }

    pub fn render(&self, value: &Value) -> anyhow::Result<String> {
        let (mut out, mut left) = (String::new(), MAX_RENDERED);
        render(&self.0, value, value, &mut out, &mut left);
        if left == 0 {
            bail!("the template has more than {MAX_RENDERED} parts to show");
        }
        Ok(out)
    }
}

/// `left` is how much may still be rendered; nothing more is once it is 0.
fn render(nodes: &[Node], root: &Value, here: &Value, out: &mut String, left: &mut usize) {
    for node in nodes {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return;
        }
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Path(path) => {
                let texts: Vec<String> =
                    select(path, root, here).iter().map(|v| plain(v)).collect();
                out.push_str(&texts.join(" "));
            }
            Node::Range(path, body) => {
                for item in select(path, root, here) {
                    render(body, root, item, out, left);
                }
            }
        }
    }
}

/// Strings without quotes, all else as JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn select<'a>(path: &[Step], root: &'a Value, here: &'a Value) -> Vec<&'a Value> {
    let start = match path.first() {
        Some(Step::Field(name)) if name == "$" => (root, &path[1..]),
        Some(Step::Field(name)) if name == "@" => (here, &path[1..]),
        _ => (here, path),
    };
    let mut values = vec![start.0];
    for step in start.1 {
        let found = values.into_iter().flat_map(|value| advance(step, root, value));
        values = found.take(MAX_FOUND).collect();
    }
    values
}

fn advance<'a>(step: &Step, root: &'a Value, value: &'a Value) -> Vec<&'a Value> {
    let items = || value.as_array().map(Vec::as_slice).unwrap_or_default();
    let at = |index: i64| {
        let length = i64::try_from(items().len()).unwrap_or(i64::MAX);
        if index < 0 { index + length } else { index }
    };
    match step {
        Step::Field(name) => value.get(name).into_iter().collect(),
        Step::All => match value {
            Value::Array(items) => items.iter().collect(),
            Value::Object(map) => map.values().collect(),
            _ => Vec::new(),
        },
        Step::Descend => below(value),
        Step::Index(index) => {
            usize::try_from(at(*index)).ok().and_then(|n| items().get(n)).into_iter().collect()
        }
        Step::Slice(from, to) => {
            let bound = |n: i64| usize::try_from(at(n)).unwrap_or(0).min(items().len());
            let from = from.map_or(0, bound);
            let to = to.map_or(items().len(), bound);
            items().get(from..to).unwrap_or_default().iter().collect()
        }
        Step::Filter(path, test) => {
            items().iter().filter(|item| passes(path, test.as_ref(), root, item)).collect()
        }
    }
}

fn below(value: &Value) -> Vec<&Value> {
    let mut found = vec![value];
    let mut next = 0;
    while next < found.len() && found.len() < MAX_FOUND {
        match found[next] {
            Value::Array(items) => found.extend(items),
            Value::Object(map) => found.extend(map.values()),
            _ => {}
        }
        next += 1;
    }
    found
}

fn passes(path: &[Step], test: Option<&(Comparison, Value)>, root: &Value, item: &Value) -> bool {
    let found = select(path, root, item);
    let Some((comparison, wanted)) = test else { return !found.is_empty() };
    found.iter().any(|value| {
        let order = match (value, wanted) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().partial_cmp(&b.as_f64()),
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (a, b) if *a == b => Some(std::cmp::Ordering::Equal),
            _ => None,
        };
        match comparison {
            Comparison::Equal => order.is_some_and(|o| o.is_eq()),
            Comparison::NotEqual => !order.is_some_and(|o| o.is_eq()),
            Comparison::Less => order.is_some_and(|o| o.is_lt()),
            Comparison::LessOrEqual => order.is_some_and(|o| o.is_le()),
            Comparison::Greater => order.is_some_and(|o| o.is_gt()),
            Comparison::GreaterOrEqual => order.is_some_and(|o| o.is_ge()),
        }
    })
}

struct Parser<'a> {
    rest: &'a str,
    /// How many filters are open.
    filters: usize,
}

impl Parser<'_> {
    /// Text and braces up to the end, or up to `{end}` inside a range.
    fn nodes(&mut self, in_range: bool, depth: usize) -> anyhow::Result<Vec<Node>> {
        if depth > MAX_DEPTH {
            bail!("the template is nested too deeply");
        }
        let mut nodes = Vec::new();
        while !self.rest.is_empty() {
            let brace = self.rest.find('{').unwrap_or(self.rest.len());
            if brace > 0 {
                nodes.push(Node::Text(self.rest[..brace].to_string()));
                self.rest = &self.rest[brace..];
                continue;
            }
            self.rest = &self.rest[1..];
            self.spaces();
            if let Some(quote @ ('"' | '\'')) = self.rest.chars().next() {
                nodes.push(Node::Text(self.quoted(quote)?));
                self.close()?;
            } else if self.take_word("end") {
                self.close()?;
                return match in_range {
                    true => Ok(nodes),
                    false => Err(anyhow!("{{end}} without {{range}}")),
                };
            } else if self.take_word("range") {
                let path = self.path()?;
                self.close()?;
                nodes.push(Node::Range(path, self.nodes(true, depth + 1)?));
            } else {
                let path = self.path()?;
                self.close()?;
                nodes.push(Node::Path(path));
            }
        }
        if in_range { Err(anyhow!("{{range}} without {{end}}")) } else { Ok(nodes) }
    }

    fn spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, text: &str) -> bool {
        match self.rest.strip_prefix(text) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn take_word(&mut self, word: &str) -> bool {
        let ends = |rest: &str| rest.starts_with([' ', '}']) || rest.is_empty();
        match self.rest.strip_prefix(word) {
            Some(rest) if ends(rest) => {
                self.rest = rest.trim_start();
                true
            }
            _ => false,
        }
    }

    fn close(&mut self) -> anyhow::Result<()> {
        self.spaces();
        if self.take("}") { Ok(()) } else { Err(anyhow!("expected }} before {:?}", self.rest)) }
    }

    fn quoted(&mut self, quote: char) -> anyhow::Result<String> {
        let mut text = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.rest = &self.rest[at + c.len_utf8()..];
                    return Ok(text);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => text.push('\n'),
                    Some('t') => text.push('\t'),
                    Some(other) => text.push(other),
                    None => break,
                },
                other => text.push(other),
            }
        }
        bail!("a quoted text does not end")
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        let mut chars = self.rest.chars();
        while let Some(c) = chars.clone().next() {
            match c {
                // `\.` is a dot inside a name.
                '\\' => {
                    chars.next();
                    name.extend(chars.next());
                }
                c if c.is_alphanumeric() || "_-/$@".contains(c) => {
                    name.push(c);
                    chars.next();
                }
                _ => break,
            }
        }
        self.rest = chars.as_str();
        name
    }

    fn path(&mut self) -> anyhow::Result<Path> {
        let mut steps = Vec::new();
        self.spaces();
        if self.rest.starts_with(['@', '$']) {
            let name = self.name();
            steps.push(Step::Field(name));
        }
        loop {
            if steps.len() > MAX_STEPS {
                bail!("a path has more than {MAX_STEPS} steps");
            }
            if self.take("..") {
                let before = steps.iter().filter(|step| matches!(step, Step::Descend)).count();
                if before == MAX_DESCENTS {
                    bail!("a path has more than {MAX_DESCENTS} times \"..\"");
                }
                steps.push(Step::Descend);
                self.dotted(&mut steps)?;
            } else if self.take(".") {
                self.dotted(&mut steps)?;
            } else if self.take("[") {
                steps.push(self.bracket()?);
            } else {
                break;
            }
        }
        if steps.is_empty() {
            bail!("expected a path such as .metadata.name before {:?}", self.rest);
        }
        Ok(steps)
    }

    fn dotted(&mut self, steps: &mut Path) -> anyhow::Result<()> {
        if self.take("*") {
            steps.push(Step::All);
        } else {
            let name = self.name();
            // `{.}` is the value itself, `.[0]` an index.
            if !name.is_empty() {
                steps.push(Step::Field(name));
            }
        }
        Ok(())
    }

    fn bracket(&mut self) -> anyhow::Result<Step> {
        let step = if self.take("*") {
            Step::All
        } else if self.take("?(") {
            if self.filters == MAX_DEPTH {
                bail!("filters are in each other more than {MAX_DEPTH} times");
            }
            self.filters += 1;
            let path = self.path()?;
            self.filters -= 1;
            self.spaces();
            let test = match self.comparison() {
                Some(comparison) => Some((comparison, self.literal()?)),
                None => None,
            };
            self.spaces();
            if !self.take(")") {
                bail!("a filter does not end before {:?}", self.rest);
            }
            Step::Filter(path, test)
        } else if let Some(quote @ ('"' | '\'')) = self.rest.chars().next() {
            Step::Field(self.quoted(quote)?)
        } else {
            let inside = self.rest.split(']').next().unwrap_or_default().to_string();
            self.rest = &self.rest[inside.len()..];
            index_or_slice(&inside)?
        };
        if self.take("]") { Ok(step) } else { Err(anyhow!("expected ] before {:?}", self.rest)) }
    }

    fn comparison(&mut self) -> Option<Comparison> {
        const ALL: [(&str, Comparison); 6] = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        ALL.iter().find(|(sign, _)| self.take(sign)).map(|(_, comparison)| *comparison)
    }

    fn literal(&mut self) -> anyhow::Result<Value> {
        self.spaces();
        if let Some(quote @ ('"' | '\'')) = self.rest.chars().next() {
            return Ok(Value::String(self.quoted(quote)?));
        }
        let end = self.rest.find([')', ' ']).unwrap_or(self.rest.len());
        let word = self.rest[..end].to_string();
        self.rest = &self.rest[end..];
        serde_json::from_str(&word).map_err(|_| anyhow!("{word:?} is no value to compare with"))
    }
}

fn index_or_slice(text: &str) -> anyhow::Result<Step> {
    let number = |part: &str| -> anyhow::Result<Option<i64>> {
        match part.trim() {
            "" => Ok(None),
            part => Ok(Some(part.parse().map_err(|_| anyhow!("{part:?} is no index"))?)),
        }
    };
    match text.split_once(':') {
        Some((from, to)) => Ok(Step::Slice(number(from)?, number(to)?)),
        None => number(text)?.map(Step::Index).ok_or_else(|| anyhow!("[] holds nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(template: &str) -> String {
        let value = json!({"items": [
            {"metadata": {"name": "a", "labels": {"app.kubernetes.io/name": "x"}},
             "status": {"conditions": [{"type": "Ready", "status": "True"}], "n": 3}},
            {"metadata": {"name": "b"}, "status": {"conditions": [], "n": 1}}]});
        Template::parse(template).and_then(|t| t.render(&value)).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn paths_ranges_and_filters() {
        assert_eq!(run("{.items[*].metadata.name}"), "a b");
        assert_eq!(run(".items[-1].metadata.name"), "b");
        assert_eq!(run("items[0].status.n"), "3");
        assert_eq!(run("{.items[0:1].metadata.name}"), "a");
        assert_eq!(
            run(r#"{range .items[*]}{.metadata.name}{"\t"}{.status.n}{"\n"}{end}"#),
            "a\t3\nb\t1\n"
        );
        assert_eq!(run(r#"{.items[?(@.status.n>2)].metadata.name}"#), "a");
        assert_eq!(run(r#"{.items[0].status.conditions[?(@.type=="Ready")].status}"#), "True");
        assert_eq!(run(r"{.items[0].metadata.labels.app\.kubernetes\.io/name}"), "x");
        assert_eq!(run("{..name}"), "a b");
        assert_eq!(run("{.missing}"), "");
        assert_eq!(run("n={.items[1].status.n}!"), "n=1!");
    }

    /// Templates come from users, also as columns of custom resources.
    #[test]
    fn templates_cost_little() {
        let descents = format!("{{{}}}", "..".repeat(MAX_DESCENTS));
        let mut object = serde_json::json!([1]);
        for _ in 0..MAX_DEPTH {
            object = serde_json::json!({"a": object});
        }
        assert_eq!(Template::parse(&descents).unwrap().values(&object).len(), MAX_FOUND);
        assert!(Template::parse(&format!("{{{}}}", "..".repeat(MAX_DESCENTS + 1))).is_err());
        let ranges = format!("{}x{}", "{range $.l[*]}".repeat(8), "{end}".repeat(8));
        let list = serde_json::json!({"l": vec![0; 20]});
        assert!(Template::parse(&ranges).unwrap().render(&list).is_err());
        assert!(Template::parse(&format!("{{{}", "[?(@".repeat(20_000))).is_err());
        assert!(Template::parse(&format!("{{{}}}", ".a".repeat(200))).is_err());
    }

    #[test]
    fn bad_templates_say_what_is_wrong() {
        assert_eq!(run("{range .items[*]}"), "{range} without {end}");
        assert_eq!(run("{.items[x]}"), "\"x\" is no index");
        assert!(run("{.items").contains("expected }"));
    }
}
