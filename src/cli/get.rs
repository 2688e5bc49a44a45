//! `wasmctl get`: tables as the server renders them, or objects as JSON, YAML, names, templates.

use std::cmp::Ordering;

use anyhow::bail;
use http::Method;
use serde_json::{Value, json};

use super::args::GetArgs;
use super::discovery::Resource;
use super::printer::{self, Format};
use super::report;
use super::selection::{Selected, title};
use super::session::Session;
use super::watch::Events;
use crate::api::ApiError;
use crate::api::jsonpath::{Template, plain};
use crate::client::remote::Query;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
/// Objects are listed in pages of this size.
const PAGE_ITEMS: &str = "500";
pub async fn run(session: &Session, args: &GetArgs) -> anyhow::Result<()> {
    let format = Format::parse(args.output.as_deref())?;
    let selected = args.select.resolve(session).await?;
    if args.watching() {
        let [one] = &selected[..] else {
            bail!("--watch follows one type (or one object) at a time");
        };
        return match &format {
            Format::Table { wide } => watch_table(session, args, one, *wide).await,
            format => watch_objects(session, args, one, format).await,
        };
    }
    let sort = args.sort_by.as_deref().map(Template::parse).transpose()?;
    match &format {
        Format::Table { wide } => tables(session, args, &selected, *wide, sort.as_ref()).await,
        format => objects(session, args, &selected, format, sort.as_ref()).await,
    }
}

impl GetArgs {
    fn watching(&self) -> bool {
        self.watch || self.watch_only
    }

    /// The list URL of a selection: one object is a list with a field selector.
    fn list_path(&self, session: &Session, one: &Selected, query: Query) -> String {
        let mut query = query;
        let mut fields = self.field_selector.clone().unwrap_or_default();
        if let Some(name) = &one.name {
            fields = format!("metadata.name={name}");
        }
        query.add("fieldSelector", &fields);
        let namespace = self.select.namespace(session);
        query.on(&one.resource.gvr.path(namespace, None, None))
    }

    fn watch_path(&self, session: &Session, one: &Selected, from: &str) -> String {
        let mut query = self.select.query();
        query.add("watch", "true");
        query.add("resourceVersion", from);
        self.list_path(session, one, query)
    }
}

async fn tables(
    session: &Session,
    args: &GetArgs,
    selected: &[Selected],
    wide: bool,
    sort: Option<&Template>,
) -> anyhow::Result<()> {
    let several = selected.iter().any(|s| s.resource.kind != selected[0].resource.kind);
    let mut printed = 0;
    let mut failed = Vec::new();
    for group in grouped(selected) {
        let mut table = Table::of(&group[0].resource);
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
        if let Some(sort) = sort {
            table.rows.sort_by(|(_, a), (_, b)| order(sort, a, b));
        }
        if printed > 0 {
            printer::line("")?;
        }
        printed += table.rows.len();
        let kind = several.then_some(&group[0].resource);
        printer::columns(&table.lines(args, wide, kind.map(|r| title(r, ""))))?;
    }
    if printed == 0 && failed.is_empty() && !args.ignore_not_found {
        let namespaced = selected.iter().any(|one| one.resource.gvr.namespaced);
        printer::nothing_found(args.select.namespace(session).filter(|_| namespaced));
    }
    report::errors(failed)
}

/// By the first value that the path finds; objects without one come first.
fn order(sort: &Template, a: &Value, b: &Value) -> Ordering {
    match (sort.find(a).first(), sort.find(b).first()) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => {
            a.as_f64().partial_cmp(&b.as_f64()).unwrap_or(Ordering::Equal)
        }
        (a, b) => a.map(|v| plain(v)).cmp(&b.map(|v| plain(v))),
    }
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
    let mut whole = Query::default();
    if args.sort_by.is_some() {
        whole.add("includeObject", "Object");
    }
    if one.name.is_some() {
        let path = one.path(args.select.namespace(session));
        return Ok(vec![table_json(session, &whole.on(&path)).await?]);
    }
    let mut pages = Vec::new();
    let mut token = String::new();
    loop {
        let mut query = args.select.query();
        if args.sort_by.is_some() {
            query.add("includeObject", "Object");
        }
        query.add("limit", PAGE_ITEMS);
        query.add("continue", &token);
        let page = table_json(session, &args.list_path(session, one, query)).await?;
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
    namespaced: bool,
}

impl Table {
    fn of(resource: &Resource) -> Table {
        Table { namespaced: resource.gvr.namespaced, ..Table::default() }
    }

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
        if args.select.all_namespaces && self.namespaced {
            header.insert(0, "NAMESPACE".into());
        }
        let last_part = |key: &String| key.rsplit('/').next().unwrap_or(key).to_uppercase();
        header.extend(args.label_columns.iter().map(last_part));
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
        if args.select.all_namespaces && self.namespaced {
            line.insert(0, text(object, "/metadata/namespace"));
        }
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        for key in &args.label_columns {
            line.push(labels.and_then(|labels| labels.get(key)).map_or("<none>".into(), plain));
        }
        if args.show_labels {
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

/// Prints what is there, and a row for each change. The header stands once; columns keep the
/// widths of the first list where they can.
async fn watch_table(
    session: &Session,
    args: &GetArgs,
    one: &Selected,
    wide: bool,
) -> anyhow::Result<()> {
    let mut listed = Table::of(&one.resource);
    fetch_table(session, args, one).await?.iter().for_each(|answer| listed.add(answer));
    let mut widths = listed.lines(args, wide, None);
    let mut headed = args.no_headers;
    if !listed.rows.is_empty() && !args.watch_only {
        printer::columns(&widths)?;
        headed = true;
    }
    let path = args.watch_path(session, one, &listed.resource_version);
    let mut shape = Table { columns: listed.columns, ..Table::of(&one.resource) };
    let mut events = Events::open(session, &path, TABLE).await?;
    while let Some((_, object)) = events.next().await? {
        shape.add(&object);
        for row in std::mem::take(&mut shape.rows) {
            widths.truncate(200);
            widths.push(shape.line(&row, args, wide, None));
            if !std::mem::replace(&mut headed, true) {
                widths[0] = shape.header(args, wide);
                printer::line(&printer::aligned(&widths)[0])?;
            }
            if let Some(line) = printer::aligned(&widths).last() {
                printer::line(line)?;
            }
        }
    }
    Ok(())
}

/// An object with its title.
type Titled = (String, Value);

async fn objects(
    session: &Session,
    args: &GetArgs,
    selected: &[Selected],
    format: &Format,
    sort: Option<&Template>,
) -> anyhow::Result<()> {
    let single = matches!(selected, [Selected { name: Some(_), .. }]);
    let mut items = Vec::new();
    let mut failed = Vec::new();
    for one in selected {
        match fetch_objects(session, args, one).await {
            Ok((found, _)) => items.extend(found),
            Err(error) if error.is_not_found() && args.ignore_not_found => {}
            Err(error) => failed.push(error.into()),
        }
    }
    if let Some(sort) = sort {
        items.sort_by(|(_, a), (_, b)| order(sort, a, b));
    }
    print_objects(args, single, items, format)?;
    report::errors(failed)
}

fn print_objects(
    args: &GetArgs,
    single: bool,
    items: Vec<Titled>,
    format: &Format,
) -> anyhow::Result<()> {
    match format {
        Format::Name => {
            for (title, _) in &items {
                printer::line(title)?;
            }
        }
        Format::Columns(custom) => {
            let mut rows: Vec<_> = items.iter().map(|(_, value)| custom.row(value)).collect();
            if !args.no_headers {
                rows.insert(0, custom.header());
            }
            printer::columns(&rows)?;
        }
        _ if single => {
            if let Some((title, value)) = items.first() {
                printer::object(value, format, title)?;
            }
        }
        _ => {
            let items = items.into_iter().map(|(_, value)| value).collect();
            printer::object(&report::list(items), format, "")?;
        }
    }
    Ok(())
}

/// The objects, and the resource version from which a watch goes on.
async fn fetch_objects(
    session: &Session,
    args: &GetArgs,
    one: &Selected,
) -> Result<(Vec<Titled>, String), ApiError> {
    if one.name.is_some() {
        let value = session.get_json(&one.path(args.select.namespace(session))).await?;
        let version = text(&value, "/metadata/resourceVersion");
        return Ok((vec![(one.title(), value)], version));
    }
    let mut found = Vec::new();
    let mut token = String::new();
    loop {
        let mut query = args.select.query();
        query.add("limit", PAGE_ITEMS);
        query.add("continue", &token);
        let mut page = session.get_json(&args.list_path(session, one, query)).await?;
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
            return Ok((found, text(&page, "/metadata/resourceVersion")));
        }
    }
}

/// Prints the objects that there are and each change, one object after the other.
async fn watch_objects(
    session: &Session,
    args: &GetArgs,
    one: &Selected,
    format: &Format,
) -> anyhow::Result<()> {
    let (found, version) = fetch_objects(session, args, one).await?;
    let mut headed = args.no_headers;
    let mut print = |title: &str, object: &Value| match format {
        Format::Columns(custom) => {
            let rows = [custom.header(), custom.row(object)];
            let skip = usize::from(std::mem::replace(&mut headed, true));
            printer::aligned(&rows)[skip..].iter().try_for_each(|line| printer::line(line))?;
            anyhow::Ok(())
        }
        Format::Yaml => {
            printer::object(object, format, title)?;
            Ok(printer::line("---")?)
        }
        format => printer::object(object, format, title),
    };
    if !args.watch_only {
        for (title, object) in &found {
            print(title, object)?;
        }
    }
    let path = args.watch_path(session, one, &version);
    let mut events = Events::open(session, &path, "application/json").await?;
    while let Some((_, object)) = events.next().await? {
        print(&title(&one.resource, &text(&object, "/metadata/name")), &object)?;
    }
    Ok(())
}
