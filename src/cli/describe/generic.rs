//! Objects of kinds without a form of their own: every field, titled by its name.

use serde_json::{Map, Value};

use super::super::printer;

/// Longer texts are cut.
const MAX_TEXT_CHARACTERS: usize = 16 << 10;
/// Fields that say nothing to a person, or are shown at the top.
const HIDDEN_METADATA: &[&str] = &[
    "name",
    "namespace",
    "labels",
    "annotations",
    "managedFields",
    "resourceVersion",
    "uid",
    "creationTimestamp",
];
/// Maps whose keys are the user's, and not names of fields.
const VERBATIM: &[&str] = &[
    "labels",
    "annotations",
    "matchLabels",
    "nodeSelector",
    "data",
    "binaryData",
    "stringData",
    "limits",
    "requests",
    "capacity",
    "allocatable",
    "hard",
    "used",
];

/// The fields of the object below its head.
pub fn lines(object: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
    let mut metadata =
        object.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    metadata.retain(|name, _| !HIDDEN_METADATA.contains(&name.as_str()));
    render("metadata", &Value::Object(metadata), 0, &mut lines);
    for (name, value) in object.as_object().into_iter().flatten() {
        match name.as_str() {
            "kind" | "apiVersion" | "metadata" => {}
            "data" if kind == "Secret" => lines.extend(sizes(value)),
            name => render(name, value, 0, &mut lines),
        }
    }
    lines
}

/// A Secret's values are told by their sizes only.
fn sizes(data: &Value) -> Vec<String> {
    let mut lines = vec!["Data:".to_string()];
    for (key, value) in data.as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        let padding = text.bytes().rev().take_while(|byte| *byte == b'=').count();
        let bytes = (text.len() / 4 * 3).saturating_sub(padding);
        lines.push(format!("  {}:  {bytes} bytes", printer::clean(key)));
    }
    lines
}

/// `minReadySeconds` → `Min Ready Seconds`.
fn title(name: &str) -> String {
    let mut out = String::new();
    let mut previous_lower = false;
    for (n, c) in name.chars().enumerate() {
        if n == 0 {
            out.extend(c.to_uppercase());
        } else {
            if c.is_uppercase() && previous_lower {
                out.push(' ');
            }
            out.push(c);
        }
        previous_lower = c.is_lowercase() || c.is_ascii_digit();
    }
    out
}

fn render(name: &str, value: &Value, depth: usize, lines: &mut Vec<String>) {
    render_titled(name, &title(name), value, depth, lines);
}

fn render_titled(name: &str, title: &str, value: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Null => {}
        Value::Object(map) if map.is_empty() => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Object(map) => {
            lines.push(format!("{indent}{title}:"));
            fields(name, map, depth + 1, lines);
        }
        Value::Array(items) => {
            lines.push(format!("{indent}{title}:"));
            for item in items {
                item_lines(item, depth + 1, lines);
            }
        }
        scalar => {
            let line = format!("{indent}{title}:  {}", scalar_text(scalar, depth));
            // Text of several lines begins below its title.
            lines.push(line.replacen(":  \n", ":\n", 1));
        }
    }
}

fn fields(of: &str, map: &Map<String, Value>, depth: usize, lines: &mut Vec<String>) {
    let verbatim = VERBATIM.contains(&of);
    for (name, value) in map {
        match verbatim {
            true => render_titled("", &printer::clean(name), value, depth, lines),
            false => render(name, value, depth, lines),
        }
    }
}

/// One element of a list: `- ` before its first line.
fn item_lines(item: &Value, depth: usize, lines: &mut Vec<String>) {
    let start = lines.len();
    match item {
        Value::Object(map) => fields("", map, depth + 1, lines),
        scalar => lines.push(format!("{}{}", "  ".repeat(depth + 1), scalar_text(scalar, depth))),
    }
    if let Some(first) = lines.get_mut(start) {
        let at = depth * 2;
        first.replace_range(at..at + 1, "-");
    }
}

fn scalar_text(value: &Value, depth: usize) -> String {
    let text = match value {
        Value::String(text) => cut(text.trim_end()),
        other => other.to_string(),
    };
    let clean = printer::clean(&text);
    if clean.contains('\n') {
        let indent = format!("\n{}", "  ".repeat(depth + 1));
        return format!("{indent}{}", clean.replace('\n', &indent));
    }
    clean
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_TEXT_CHARACTERS) {
        Some((at, _)) => format!("{}… ({} characters)", &text[..at], text.chars().count()),
        None => text.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn nested_fields_read_like_kubectl() {
        let mut lines = Vec::new();
        let spec =
            json!({"minReadySeconds": 3, "containers": [{"image": "x", "name": "c"}], "e": {}});
        render("spec", &spec, 0, &mut lines);
        assert_eq!(
            lines,
            [
                "Spec:",
                "  Containers:",
                "    - Image:  x",
                "      Name:  c",
                "  Min Ready Seconds:  3"
            ]
        );
    }

    #[test]
    fn keys_that_are_the_users_stay_as_they_are() {
        let object = json!({"kind": "Secret", "metadata": {"name": "x", "uid": "u"},
            "data": {"tls.crt": "YWI="},
            "spec": {"selector": {"matchLabels": {"my-app.io/Name": "x"}}}});
        assert_eq!(
            lines(&object),
            [
                "Data:",
                "  tls.crt:  2 bytes",
                "Spec:",
                "  Selector:",
                "    Match Labels:",
                "      my-app.io/Name:  x"
            ]
        );
    }
}
