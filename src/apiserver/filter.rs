//! Which objects of a collection a request wants: label and field selectors on stored bytes.
//!
//! An object's bytes are read no further than the selectors need. Field selectors of many watches
//! ask the same of the same event (each node watches `spec.nodeName`), so recent answers are kept.
//! Lists look at whole collections: which labels a value has is noted beside it (`labels_note.rs`).

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;
use parking_lot::Mutex;
use serde::Deserialize;

use super::labels_note::{self, Labels};
use super::versions;
use crate::api::ApiError;
use crate::api::resource::KindInfo;
use crate::api::selector::{FieldSelector, Selector};
use crate::store::Note;

/// How many objects' selectable fields are remembered.
const MEMO_ENTRIES: usize = 1024;
/// How many bytes of objects are held for it.
const MEMO_BYTES: usize = 16 << 20;

/// How many texts are looked for before an object is read.
const MOST_FINDERS: usize = 4;
/// Fields whose value stands in the stored object as it is asked for: built-in kinds make up nothing.
const VERBATIM: &[&str] = &[
    "spec.nodeName",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.restartPolicy",
    "spec.type",
    "spec.clusterIP",
    "spec.signerName",
    "status.phase",
    "status.nominatedNodeName",
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "reason",
    "type",
];

/// Whether JSON writes a text as it is.
fn is_plain(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    !text.is_empty() && text.bytes().all(plain)
}

/// The selectors of one request.
#[derive(Clone, Default)]
pub struct Filter {
    labels: Selector,
    fields: FieldSelector,
    /// Finds the texts that an object has if it matches: `"value"` or `"key"` of its labels, or the
    /// value of a field. None has characters that JSON escapes.
    finders: Arc<[memmem::Finder<'static>]>,
    /// What the note of an object that matches has.
    note: u64,
    /// The names of the fields that the field selector reads.
    names: Arc<[String]>,
}

/// The values of fields of recent objects, shared by all watches.
#[derive(Default)]
pub struct FieldMemo(Mutex<Memo>);

#[derive(Default)]
struct Memo {
    values: HashMap<MemoKey, Arc<[String]>>,
    /// The objects' bytes are held, so that no other object can have the same address.
    order: VecDeque<(MemoKey, Bytes)>,
    /// The sum of their lengths.
    bytes: usize,
}

/// The address of the object's bytes and of the filter's field names.
#[derive(Clone, PartialEq, Eq, Hash)]
struct MemoKey {
    address: usize,
    length: usize,
    names: Arc<[String]>,
}

/// Upstream's words: kinds that have no selectable fields of their own say which all have
/// (apimachinery's DefaultMetaV1FieldSelectorConversion).
fn unknown_field(field: &str, has_no_own: bool) -> String {
    if has_no_own {
        let all = r#"only "metadata.name", "metadata.namespace""#;
        return format!("{field:?} is not a known field selector: {all}");
    }
    format!("field label not supported: {field}")
}

impl Filter {
    /// 400 for bad syntax and for fields that the kind does not select by.
    pub fn parse(info: &KindInfo, labels: &str, fields: &str) -> Result<Filter, ApiError> {
        let labels = Selector::parse(labels).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let fields =
            FieldSelector::parse(fields).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let mut names: Vec<String> = Vec::new();
        let has_no_own = info.custom.is_none() && info.selectable.is_empty();
        for field in fields.fields() {
            let known = match field {
                "metadata.name" => true,
                "metadata.namespace" => info.gvr.namespaced || has_no_own,
                other => info.selectable.iter().any(|known| known == other),
            };
            if !known {
                return Err(ApiError::bad_request(unknown_field(field, has_no_own)));
            }
            if !names.iter().any(|name| name == field) {
                names.push(field.to_string());
            }
        }
        names.sort();
        let verbatim = VERBATIM.iter().filter(|_| info.custom.is_none());
        let values = verbatim.filter_map(|field| fields.requires(field)).filter(|v| is_plain(v));
        let texts = values.chain(labels.needed_texts()).take(MOST_FINDERS);
        let finders = texts.map(|text| memmem::Finder::new(&format!("{text:?}")).into_owned());
        let finders = finders.collect();
        let note = labels_note::needed(&labels);
        Ok(Filter { finders, note, labels, fields, names: names.into() })
    }

    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// The one name that matches, if the selector says so.
    pub fn pinned_name(&self) -> Option<&str> {
        self.fields.requires("metadata.name")
    }

    /// The one value of a field that matches, if the selector says so.
    pub fn requires(&self, field: &str) -> Option<&str> {
        self.fields.requires(field)
    }

    /// Whether an object in its stored bytes is wanted.
    pub fn matches(
        &self,
        info: &KindInfo,
        memo: &FieldMemo,
        raw: &Bytes,
    ) -> Result<bool, ApiError> {
        // A text that is nowhere in the object is in none of its labels; to look for it costs a
        // tenth of what reading the metadata does, and most objects are told by it.
        if !self.finders.iter().all(|one| one.find(raw).is_some()) {
            return Ok(false);
        }
        if !self.labels.is_everything() && !self.labels_match(raw)? {
            return Ok(false);
        }
        if self.fields.is_everything() {
            return Ok(true);
        }
        let values = self.values(info, memo, raw)?;
        let at = |field: &str| self.names.iter().position(|name| name == field);
        Ok(self.fields.matches(|field| at(field).and_then(|i| values.get(i)).map(String::as_str)))
    }

    /// What the note beside a value tells: `Some(false)` where the value need not be looked at;
    /// `None` where nothing is noted, which [`Filter::make_note`] changes.
    pub fn may_match(&self, note: &Note) -> Option<bool> {
        match (self.note, note.get()) {
            (0, _) => Some(true),
            (_, 0) => None,
            (needed, noted) => Some(noted & needed == needed),
        }
    }

    /// Notes which labels a value has.
    pub fn make_note(&self, raw: &Bytes, note: &Note) -> Result<(), ApiError> {
        note.set(labels_note::of(&labels(raw)?));
        Ok(())
    }

    fn labels_match(&self, raw: &Bytes) -> Result<bool, ApiError> {
        let labels = labels(raw)?;
        Ok(self.labels.matches_with(|key| labels.get(key).map(|value| &**value)))
    }

    fn values(
        &self,
        info: &KindInfo,
        memo: &FieldMemo,
        raw: &Bytes,
    ) -> Result<Arc<[String]>, ApiError> {
        if self.names.iter().all(|name| name.starts_with("metadata.")) {
            let head: NameHead = read(raw)?;
            let value = |name: &String| match name.as_str() {
                "metadata.name" => head.metadata.name.to_string(),
                _ => head.metadata.namespace.to_string(),
            };
            return Ok(self.names.iter().map(value).collect());
        }
        let key = MemoKey {
            address: raw.as_ptr() as usize,
            length: raw.len(),
            names: self.names.clone(),
        };
        if let Some(values) = memo.0.lock().values.get(&key) {
            return Ok(values.clone());
        }
        let names: Vec<&str> = self.names.iter().map(String::as_str).collect();
        let values: Arc<[String]> =
            info.rules.fields(&versions::readable(info, raw), &names)?.into();
        memo.keep(key, raw.clone(), values.clone());
        Ok(values)
    }
}

impl FieldMemo {
    fn keep(&self, key: MemoKey, raw: Bytes, values: Arc<[String]>) {
        let mut memo = self.0.lock();
        if memo.values.insert(key.clone(), values).is_none() {
            memo.bytes += raw.len();
            memo.order.push_back((key, raw));
        }
        while (memo.order.len() > MEMO_ENTRIES || memo.bytes > MEMO_BYTES)
            && let Some((oldest, raw)) = memo.order.pop_front()
        {
            memo.bytes -= raw.len();
            memo.values.remove(&oldest);
        }
    }
}

/// The one name that a field selector asks for, if it does; a selector that is wrong names none.
pub fn named(fields: &str) -> Option<String> {
    if fields.is_empty() {
        return None;
    }
    FieldSelector::parse(fields).ok()?.requires("metadata.name").map(str::to_string)
}

#[derive(Deserialize)]
struct LabelHead<'a> {
    #[serde(borrow)]
    metadata: LabelMeta<'a>,
}

#[derive(Deserialize)]
struct LabelMeta<'a> {
    #[serde(borrow, default)]
    labels: Option<Labels<'a>>,
}

/// The labels of a stored object.
fn labels(raw: &Bytes) -> Result<Labels<'_>, ApiError> {
    let head: LabelHead = read(raw)?;
    Ok(head.metadata.labels.unwrap_or_default())
}

#[derive(Deserialize)]
struct NameHead<'a> {
    #[serde(borrow)]
    metadata: NameMeta<'a>,
}

#[derive(Deserialize)]
struct NameMeta<'a> {
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
}

fn read<'a, T: Deserialize<'a>>(raw: &'a Bytes) -> Result<T, ApiError> {
    serde_json::from_slice(raw)
        .map_err(|e| ApiError::internal(format!("a stored object cannot be read: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memo_is_bounded_by_bytes_too() {
        let memo = FieldMemo::default();
        for index in 0..100 {
            let raw = Bytes::from(vec![b' '; MEMO_BYTES / 10]);
            let key = MemoKey { address: index, length: raw.len(), names: Arc::default() };
            memo.keep(key, raw, Arc::default());
        }
        let memo = memo.0.lock();
        assert_eq!((memo.order.len(), memo.values.len()), (10, 10));
        assert_eq!(memo.bytes, memo.order.iter().map(|(_, raw)| raw.len()).sum::<usize>());
    }
}
