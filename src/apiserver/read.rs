//! GET and LIST: which revision is read, in which pages, with which selectors.
//!
//! Items are the stored bytes. A paged list reads every page at the revision of its first one; the
//! continue token carries that revision and the last key.

mod converted;

use std::ops::ControlFlow;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::conversion::by_webhook;
use super::filter::Filter;
use super::service::{ApiServer, Call, read_error, too_large_version};
use super::{keys, versions};
use crate::api::field::{Errors, Path};
use crate::api::{ApiError, ObjectKey};
use crate::client::ListOptions;
use crate::store::{Key, Note, Page, ReadError, Revision};

/// How many entries a list reads, or an answer writes, before it lets others run.
pub(super) const STRIDE_ENTRIES: usize = 1000;

/// What a list with selectors looks at before it lets others run, and writers write: entries that
/// their notes rule out count one, those that must be read this much.
const STRIDE_COST: usize = 4096;
const READ_COST: usize = 32;

/// A list, or a page of it.
#[derive(Debug, Default)]
pub struct Listed {
    /// The revision of the whole store that was read.
    pub revision: Revision,
    pub items: Vec<Bytes>,
    /// Empty on the last page.
    pub continue_token: String,
    /// Known only without selectors, on all pages but the last.
    pub remaining: Option<u64>,
}

/// Upstream's form of the token (k8s.io/apiserver/pkg/storage/continue.go).
#[derive(Serialize, Deserialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
    /// What `remainingItemCount` was, so that only the first page of a list counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
}

const TOKEN_VERSION: &str = "meta.k8s.io/v1";

/// What is read: from which revision and after which key.
struct Cursor {
    at: Option<Revision>,
    after: Option<Key>,
    /// How many entries follow `after`, where an earlier page counted.
    remaining: Option<u64>,
}

impl ApiServer {
    /// The stored bytes of one object. `version` is the `resourceVersion` of the query: the answer
    /// is not older than it.
    pub async fn get(&self, call: &Call, version: &str) -> Result<Bytes, ApiError> {
        self.authorize(call, "get")?;
        self.reached(parse_version(version)?)?;
        if call.info.meta.measured {
            return self.get_measured(call).await;
        }
        if call.info.meta.computed {
            return self.get_computed(call);
        }
        let raw = self.converted_raw(&call.info, self.entry(call)?.value).await?;
        Ok(versions::shown_raw(&call.info, raw))
    }

    pub async fn list(&self, call: &Call, options: &ListOptions) -> Result<Listed, ApiError> {
        self.authorize(call, "list")?;
        let filter = Filter::parse(&call.info, &options.label_selector, &options.field_selector)?;
        self.list_filtered(call, options, &filter).await
    }

    /// Like [`ApiServer::list`], for callers that have authorized themselves.
    pub(super) async fn list_filtered(
        &self,
        call: &Call,
        options: &ListOptions,
        filter: &Filter,
    ) -> Result<Listed, ApiError> {
        let cursor = self.cursor(call, options)?;
        if call.info.meta.measured {
            return self.list_measured(call, filter).await;
        }
        if call.info.meta.computed {
            return self.list_computed(call, filter);
        }
        if let (Some(name), None) = (filter.pinned_name(), cursor.at)
            && (!call.namespace.is_empty() || !call.info.gvr.namespaced)
        {
            return self.list_one(call, name, filter).await;
        }
        let result = if by_webhook(&call.info).is_some() {
            self.list_converted(call, options.limit, &cursor, filter).await
        } else if filter.is_everything() {
            self.list_plain(call, options.limit, &cursor).await
        } else {
            self.list_some(call, options.limit, &cursor, filter).await
        };
        result.map_err(|error| expired_page(error, options))
    }

    async fn list_one(&self, call: &Call, name: &str, filter: &Filter) -> Result<Listed, ApiError> {
        let revision = self.store.revision();
        let key = keys::object(&call.info, &call.namespace, name);
        let entry = self.store.get(&key).map_err(read_error)?;
        let mut items = Vec::new();
        if let Some(entry) = entry {
            let raw = self.converted_raw(&call.info, entry.value).await?;
            if filter.matches(&call.info, &self.memo, &raw)? {
                items.push(versions::shown_raw(&call.info, raw));
            }
        }
        Ok(Listed { revision, items, ..Listed::default() })
    }

    async fn list_plain(
        &self,
        call: &Call,
        limit: usize,
        cursor: &Cursor,
    ) -> Result<Listed, ListError> {
        let prefix = keys::collection(&call.info, &call.namespace);
        let page = self.entries(&prefix, cursor.after.as_ref(), limit, cursor.at).await?;
        let mut listed = Listed { revision: page.revision, ..Listed::default() };
        if let Some(last) = page.entries.last().filter(|_| page.more) {
            listed.remaining = match cursor.remaining {
                Some(before) => before.checked_sub(page.entries.len() as u64),
                // History that is forgotten just now costs the number, which is a hint.
                None => self.store.count(&prefix, Some(&last.key), Some(page.revision)).ok(),
            };
            listed.continue_token =
                token(page.revision, &last.key, listed.remaining).unwrap_or_default();
        }
        let shown = page.entries.into_iter().map(|e| versions::shown_raw(&call.info, e.value));
        listed.items = shown.collect();
        Ok(listed)
    }

    /// [`crate::store::Store::list`] in pieces of one revision, between which others run.
    pub(super) async fn entries(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
        at: Option<Revision>,
    ) -> Result<Page, ReadError> {
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut page = self.store.list(prefix, after, limit.min(STRIDE_ENTRIES), at)?;
        while page.more && page.entries.len() < limit {
            tokio::task::yield_now().await;
            let stride = STRIDE_ENTRIES.min(limit - page.entries.len());
            let last = page.entries.last().map(|entry| &entry.key);
            match self.store.list(prefix, last, stride, Some(page.revision)) {
                Ok(next) => {
                    page.more = next.more;
                    page.entries.extend(next.entries);
                }
                // The store itself finishes a read of the newest state, whatever is forgotten.
                Err(ReadError::Compacted { .. }) if at.is_none() => {
                    return self.store.list(prefix, after, limit, at);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    async fn list_some(
        &self,
        call: &Call,
        limit: usize,
        cursor: &Cursor,
        filter: &Filter,
    ) -> Result<Listed, ListError> {
        let prefix = keys::collection(&call.info, &call.namespace);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut listed = Listed::default();
        let (mut at, mut after) = (cursor.at, cursor.after.clone());
        let (mut last, mut more) = (None, false);
        while !more {
            let (mut cost, mut paused, mut failure) = (0, None, None);
            let mut look = |key: &Key, value: &Bytes, _, note: &Note| {
                // One entry beyond a full page tells that there are more.
                more = listed.items.len() == limit;
                if more {
                    return ControlFlow::Break(());
                }
                match self.look(call, filter, value, note) {
                    Ok(Looked::RuledOut) => cost += 1,
                    Ok(Looked::Read(matches)) => {
                        cost += READ_COST;
                        if matches {
                            listed.items.push(value.clone());
                            last = Some(key.clone());
                        }
                    }
                    Err(error) => failure = Some(error),
                }
                if cost < STRIDE_COST && failure.is_none() {
                    return ControlFlow::Continue(());
                }
                paused = Some(key.clone());
                ControlFlow::Break(())
            };
            listed.revision = self.store.visit(&prefix, after.as_ref(), at, &mut look)?;
            if let Some(error) = failure {
                return Err(error.into());
            }
            at = Some(listed.revision);
            if paused.is_none() {
                break;
            }
            after = paused;
            // Long reads let others run.
            tokio::task::yield_now().await;
        }
        if let Some(last) = last.filter(|_| more) {
            listed.continue_token = token(listed.revision, &last, None).unwrap_or_default();
        }
        let shown = listed.items.into_iter().map(|raw| versions::shown_raw(&call.info, raw));
        listed.items = shown.collect();
        Ok(listed)
    }

    /// Whether an entry is wanted, by what is noted of it if that tells.
    fn look(
        &self,
        call: &Call,
        filter: &Filter,
        value: &Bytes,
        note: &Note,
    ) -> Result<Looked, ApiError> {
        match filter.may_match(note) {
            Some(false) => return Ok(Looked::RuledOut),
            Some(true) => {}
            None => filter.make_note(value, note)?,
        }
        if filter.may_match(note) == Some(false) {
            return Ok(Looked::Read(false));
        }
        filter.matches(&call.info, &self.memo, value).map(Looked::Read)
    }

    /// What `resourceVersion`, its match and the token mean
    /// (kubernetes.io/docs/reference/using-api/api-concepts, "Resource versions").
    fn cursor(&self, call: &Call, options: &ListOptions) -> Result<Cursor, ApiError> {
        check_list(options)?;
        let version = parse_version(&options.resource_version)?;
        if !options.continue_token.is_empty() {
            if version.is_some_and(|v| v != 0) {
                let message = "specifying resource version is not allowed when using continue";
                return Err(ApiError::bad_request(message));
            }
            return parse_token(call, &options.continue_token);
        }
        self.reached(version)?;
        let any_match = options.resource_version_match.is_empty();
        let exact = options.resource_version_match == "Exact";
        let at = version.filter(|v| *v != 0 && (exact || any_match && options.limit != 0));
        Ok(Cursor { at, after: None, remaining: None })
    }

    /// Refuses a version that the store has not reached.
    pub(super) fn reached(&self, version: Option<Revision>) -> Result<(), ApiError> {
        let current = self.store.revision();
        match version {
            Some(version) if version > current => Err(too_large_version(version, current)),
            _ => Ok(()),
        }
    }
}

/// What came of looking at an entry.
enum Looked {
    RuledOut,
    /// The value itself was looked at: whether it matches.
    Read(bool),
}

enum ListError {
    Read(ReadError),
    Api(ApiError),
}

impl From<ReadError> for ListError {
    fn from(error: ReadError) -> ListError {
        ListError::Read(error)
    }
}

impl From<ApiError> for ListError {
    fn from(error: ApiError) -> ListError {
        ListError::Api(error)
    }
}

/// A 410 of a paged list carries a token that goes on at the newest revision.
fn expired_page(error: ListError, options: &ListOptions) -> ApiError {
    let error = match error {
        ListError::Api(error) => return error,
        ListError::Read(error) => error,
    };
    if !matches!(error, ReadError::Compacted { .. }) {
        return read_error(error);
    }
    if options.continue_token.is_empty() {
        return ApiError::expired("The resourceVersion for the provided list is too old.");
    }
    let message = "The provided continue parameter is too old to display a consistent list \
                   result. You can start a new list without the continue parameter, or use \
                   the continue token in this response to retrieve the remainder of the \
                   results.";
    let mut expired = ApiError::expired(message);
    let start = decode_token(&options.continue_token).ok().map(|t| t.start);
    expired.continue_token = start.map(|start| encode_token(-1, start, None));
    expired
}

/// "" is `None`; 400 for what is not a number.
pub(super) fn parse_version(text: &str) -> Result<Option<Revision>, ApiError> {
    match text {
        "" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            ApiError::bad_request(format!("Invalid value: {text:?}: invalid resource version"))
        }),
    }
}

/// Which options of a list go together
/// (k8s.io/apimachinery/pkg/apis/meta/internalversion/validation).
fn check_list(options: &ListOptions) -> Result<(), ApiError> {
    let path = Path::new("resourceVersionMatch");
    let mut errors = Errors::default();
    let asked = options.resource_version_match.as_str();
    if !asked.is_empty() {
        if options.resource_version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.forbidden(&path, why);
        }
        if !options.continue_token.is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.forbidden(&path, why);
        }
        if !matches!(asked, "Exact" | "NotOlderThan") {
            errors.not_supported(&path, asked, &["Exact", "NotOlderThan", ""]);
        }
        if asked == "Exact" && options.resource_version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.forbidden(&path, why);
        }
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(ApiError::invalid_options("ListOptions", errors.into_vec())),
    }
}

fn token(revision: Revision, last: &Key, remaining: Option<u64>) -> Option<String> {
    let ObjectKey { namespace, name } = keys::names(last)?;
    Some(encode_token(i64::try_from(revision).ok()?, format!("{namespace}/{name}"), remaining))
}

/// A revision of -1 reads the newest.
fn encode_token(rv: i64, start: String, remaining: Option<u64>) -> String {
    let token = Token { v: TOKEN_VERSION.into(), rv, start, remaining };
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
}

fn decode_token(text: &str) -> Result<Token, ApiError> {
    let bad = || ApiError::bad_request("continue key is not valid");
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| bad())?;
    let token: Token = serde_json::from_slice(&bytes).map_err(|_| bad())?;
    if token.v == TOKEN_VERSION { Ok(token) } else { Err(bad()) }
}

fn parse_token(call: &Call, text: &str) -> Result<Cursor, ApiError> {
    let bad = || ApiError::bad_request("continue key is not valid");
    let token = decode_token(text)?;
    let (namespace, name) = token.start.split_once('/').ok_or_else(bad)?;
    if !call.namespace.is_empty() && namespace != call.namespace {
        return Err(bad());
    }
    let at = match token.rv {
        -1 => None,
        0 => return Err(bad()),
        rv => Some(u64::try_from(rv).map_err(|_| bad())?),
    };
    let remaining = token.remaining.filter(|_| at.is_some());
    Ok(Cursor { at, after: Some(keys::object(&call.info, namespace, name)), remaining })
}
