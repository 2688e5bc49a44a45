//! Tables (meta.k8s.io/v1): what `kubectl get` prints. Cells come from the kind's rules.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::negotiate::Include;
use super::respond::metadata_object;
use crate::api::ApiError;
use crate::api::resource::KindInfo;

/// The end of a table, after its rows.
pub const TAIL: &[u8] = b"]}";

/// A table of one object; `meta` is the table's metadata as JSON.
pub fn table(
    info: &KindInfo,
    version: &str,
    include: Include,
    meta: &str,
    raw: &Bytes,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let mut out = head(info, version, meta);
    row(&mut out, info, version, include, raw, now)?;
    out.extend_from_slice(TAIL);
    Ok(out.into())
}

/// One object's row.
pub fn row(
    out: &mut Vec<u8>,
    info: &KindInfo,
    version: &str,
    include: Include,
    raw: &Bytes,
    now: Timestamp,
) -> Result<(), ApiError> {
    let cells = info.rules.row(raw, now)?;
    out.extend_from_slice(b"{\"cells\":");
    out.extend_from_slice(Value::from(cells).to_string().as_bytes());
    if is_finished_pod(info, raw) {
        out.extend_from_slice(COMPLETED.as_bytes());
    }
    out.extend_from_slice(b",\"object\":");
    match include {
        Include::None => out.extend_from_slice(b"null"),
        Include::Object => out.extend_from_slice(raw),
        Include::Metadata => metadata_object(out, raw, version)?,
    }
    out.push(b'}');
    Ok(())
}

/// A bookmark's table: as upstream, with a row for the object that carries the watch's position.
pub fn bookmark(
    info: &KindInfo,
    version: &str,
    include: Include,
    meta: &str,
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let raw = super::respond::bare_object(info, meta);
    let mut out = head(info, version, meta);
    // The rules of a kind may want fields that such an object does not have.
    let length = out.len();
    if row(&mut out, info, version, include, &raw, now).is_err() {
        out.truncate(length);
    }
    out.extend_from_slice(TAIL);
    Ok(out.into())
}

/// The beginning of a table, before its rows.
pub fn head(info: &KindInfo, version: &str, meta: &str) -> Vec<u8> {
    let columns: Vec<Value> = info
        .rules
        .columns()
        .iter()
        .map(|column| {
            json!({
                "name": column.name,
                "type": column.kind,
                "format": column.format,
                "description": column.description,
                "priority": column.priority,
            })
        })
        .collect();
    format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/{version}\",\"metadata\":{meta},\
         \"columnDefinitions\":{},\"rows\":[",
        Value::from(columns)
    )
    .into_bytes()
}

/// The condition of rows that kubectl may hide.
const COMPLETED: &str = ",\"conditions\":[{\"type\":\"Completed\",\"status\":\"True\",\
    \"reason\":\"Completed\",\"message\":\"The pod has completed.\"}]";

fn is_finished_pod(info: &KindInfo, raw: &[u8]) -> bool {
    if !(info.gvr.group.is_empty() && info.gvr.resource == "pods") {
        return false;
    }
    let phase = info.rules.fields(raw, &["status.phase"]).unwrap_or_default();
    phase.first().is_some_and(|phase| matches!(phase.as_str(), "Succeeded" | "Failed"))
}
