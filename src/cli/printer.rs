//! Everything that `wasmctl` prints: lines, aligned columns, objects as JSON and YAML, warnings,
//! and errors. Control characters of strangers' text never reach the terminal.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::Value;

use super::yaml;
use crate::api::ApiError;
use crate::api::error::Reason;
use crate::api::jsonpath::Template;

/// How objects are printed.
#[derive(Clone, Debug)]
pub enum Format {
    Table { wide: bool },
    Json,
    Yaml,
    Name,
    JsonPath(Template),
    Columns(CustomColumns),
}

/// `custom-columns=NAME:.metadata.name,…`.
#[derive(Clone, Debug)]
pub struct CustomColumns(Vec<(String, Template)>);

impl CustomColumns {
    fn parse(text: &str) -> anyhow::Result<CustomColumns> {
        let column = |text: &str| {
            let (name, path) =
                text.split_once(':').filter(|(_, path)| !path.is_empty()).ok_or_else(|| {
                    anyhow::anyhow!("{text:?} is no column; write NAME:.path.of.the.field")
                })?;
            Ok((name.to_string(), Template::parse(path)?))
        };
        Ok(CustomColumns(text.split(',').map(column).collect::<anyhow::Result<_>>()?))
    }

    pub fn header(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    pub fn row(&self, value: &Value) -> Vec<String> {
        let cell = |(_, template): &(String, Template)| {
            let found = template.values(value);
            if found.is_empty() { "<none>".to_string() } else { found.join(",") }
        };
        self.0.iter().map(cell).collect()
    }
}

impl Format {
    pub fn parse(text: Option<&str>) -> anyhow::Result<Format> {
        match text {
            None | Some("") => Ok(Format::Table { wide: false }),
            Some("wide") => Ok(Format::Table { wide: true }),
            Some("json") => Ok(Format::Json),
            Some("yaml") => Ok(Format::Yaml),
            Some("name") => Ok(Format::Name),
            Some(other) => match other.split_once('=') {
                Some(("jsonpath", template)) => Ok(Format::JsonPath(Template::parse(template)?)),
                Some(("custom-columns", columns)) => {
                    Ok(Format::Columns(CustomColumns::parse(columns)?))
                }
                _ => anyhow::bail!(
                    "unknown output format {other:?}; there are wide, json, yaml, name, \
                     jsonpath=TEMPLATE and custom-columns=NAME:PATH,…"
                ),
            },
        }
    }
}

/// One line on stdout.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", clean(text))
}

/// Text as it is on stdout (logs, templates).
pub fn raw(text: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text)?;
    out.flush()
}

/// Bytes for standard error, as they are.
pub fn raw_note(text: &[u8]) -> io::Result<()> {
    let mut out = io::stderr().lock();
    out.write_all(text)?;
    out.flush()
}

/// A remark on stderr.
pub fn note(text: &str) {
    eprintln!("{}", clean(text));
}

/// The remark that a list is empty, in kubectl's words.
pub fn nothing_found(namespace: Option<&str>) {
    match namespace {
        Some(namespace) => note(&format!("No resources found in {namespace} namespace.")),
        None => note("No resources found"),
    }
}

/// The `Warning` headers of an answer, each a line on stderr.
pub fn warnings(headers: &http::HeaderMap) {
    for header in headers.get_all("warning") {
        let text = header.to_str().unwrap_or_default();
        // 299 - "text with \" escaped"
        let quoted = text.split_once('"').map_or(text, |(_, rest)| rest.trim_end_matches('"'));
        note(&format!("Warning: {}", quoted.replace("\\\"", "\"")));
    }
}

/// An object in a format that needs no table.
pub fn object(value: &Value, format: &Format, title: &str) -> anyhow::Result<()> {
    match format {
        Format::Json => line(&json_text(&without_owners(value))?)?,
        Format::Yaml => raw(yaml::write(&without_owners(value)).as_bytes())?,
        Format::JsonPath(template) => raw(template.render(value)?.as_bytes())?,
        Format::Columns(custom) => columns(&[custom.header(), custom.row(value)])?,
        Format::Name | Format::Table { .. } => line(title)?,
    }
    Ok(())
}

/// Without `metadata.managedFields`, which is long and for programs; as kubectl shows objects.
fn without_owners(value: &Value) -> Value {
    fn remove(value: &mut Value) {
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.remove("managedFields");
        }
    }
    let mut value = value.clone();
    remove(&mut value);
    if let Some(items) = value.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(remove);
    }
    value
}

/// JSON indented as kubectl does it.
fn json_text(value: &Value) -> anyhow::Result<String> {
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, formatter))?;
    Ok(String::from_utf8(out)?)
}

/// Rows with columns as wide as their widest cell, three spaces apart and at least
/// [`MIN_COLUMN`] with them, as kubectl prints them.
pub fn columns(rows: &[Vec<String>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for row in aligned(rows) {
        writeln!(out, "{row}")?;
    }
    out.flush()
}

const MIN_COLUMN: usize = 6;

pub fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |n: usize| {
        rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let pad = |(n, cell): (usize, &String)| {
        let width = (widths[n] + 3).max(MIN_COLUMN);
        format!("{cell}{}", " ".repeat(width.saturating_sub(cell.chars().count())))
    };
    rows.iter()
        .map(|row| row.iter().enumerate().map(pad).collect::<String>())
        .map(|row| row.trim_end().to_string())
        .collect()
}

/// Control characters shown as `\u{…}`: text of others must not drive the terminal.
pub fn clean(text: &str) -> String {
    let harmless = |c: char| !c.is_control() || c == '\n' || c == '\t';
    if text.chars().all(harmless) {
        return text.to_string();
    }
    text.chars()
        .map(|c| if harmless(c) { c.to_string() } else { c.escape_unicode().to_string() })
        .collect()
}

/// An error with its causes, for a person.
pub fn error_text(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = match cause.downcast_ref::<ApiError>() {
            Some(api) => api_error_text(api),
            None => transport_text(&cause.to_string()),
        };
        // A cause is often in its parent's text already.
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    clean(&text)
}

fn api_error_text(error: &ApiError) -> String {
    match error.reason {
        Reason::Unauthorized => {
            "the server does not accept these credentials; use the kubeconfig that it wrote".into()
        }
        Reason::NotFound | Reason::Conflict | Reason::AlreadyExists | Reason::Forbidden => {
            format!("{} ({:?})", error.message, error.reason)
        }
        _ => transport_text(&error.message),
    }
}

/// An error of the transport for a person; any other text as it is.
fn transport_text(text: &str) -> String {
    match text.split_once(UNREACHABLE) {
        Some((before, why)) => format!("{before}{}", unreachable_text(why)),
        None => text.to_string(),
    }
}

/// How errors of the transport begin; see `client::remote`.
const UNREACHABLE: &str = "cannot reach the API server: ";

/// Whether the request failed on its way.
pub fn is_unreachable(error: &anyhow::Error) -> bool {
    let api = error.downcast_ref::<ApiError>();
    api.is_some_and(|api| api.message.starts_with(UNREACHABLE))
}

/// The last cause is what helps; the layers that it went through are not.
fn unreachable_text(why: &str) -> String {
    const LAYERS: [&str; 3] = ["ServiceError: ", "client error (Connect): ", "tcp connect error: "];
    let mut why = why;
    while let Some(rest) = LAYERS.iter().find_map(|layer| why.strip_prefix(layer)) {
        why = rest;
    }
    let hint = if why.contains("UnknownIssuer") || why.contains("BadSignature") {
        "; the kubeconfig has the certificate authority of another cluster"
    } else if why.contains("invalid peer certificate: Expired") {
        "; the server's certificate has expired"
    } else if why.contains("CertificateExpired") {
        "; the kubeconfig's client certificate has expired"
    } else if why.contains("refused") {
        "; is wasmfleet running?"
    } else {
        ""
    };
    format!("{UNREACHABLE}{why}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_do_not_pass() {
        let rows =
            [vec!["NAME".into(), "AGE".into()], vec!["a-long-name".into(), "1\u{1b}[2J".into()]];
        assert_eq!(aligned(&rows), ["NAME          AGE", "a-long-name   1\\u{1b}[2J"]);
        let short = [vec!["0".into(), "29s".into()]];
        assert_eq!(aligned(&short), ["0     29s"]);
    }

    #[test]
    fn errors_are_one_line_with_their_place() {
        let invalid = ApiError::new(422, Reason::Invalid, "ConfigMap \"B\" is invalid");
        let error = anyhow::Error::from(invalid).context("m/b.yaml");
        assert_eq!(error_text(&error), "m/b.yaml: ConfigMap \"B\" is invalid");
        let refused = ApiError::unavailable(
            "cannot reach the API server: ServiceError: client error (Connect): tcp connect \
             error: Connection refused (os error 111)",
        );
        let error = anyhow::Error::from(refused).context("https://127.0.0.1:1");
        assert!(is_unreachable(&error));
        assert_eq!(
            error_text(&error),
            "https://127.0.0.1:1: cannot reach the API server: Connection refused (os error \
             111); is wasmfleet running?"
        );
    }
}
