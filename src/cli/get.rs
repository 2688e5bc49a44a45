//! `wasmctl get`: tables as the server renders them, or objects as JSON, YAML, names, templates.

use anyhow::bail;
use bytes::BytesMut;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::args::GetArgs;
use super::printer::{self, Format};
use super::selection::{self, Selected, title};
use super::session::Session;
use crate::api::ApiError;
use crate::client::remote::Query;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Objects are listed in pages of this size.
const PAGE_ITEMS: &str = "500";
/// The longest event of a watch.
const MAX_EVENT_BYTES: usize = 8 << 20;

pub async fn run(session: &Session, args: &GetArgs) -> anyhow::Result<()> {
    let format = Format::parse(args.output.as_deref())?;
    let selected = selection::resolve(session, &args.select.what).await?;
    if args.watch && selected.len() != 1 {
        bail!("--watch follows one type (or one object) at a time");
    }
    match &format {
        Format::Table { wide } => tables(session, args, &selected, *wide).await,
        format => objects(session, args, &selected, format).await,
    }
}

/// The list URL of a selection: one object is a list with a field selector when it is watched.
fn list_path(session: &Session, args: &GetArgs, one: &Selected, query: Query) -> String {
    let mut query = query;
    let mut fields = args.field_selector.clone().unwrap_or_default();
    if let Some(name) = &one.name {
        fields = format!("metadata.name={name}");
    }
    query.add("fieldSelector", &fields);
    let namespace = args.select.namespace(session);
    query.on(&one.resource.gvr.path(namespace, None, None))
}

async fn tables(
    session: &Session,
    args: &GetArgs,
    selected: &[Selected],
    wide: bool,
) -> anyhow::Result<()> {
    let several = selected.iter().any(|s| s.resource.kind != selected[0].resource.kind);
    let mut printed = 0;
    let mut failed = Vec::new();
    for group in grouped(selected) {
        let mut table = Table::default();
        for one in group {
            match fetch_table(session, args, one).await {
                Ok(answers) => answers.iter().for_each(|answer| table.add(answer)),
                Err(error) if error.is_not_found() && args.ignore_not_found => {}
                Err(error) => failed.push(error.into()),
            }
        }
        if table.rows.is_empty() {
            continue;
        }
        if printed > 0 {
            printer::line("")?;
        }
        printed += table.rows.len();
        let kind = several.then_some(&group[0].resource);
        printer::columns(&table.lines(args, wide, kind.map(|r| title(r, ""))))?;
        if args.watch {
            return watch_table(session, args, &group[0], wide, &table).await;
        }
    }
    if printed == 0 && failed.is_empty() && !args.ignore_not_found {
        let place = match args.select.namespace(session) {
            Some(namespace) if selected.iter().any(|s| s.resource.gvr.namespaced) => {
                format!(" in {namespace} namespace")
            }
            _ => String::new(),
        };
        printer::note(&format!("No resources found{place}."));
        if args.watch {
            return watch_table(session, args, &selected[0], wide, &Table::default()).await;
        }
    }
    super::create::report(failed)
}

/// Runs of selections of the same kind, which share a table.
fn grouped(selected: &[Selected]) -> Vec<&[Selected]> {
    selected.chunk_by(|a, b| a.resource.gvr == b.resource.gvr).collect()
}

/// One Table, or the pages of a list.
async fn fetch_table(
    session: &Session,
    args: &GetArgs,
    one: &Selected,
) -> Result<Vec<Value>, ApiError> {
    if one.name.is_some() && !args.watch {
        let namespace = args.select.namespace(session);
        return Ok(vec![table_json(session, &one.path(namespace)).await?]);
    }
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let mut query = args.select.query();
        query.add("limit", PAGE_ITEMS);
        query.add("continue", &token);
        let page = table_json(session, &list_path(session, args, one, query)).await?;
        token = text(&page, "/metadata/continue");
        pages.push(page);
        if token.is_empty() {
            return Ok(pages);
        }
    }
}

async fn table_json(session: &Session, path: &str) -> Result<Value, ApiError> {
    let headers = [("accept", TABLE)];
    let answer = session.remote.send(Method::GET, path, &headers, "").await?;
    printer::warnings(&answer.headers);
    if !answer.status.is_success() {
        return Err(ApiError::from_response(answer.status.as_u16(), &answer.body));
    }
    serde_json::from_slice(&answer.body)
        .map_err(|e| ApiError::internal(format!("the table cannot be read: {e}")))
}

fn text(value: &Value, path: &str) -> String {
    super::discovery::text(value, path).to_string()
}

/// Rows gathered from Tables of one kind.
#[derive(Default)]
struct Table {
    columns: Vec<(String, i64)>,
    rows: Vec<(Vec<String>, Value)>,
    resource_version: String,
}

impl Table {
    fn add(&mut self, answer: &Value) {
        let columns = answer.get("columnDefinitions").and_then(Value::as_array);
        if let Some(columns) = columns.filter(|_| self.columns.is_empty()) {
            let column = |c: &Value| {
                (text(c, "/name"), c.get("priority").and_then(Value::as_i64).unwrap_or_default())
            };
            self.columns = columns.iter().map(column).collect();
        }
        for row in answer.get("rows").and_then(Value::as_array).into_iter().flatten() {
            let cells = row.get("cells").and_then(Value::as_array);
            let cells = cells.into_iter().flatten().map(cell).collect();
            self.rows.push((cells, row.get("object").cloned().unwrap_or_default()));
        }
        self.resource_version = text(answer, "/metadata/resourceVersion");
    }

    /// The header and the rows as they are shown; `kind` is put before names.
    fn lines(&self, args: &GetArgs, wide: bool, kind: Option<String>) -> Vec<Vec<String>> {
        let mut lines = Vec::new();
        if !args.no_headers {
            lines.push(self.header(args, wide));
        }
        lines.extend(self.rows.iter().map(|row| self.line(row, args, wide, kind.as_deref())));
        lines
    }

    fn header(&self, args: &GetArgs, wide: bool) -> Vec<String> {
        let shown = self.columns.iter().filter(|(_, priority)| wide || *priority == 0);
        let mut header: Vec<String> = shown.map(|(name, _)| name.to_uppercase()).collect();
        if args.select.all_namespaces {
            header.insert(0, "NAMESPACE".into());
        }
        if args.show_labels {
            header.push("LABELS".into());
        }
        header
    }

    fn line(
        &self,
        (cells, object): &(Vec<String>, Value),
        args: &GetArgs,
        wide: bool,
        kind: Option<&str>,
    ) -> Vec<String> {
        let shown = cells.iter().zip(&self.columns).filter(|(_, (_, p))| wide || *p == 0);
        let mut line: Vec<String> = shown.map(|(cell, _)| cell.clone()).collect();
        if let (Some(kind), Some(name)) = (kind, line.first_mut()) {
            *name = format!("{kind}{name}");
        }
        if args.select.all_namespaces {
            line.insert(0, text(object, "/metadata/namespace"));
        }
        if args.show_labels {
            let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
            let pairs = labels.into_iter().flatten();
            let pairs: Vec<String> =
                pairs.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
            line.push(if pairs.is_empty() { "<none>".into() } else { pairs.join(",") });
        }
        line
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "<none>".into(),
        Value::String(text) => text.clone(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

/// Prints a row for each change. The header stands once; columns keep the widths of the first list
/// where they can.
async fn watch_table(
    session: &Session,
    args: &GetArgs,
    one: &Selected,
    wide: bool,
    listed: &Table,
) -> anyhow::Result<()> {
    let mut query = args.select.query();
    query.add("watch", "true");
    query.add("resourceVersion", &listed.resource_version);
    let path = list_path(session, args, one, query);
    let mut shape = Table { columns: listed.columns.clone(), ..Table::default() };
    let mut widths = listed.lines(args, wide, None);
    let mut events = Events::open(session, &path, TABLE).await?;
    while let Some((_, object)) = events.next().await? {
        let first = shape.columns.is_empty();
        shape.add(&object);
        for row in std::mem::take(&mut shape.rows) {
            if first && !args.no_headers && widths.is_empty() {
                widths.push(shape.header(args, wide));
                printer::columns(&widths)?;
            }
            widths.truncate(200);
            widths.push(shape.line(&row, args, wide, None));
            if let Some(line) = printer::aligned(&widths).last() {
                printer::line(line)?;
            }
        }
    }
    Ok(())
}

/// The events of a watch as JSON.
pub struct Events {
    body: kube::client::Body,
    buffer: BytesMut,
}

impl Events {
    pub async fn open(session: &Session, path: &str, accept: &str) -> Result<Events, ApiError> {
        let body = session.remote.stream_as(path, accept).await?;
        Ok(Events { body, buffer: BytesMut::new() })
    }

    /// The type and the object of the next event; `None` when the watch ended.
    pub async fn next(&mut self) -> anyhow::Result<Option<(String, Value)>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end + 1);
                let mut event: Value = serde_json::from_slice(&line)?;
                let kind = text(&event, "/type");
                let object = event.get_mut("object").map(Value::take).unwrap_or_default();
                if kind == "ERROR" {
                    return Err(ApiError::from_response(500, object.to_string().as_bytes()).into());
                }
                return Ok(Some((kind, object)));
            }
            if self.buffer.len() > MAX_EVENT_BYTES {
                bail!("an event of the watch is too long");
            }
            match self.body.frame().await {
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                None => return Ok(None),
            }
        }
    }
}

async fn objects(
    session: &Session,
    args: &GetArgs,
    selected: &[Selected],
    format: &Format,
) -> anyhow::Result<()> {
    let single = matches!(selected, [Selected { name: Some(_), .. }]);
    let mut items = Vec::new();
    for one in selected {
        match fetch_objects(session, args, one).await {
            Ok(found) => items.extend(found),
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => return Err(error.into()),
        }
    }
    if matches!(format, Format::Name) {
        for (title, _) in &items {
            printer::line(title)?;
        }
    } else if single {
        if let Some((title, value)) = items.first() {
            printer::object(value, format, title)?;
        }
    } else {
        let items: Vec<Value> = items.into_iter().map(|(_, value)| value).collect();
        let list = json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items});
        printer::object(&list, format, "")?;
    }
    if args.watch {
        return watch_objects(session, args, &selected[0], format).await;
    }
    Ok(())
}

async fn fetch_objects(
    session: &Session,
    args: &GetArgs,
    one: &Selected,
) -> Result<Vec<(String, Value)>, ApiError> {
    if one.name.is_some() {
        let value = session.get_json(&one.path(args.select.namespace(session))).await?;
        return Ok(vec![(one.title(), value)]);
    }
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let mut query = args.select.query();
        query.add("limit", PAGE_ITEMS);
        query.add("continue", &token);
        let mut page = session.get_json(&list_path(session, args, one, query)).await?;
        token = text(&page, "/metadata/continue");
        if let Some(Value::Array(items)) = page.get_mut("items").map(Value::take) {
            for mut item in items {
                // Items of a list may come without these; as objects of their own they need them.
                item["kind"] = json!(one.resource.kind);
                item["apiVersion"] = json!(one.resource.gvr.api_version());
                found.push((title(&one.resource, &text(&item, "/metadata/name")), item));
            }
        }
        if token.is_empty() {
            return Ok(found);
        }
    }
}

async fn watch_objects(
    session: &Session,
    args: &GetArgs,
    one: &Selected,
    format: &Format,
) -> anyhow::Result<()> {
    let mut query = args.select.query();
    query.add("watch", "true");
    let path = list_path(session, args, one, query);
    let mut events = Events::open(session, &path, "application/json").await?;
    while let Some((_, object)) = events.next().await? {
        let title = title(&one.resource, &text(&object, "/metadata/name"));
        printer::object(&object, format, &title)?;
        if matches!(format, Format::Yaml) {
            printer::line("---")?;
        }
    }
    Ok(())
}
