//! `wasmctl describe`: an object for a person, and its events. One form for every kind: kubectl's
//! generic one, with titles made of field names.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::args::SelectArgs;
use super::discovery::text;
use super::printer;
use super::selection::{self, Selected};
use super::session::Session;
use crate::api::ApiError;
use crate::client::remote::Query;

/// Longer texts (the last applied file, certificates) are cut.
const MAX_TEXT_CHARACTERS: usize = 300;
/// Fields that say nothing to a person, or are shown at the top.
const HIDDEN_METADATA: &[&str] =
    &["name", "namespace", "labels", "annotations", "managedFields", "resourceVersion", "uid"];
const HIDDEN_ANNOTATION: &str = super::three_way::LAST_APPLIED;

pub async fn run(session: &Session, args: &SelectArgs) -> anyhow::Result<()> {
    let mut first = true;
    let mut failed = Vec::new();
    for one in selection::resolve(session, &args.what).await? {
        let namespace = args.namespace(session);
        let found = match fetch(session, &one, args).await {
            Ok(found) => found,
            Err(error) => {
                failed.push(error.into());
                continue;
            }
        };
        if found.is_empty() {
            printer::note(&format!("No {} found.", one.resource.gvr.resource));
        }
        for object in found {
            if !std::mem::take(&mut first) {
                printer::line("\n")?;
            }
            let mut lines = describe(&one, &object);
            lines.extend(events(session, &object, namespace).await?);
            printer::raw((lines.join("\n") + "\n").as_bytes())?;
        }
    }
    super::create::report(failed)
}

async fn fetch(
    session: &Session,
    one: &Selected,
    args: &SelectArgs,
) -> Result<Vec<Value>, ApiError> {
    let path = one.path(args.namespace(session));
    if one.name.is_some() {
        return Ok(vec![session.get_json(&path).await?]);
    }
    let mut list = session.get_json(&args.query().on(&path)).await?;
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

fn describe(one: &Selected, object: &Value) -> Vec<String> {
    let mut lines = vec![field("Name", text(object, "/metadata/name"))];
    if one.resource.gvr.namespaced {
        lines.push(field("Namespace", text(object, "/metadata/namespace")));
    }
    let empty = Map::new();
    let map = |path: &str| object.pointer(path).and_then(Value::as_object).unwrap_or(&empty);
    lines.extend(pairs("Labels", map("/metadata/labels"), '='));
    lines.extend(pairs("Annotations", map("/metadata/annotations"), ':'));
    lines.push(field("API Version", &one.resource.gvr.api_version()));
    lines.push(field("Kind", &one.resource.kind));
    let secret = one.resource.kind == "Secret";
    let mut metadata = map("/metadata").clone();
    metadata.retain(|name, _| !HIDDEN_METADATA.contains(&name.as_str()));
    render("Metadata", &Value::Object(metadata), 0, &mut lines);
    let fields = object.as_object().into_iter().flatten();
    for (name, value) in
        fields.filter(|(n, _)| !matches!(n.as_str(), "kind" | "apiVersion" | "metadata"))
    {
        if secret && name == "data" {
            lines.extend(sizes(value));
        } else {
            render(&title(name), value, 0, &mut lines);
        }
    }
    lines
}

fn field(name: &str, value: &str) -> String {
    format!("{:<14}{}", format!("{name}:"), printer::clean(value))
}

fn pairs(name: &str, map: &Map<String, Value>, sign: char) -> Vec<String> {
    let space = if sign == ':' { " " } else { "" };
    let shown = map.iter().filter(|(key, _)| *key != HIDDEN_ANNOTATION);
    let texts: Vec<String> = shown
        .map(|(key, value)| {
            format!("{key}{sign}{space}{}", cut(value.as_str().unwrap_or_default()))
        })
        .collect();
    match texts.split_first() {
        None => vec![field(name, "<none>")],
        Some((first, rest)) => {
            let mut lines = vec![field(name, first)];
            lines.extend(rest.iter().map(|text| field_rest(text)));
            lines
        }
    }
}

fn field_rest(text: &str) -> String {
    format!("{:<14}{}", "", printer::clean(text))
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
    let indent = "  ".repeat(depth);
    match value {
        Value::Null => {}
        Value::Object(map) if map.is_empty() => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Object(map) => {
            lines.push(format!("{indent}{name}:"));
            for (field, value) in map {
                render(&title(field), value, depth + 1, lines);
            }
        }
        Value::Array(items) => {
            lines.push(format!("{indent}{name}:"));
            for item in items {
                item_lines(item, depth + 1, lines);
            }
        }
        scalar => lines.push(format!("{indent}{name}:  {}", scalar_text(scalar, depth))),
    }
}

/// One element of a list: `- ` before its first line.
fn item_lines(item: &Value, depth: usize, lines: &mut Vec<String>) {
    let start = lines.len();
    match item {
        Value::Object(map) => {
            for (field, value) in map {
                render(&title(field), value, depth + 1, lines);
            }
        }
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

/// The object's events as a table.
async fn events(
    session: &Session,
    object: &Value,
    namespace: Option<&str>,
) -> anyhow::Result<Vec<String>> {
    let mut query = Query::default();
    let fields = format!(
        "involvedObject.kind={},involvedObject.name={},involvedObject.uid={}",
        text(object, "/kind"),
        text(object, "/metadata/name"),
        text(object, "/metadata/uid")
    );
    query.add("fieldSelector", &fields);
    let place = match text(object, "/metadata/namespace") {
        "" => namespace.unwrap_or("default"),
        own => own,
    };
    let path = query.on(&format!("/api/v1/namespaces/{place}/events"));
    let list = session.get_json(&path).await?;
    let mut items: Vec<&Value> =
        list.get("items").and_then(Value::as_array).into_iter().flatten().collect();
    if items.is_empty() {
        return Ok(vec![field("Events", "<none>")]);
    }
    items.sort_by_key(|event| text(event, "/lastTimestamp").to_string());
    let mut rows =
        vec![["  TYPE", "REASON", "AGE", "FROM", "MESSAGE"].map(str::to_string).to_vec()];
    rows.extend(items.into_iter().map(event_row));
    let mut lines = vec!["Events:".to_string()];
    lines.extend(printer::aligned(&rows));
    Ok(lines)
}

fn event_row(event: &Value) -> Vec<String> {
    let age = |path: &str| match text(event, path).parse::<Timestamp>() {
        Ok(time) => crate::api::duration::human(Timestamp::now().duration_since(time).as_secs()),
        Err(_) => "<unknown>".into(),
    };
    let count = event.get("count").and_then(Value::as_i64).unwrap_or(1);
    let mut when = age("/lastTimestamp");
    if count > 1 {
        when = format!("{when} (x{count} over {})", age("/firstTimestamp"));
    }
    let from = match text(event, "/source/component") {
        "" => text(event, "/reportingComponent"),
        component => component,
    };
    vec![
        format!("  {}", text(event, "/type")),
        text(event, "/reason").into(),
        when,
        from.into(),
        text(event, "/message").trim_end().replace('\n', " "),
    ]
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
        render("Spec", &spec, 0, &mut lines);
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
}
