//! The page that a description is written on: labels and values, indented, with the values of
//! neighbours in one column.

use jiff::Timestamp;
use serde_json::Value;

use super::super::discovery::text;
use super::super::printer;
use crate::api::jsonpath::plain;

/// Longer texts are cut.
const MAX_TEXT_CHARACTERS: usize = 140;

#[derive(Default)]
pub struct Page(Vec<Row>);

enum Row {
    /// Depth, label and value; no label goes on with the value above.
    Field(usize, String, String),
    Heading(usize, String),
    Table(Vec<String>),
}

impl Page {
    pub fn field(&mut self, depth: usize, label: &str, value: impl Into<String>) {
        self.0.push(Row::Field(depth, format!("{}:", printer::clean(label)), value.into()));
    }

    /// A field where there is a value.
    pub fn some(&mut self, depth: usize, label: &str, value: impl Into<String>) {
        let value = value.into();
        if !value.is_empty() {
            self.field(depth, label, value);
        }
    }

    pub fn heading(&mut self, depth: usize, label: &str) {
        self.0.push(Row::Heading(depth, format!("{}:", printer::clean(label))));
    }

    /// A label and several values, one below the other.
    pub fn values(&mut self, depth: usize, label: &str, values: Vec<String>) {
        let mut values = values.into_iter();
        self.field(depth, label, values.next().unwrap_or_else(|| "<none>".into()));
        self.0.extend(values.map(|value| Row::Field(depth, String::new(), value)));
    }

    /// The pairs of a map as values.
    pub fn map(&mut self, depth: usize, label: &str, map: Option<&Value>, sign: &str) {
        let map = map.and_then(Value::as_object).into_iter().flatten();
        let pair = |(key, value): (&String, &Value)| format!("{key}{sign}{}", cut(&plain(value)));
        self.values(depth, label, map.map(pair).collect());
    }

    /// A heading and the pairs of a map as fields below it; nothing of an empty map.
    pub fn fields(&mut self, depth: usize, label: &str, map: Option<&Value>) {
        let map = map.and_then(Value::as_object).filter(|map| !map.is_empty());
        if let Some(map) = map {
            self.heading(depth, label);
            for (key, value) in map {
                self.field(depth + 1, key, plain(value));
            }
        }
    }

    /// A table below a heading, with a rule of dashes.
    pub fn table(&mut self, label: &str, header: &[&str], rows: Vec<Vec<String>>) {
        self.heading(0, label);
        let dashes = header.iter().map(|cell| "-".repeat(cell.len())).collect();
        let header = header.iter().map(|cell| cell.to_string()).collect();
        let mut all: Vec<Vec<String>> = vec![header, dashes];
        all.extend(rows);
        let lines = printer::aligned(&all);
        self.0.push(Row::Table(lines.into_iter().map(|line| format!("  {line}")).collect()));
    }

    pub fn created(&mut self, object: &Value) {
        self.field(0, "CreationTimestamp", date(text(object, "/metadata/creationTimestamp")));
    }

    /// The conditions of a status.
    pub fn conditions(&mut self, object: &Value, header: &[(&str, &str)]) {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        let row = |condition: &Value| {
            let cell = |(_, path): &(&str, &str)| match text(condition, path) {
                value if path.ends_with("Time") => date(value),
                value => value.to_string(),
            };
            header.iter().map(cell).collect()
        };
        let rows: Vec<Vec<String>> = conditions.into_iter().flatten().map(row).collect();
        if !rows.is_empty() {
            let titles: Vec<&str> = header.iter().map(|(title, _)| *title).collect();
            self.table("Conditions", &titles, rows);
        }
    }

    pub fn lines(self) -> Vec<String> {
        // At the edge all values are in one column; further in, those of neighbours.
        let width_at_edge = self.width(0..self.0.len(), 0);
        let mut lines = Vec::new();
        for (n, row) in self.0.iter().enumerate() {
            match row {
                Row::Table(table) => lines.extend(table.iter().cloned()),
                Row::Heading(depth, label) => lines.push(format!("{}{label}", indent(*depth))),
                Row::Field(depth, label, value) => {
                    let width = match depth {
                        0 => width_at_edge,
                        depth => self.width(self.neighbours(n, *depth), *depth),
                    };
                    // A value of several lines stays below its label.
                    let below = format!("\n{}{:width$}  ", indent(*depth), "");
                    let value = printer::clean(value.trim_end()).replace('\n', &below);
                    let line = format!("{}{label:<width$}  {value}", indent(*depth));
                    lines.push(line.trim_end().to_string());
                }
            }
        }
        lines
    }

    fn width(&self, rows: std::ops::Range<usize>, wanted: usize) -> usize {
        let width = |row: &Row| match row {
            Row::Field(depth, label, _) if *depth == wanted => label.chars().count(),
            _ => 0,
        };
        self.0[rows].iter().map(width).max().unwrap_or_default()
    }

    /// The rows around a field up to where a less deep one stands.
    fn neighbours(&self, n: usize, wanted: usize) -> std::ops::Range<usize> {
        let ends = |row: &Row| match row {
            Row::Field(depth, ..) | Row::Heading(depth, _) => *depth < wanted,
            Row::Table(_) => true,
        };
        let start = self.0[..n].iter().rposition(ends).map_or(0, |at| at + 1);
        let end = self.0[n..].iter().position(ends).map_or(self.0.len(), |at| n + at);
        start..end
    }
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARACTERS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_string(),
    }
}

/// `Wed, 25 Nov 2026 15:51:26 +0000`.
pub fn date(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) => time.strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        Err(_) if text.is_empty() => "<unset>".into(),
        Err(_) => text.into(),
    }
}

/// The elements of a list field.
pub fn items<'a>(object: &'a Value, path: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(path).and_then(Value::as_array).into_iter().flatten()
}

/// A number field.
pub fn number(object: &Value, path: &str) -> i64 {
    object.pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_neighbours_stand_in_a_column() {
        let mut page = Page::default();
        page.field(0, "Name", "x");
        page.map(0, "Annotations", Some(&json!({"a": "1", "b": "2"})), ": ");
        page.heading(0, "Containers");
        page.field(1, "Image", "y");
        page.field(1, "Restart Count", "0");
        page.fields(1, "Limits", Some(&json!({"cpu": "1"})));
        page.field(1, "Port", "1");
        page.table("Conditions", &["Type", "Status"], vec![vec!["Ready".into(), "True".into()]]);
        assert_eq!(
            page.lines(),
            [
                "Name:         x",
                "Annotations:  a: 1",
                "              b: 2",
                "Containers:",
                "  Image:          y",
                "  Restart Count:  0",
                "  Limits:",
                "    cpu:  1",
                "  Port:           1",
                "Conditions:",
                "  Type    Status",
                "  ----    ------",
                "  Ready   True",
            ]
        );
        assert_eq!(date("2026-11-25T15:51:26Z"), "Wed, 25 Nov 2026 15:51:26 +0000");
    }
}
