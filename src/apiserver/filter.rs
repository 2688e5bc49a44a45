//! Which objects of a collection a request wants: label and field selectors on stored bytes.
//!
//! An object's bytes are read no further than the selectors need. Field selectors of many watches
//! ask the same of the same event (each node watches `spec.nodeName`), so recent answers are kept.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use memchr::memmem;
use parking_lot::Mutex;
use serde::Deserialize;

use super::versions;
use crate::api::ApiError;
use crate::api::resource::KindInfo;
use crate::api::selector::{FieldSelector, Selector};

/// How many objects' selectable fields are remembered.
const MEMO_ENTRIES: usize = 1024;
/// How many bytes of objects are held for it.
const MEMO_BYTES: usize = 16 << 20;

/// How many texts are looked for before an object is read.
const MOST_FINDERS: usize = 4;

/// The selectors of one request.
#[derive(Clone, Default)]
pub struct Filter {
    labels: Selector,
    fields: FieldSelector,
    /// Finds the texts that an object's labels have if they match: `"value"` or `"key"`. Stored
    /// labels have no characters that JSON escapes.
    finders: Arc<[memmem::Finder<'static>]>,
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

impl Filter {
    /// 400 for bad syntax and for fields that the kind does not select by.
    pub fn parse(info: &KindInfo, labels: &str, fields: &str) -> Result<Filter, ApiError> {
        let labels = Selector::parse(labels).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let fields =
            FieldSelector::parse(fields).map_err(|e| ApiError::bad_request(e.to_string()))?;
        let mut names: Vec<String> = Vec::new();
        for field in fields.fields() {
            let known = match field {
                "metadata.name" => true,
                "metadata.namespace" => info.gvr.namespaced,
                other => info.selectable.iter().any(|known| known == other),
            };
            if !known {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            if !names.iter().any(|name| name == field) {
                names.push(field.to_string());
            }
        }
        names.sort();
        let finders = labels.needed_texts().take(MOST_FINDERS);
        let finders = finders.map(|text| memmem::Finder::new(&format!("{text:?}")).into_owned());
        Ok(Filter { finders: finders.collect(), labels, fields, names: names.into() })
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

    fn labels_match(&self, raw: &Bytes) -> Result<bool, ApiError> {
        // A text that is nowhere in the object is in none of its labels; to look for it costs a
        // tenth of what reading the metadata does, and most objects are told by it.
        if !self.finders.iter().all(|one| one.find(raw).is_some()) {
            return Ok(false);
        }
        let head: LabelHead = read(raw)?;
        let labels = head.metadata.labels.unwrap_or_default();
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
    labels: Option<HashMap<Cow<'a, str>, Cow<'a, str>>>,
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
