//! Objects as YAML, written as kubectl writes it: text that any reader of YAML 1.1 or 1.2 could
//! take for a number, a boolean or a time is quoted, so that it comes back as the same text.

use serde_json::{Map, Value};

/// The document, with a newline at its end.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => fields(map, 0, &mut out),
        Value::Array(items) if !items.is_empty() => elements(items, 0, &mut out),
        other => {
            scalar(other, 0, &mut out);
            out.push('\n');
        }
    }
    out
}

/// Fields at `indent`; the first one where the cursor stands.
fn fields(map: &Map<String, Value>, indent: usize, out: &mut String) {
    for (n, (key, value)) in map.iter().enumerate() {
        if n > 0 {
            out.push_str(&" ".repeat(indent));
        }
        text(key, out);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                out.push_str(&" ".repeat(indent + 2));
                fields(inner, indent + 2, out);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                elements(items, indent, out);
            }
            other => {
                out.push(' ');
                scalar(other, indent, out);
                out.push('\n');
            }
        }
    }
}

fn elements(items: &[Value], indent: usize, out: &mut String) {
    for (n, item) in items.iter().enumerate() {
        if n > 0 {
            out.push_str(&" ".repeat(indent));
        }
        out.push_str("- ");
        match item {
            Value::Object(map) if !map.is_empty() => fields(map, indent + 2, out),
            Value::Array(inner) if !inner.is_empty() => elements(inner, indent + 2, out),
            other => {
                scalar(other, indent, out);
                out.push('\n');
            }
        }
    }
}

fn scalar(value: &Value, indent: usize, out: &mut String) {
    match value {
        Value::String(value) if value.contains('\n') && fits_block(value) => {
            block(value, indent + 2, out);
        }
        Value::String(value) => text(value, out),
        // Numbers, booleans, null, and what is empty.
        other => out.push_str(&other.to_string()),
    }
}

/// Text on one line.
fn text(value: &str, out: &mut String) {
    let special = value.chars().any(|c| !is_printable(c));
    if special || is_ambiguous(value) {
        quoted(value, out);
    } else if is_plain(value) {
        out.push_str(value);
    } else {
        out.push('\'');
        out.push_str(&value.replace('\'', "''"));
        out.push('\'');
    }
}

fn is_printable(c: char) -> bool {
    !c.is_control() && !matches!(c, '\u{feff}' | '\u{2028}' | '\u{2029}')
}

fn quoted(value: &str, out: &mut String) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if is_printable(c) => out.push(c),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
}

/// Whether the lines can stand as they are, below a `|`.
fn fits_block(value: &str) -> bool {
    !value.starts_with([' ', '\n'])
        && !value.contains(" \n")
        && !value.ends_with(' ')
        && value.chars().all(|c| c == '\n' || is_printable(c))
}

fn block(value: &str, indent: usize, out: &mut String) {
    out.push_str(match value {
        value if value.ends_with("\n\n") => "|+",
        value if value.ends_with('\n') => "|",
        _ => "|-",
    });
    let lines = value.strip_suffix('\n').unwrap_or(value);
    for line in lines.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.push_str(&" ".repeat(indent));
            out.push_str(line);
        }
    }
}

/// Whether text needs no quotes in a block context.
fn is_plain(value: &str) -> bool {
    let reserved = value.starts_with([
        '#', ',', '[', ']', '{', '}', '&', '*', '!', '|', '>', '\'', '"', '%', '@', '`',
    ]);
    let marker = ["-", "?", ":"].contains(&value)
        || ["- ", "? ", "---", "..."].iter().any(|start| value.starts_with(start));
    let structure = value.contains(": ") || value.ends_with(':') || value.contains(" #");
    !(reserved || marker || structure || value.starts_with(' ') || value.ends_with(' '))
}

/// Whether some reader takes the plain text for something else than text.
fn is_ambiguous(value: &str) -> bool {
    const WORDS: [&str; 17] = [
        "", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", "-.inf",
        "+.inf", ".nan", "=", "<<",
    ];
    let lower = value.to_lowercase();
    WORDS.contains(&lower.as_str()) || is_number(&lower) || is_time(value)
}

/// Integers of all bases, floats, and numbers to the base of 60, with `_` between digits.
fn is_number(lower: &str) -> bool {
    let digits = lower.strip_prefix(['+', '-']).unwrap_or(lower).replace('_', "");
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    let based = ["0x", "0o", "0b"].iter().find_map(|prefix| digits.strip_prefix(prefix));
    let sixty = || {
        let parts: Vec<&str> = digits.split(':').collect();
        let number = |part: &&str| part.parse::<f64>().is_ok();
        parts.len() > 1 && parts.iter().all(number)
    };
    based.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit()))
        || digits.parse::<f64>().is_ok()
        || sixty()
}

/// `2026-01-31`, `2026-01-31T12:00:00Z` and the like.
fn is_time(value: &str) -> bool {
    let bytes = value.as_bytes();
    bytes.len() >= 8
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && bytes[4..].iter().all(|b| b.is_ascii_digit() || b"TtZz:.+- ".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn text_is_quoted_as_kubectl_quotes_it() {
        for (value, written) in [
            ("yes", r#""yes""#),
            ("n", r#""n""#),
            ("off", r#""off""#),
            ("", r#""""#),
            ("~", r#""~""#),
            ("0440", r#""0440""#),
            ("1e3", r#""1e3""#),
            ("1_000", r#""1_000""#),
            ("0x1f", r#""0x1f""#),
            ("+1", r#""+1""#),
            (".5", r#"".5""#),
            ("1.", r#""1.""#),
            ("12:30:45", r#""12:30:45""#),
            ("2026-01-01", r#""2026-01-01""#),
            ("2026-11-25T15:51:26Z", r#""2026-11-25T15:51:26Z""#),
            ("ä\ttab", r#""ä\ttab""#),
            (" lead", "' lead'"),
            ("trail ", "'trail '"),
            ("a: b", "'a: b'"),
            ("x #y", "'x #y'"),
            ("!x", "'!x'"),
            ("-", "'-'"),
            ("it's: ", "'it''s: '"),
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("hello:v1", "hello:v1"),
            ("25%", "25%"),
            ("64Mi", "64Mi"),
            ("-x", "-x"),
            ("2026-x", "2026-x"),
        ] {
            assert_eq!(write(&json!(value)), format!("{written}\n"));
        }
    }

    #[test]
    fn maps_lists_and_blocks() {
        let value = json!({
            "y": {}, "empty": [], "list": [{"a": 1, "b": [true, null]}, [["x"]], "m\nn\n"],
            "text": "one\n\n  two", "map": {"k": {"v": 1.5}}, "keep": "x\n\n", "odd": " a\nb"});
        let written = "empty: []\nkeep: |+\n  x\n\nlist:\n- a: 1\n  b:\n  - true\n  - null\n\
                       - - - x\n- |\n  m\n  n\nmap:\n  k:\n    v: 1.5\nodd: \" a\\nb\"\n\
                       text: |-\n  one\n\n    two\n\"y\": {}\n";
        assert_eq!(write(&value), written);
        assert_eq!(serde_yaml::from_str::<Value>(written).unwrap(), value);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(value in "[a-z0-9 :#'\"\\\\\n\t.,_+~|>{}-]{0,12}|\\PC{0,8}") {
            let value = json!({value.clone(): [value]});
            prop_assert_eq!(serde_yaml::from_str::<Value>(&write(&value)).unwrap(), value);
        }
    }
}
