//! Everything that `wasmctl` prints: lines, aligned columns, objects as JSON and YAML, warnings,
//! and errors. Control characters of strangers' text never reach the terminal.

use std::io::{self, Write};

use serde_json::Value;

use super::jsonpath::Template;
use crate::api::ApiError;
use crate::api::error::Reason;

/// How objects are printed.
#[derive(Clone, Debug)]
pub enum Format {
    Table { wide: bool },
    Json,
    Yaml,
    Name,
    JsonPath(Template),
}

impl Format {
    pub fn parse(text: Option<&str>) -> anyhow::Result<Format> {
        match text {
            None | Some("") => Ok(Format::Table { wide: false }),
            Some("wide") => Ok(Format::Table { wide: true }),
            Some("json") => Ok(Format::Json),
            Some("yaml") => Ok(Format::Yaml),
            Some("name") => Ok(Format::Name),
            Some(other) => match other.strip_prefix("jsonpath=") {
                Some(template) => Ok(Format::JsonPath(Template::parse(template)?)),
                None => anyhow::bail!(
                    "unknown output format {other:?}; there are wide, json, yaml, name and \
                     jsonpath=TEMPLATE"
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

/// A remark on stderr.
pub fn note(text: &str) {
    eprintln!("{}", clean(text));
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
        Format::Json => line(&serde_json::to_string_pretty(value)?)?,
        Format::Yaml => raw(serde_yaml::to_string(value)?.as_bytes())?,
        Format::JsonPath(template) => raw(template.render(value)?.as_bytes())?,
        Format::Name | Format::Table { .. } => line(title)?,
    }
    Ok(())
}

/// Rows with columns as wide as their widest cell, three spaces apart, as kubectl prints them.
pub fn columns(rows: &[Vec<String>]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for row in aligned(rows) {
        writeln!(out, "{row}")?;
    }
    out.flush()
}

pub fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| clean(cell)).collect()).collect();
    let count = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |n: usize| {
        rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let pad = |(n, cell): (usize, &String)| {
        let missing = widths[n].saturating_sub(cell.chars().count());
        format!("{cell}{}", " ".repeat(missing))
    };
    rows.iter()
        .map(|row| row.iter().enumerate().map(pad).collect::<Vec<_>>().join("   "))
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
    if let Some(api) = error.downcast_ref::<ApiError>() {
        return clean(&api_error_text(api));
    }
    let mut text = String::new();
    for cause in error.chain() {
        let cause = match cause.downcast_ref::<ApiError>() {
            Some(api) => api_error_text(api),
            None => cause.to_string(),
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
        _ => error.message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_control_characters_do_not_pass() {
        let rows =
            [vec!["NAME".into(), "AGE".into()], vec!["a-long-name".into(), "1\u{1b}[2J".into()]];
        assert_eq!(aligned(&rows), ["NAME          AGE", "a-long-name   1\\u{1b}[2J"]);
    }
}
