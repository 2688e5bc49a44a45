//! Tables (meta.k8s.io/v1): what `kubectl get` prints. Cells come from the kind's rules.

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::negotiate::Include;
use super::respond::metadata_object;
use crate::api::ApiError;
use crate::api::resource::KindInfo;

/// A table of objects; `meta` is the table's metadata as JSON.
pub fn table(
    info: &KindInfo,
    version: &str,
    include: Include,
    meta: &str,
    items: &[Bytes],
    now: Timestamp,
) -> Result<Bytes, ApiError> {
    let mut out = head(info, version, meta);
    for (index, raw) in items.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
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
            Include::Metadata => metadata_object(&mut out, raw, version)?,
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    Ok(out.into())
}

/// A table without rows that carries a watch's position.
pub fn bookmark(info: &KindInfo, version: &str, meta: &str) -> Bytes {
    let mut out = head(info, version, meta);
    out.extend_from_slice(b"]}");
    out.into()
}

fn head(info: &KindInfo, version: &str, meta: &str) -> Vec<u8> {
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
