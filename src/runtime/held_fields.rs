//! HTTP fields and the like that a guest has the host hold, counted: blocks of fields by themselves
//! and in requests and responses, methods, paths.
//!
//! wasmtime-wasi-http keeps them in the table of resources and moves them about there. So what is
//! handed over is added up, and from time to time all that is there is measured: whenever as much was
//! added as there was, when much was dropped, and before anybody is refused. Both cost less than
//! making what they measure. Each block has a bound, too
//! ([`MAX_HTTP_FIELDS_BYTES`](super::limits::MAX_HTTP_FIELDS_BYTES)).

use std::collections::HashSet;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, LinkerInstance, Resource, ResourceType};
use wasmtime_wasi::{ResourceTable, WasiView};
use wasmtime_wasi_http::p2::bindings::http::types as p2;
use wasmtime_wasi_http::p2::types::{
    HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::p3::bindings::http::types as p3;
use wasmtime_wasi_http::p3::{Request, Response};
use wasmtime_wasi_http::{FieldMap, WasiHttpView};

use super::host::HostState;
use super::memory::OutOfMemory;
use super::sockets::{P2_VERSION, P3_VERSION, settle};
use super::store_memory::Buffer;

/// Bytes by which what is counted grows.
const STEP_BYTES: u64 = 16 << 10;
/// Added since the last measure, at least, before there is another one.
const MEASURE_BYTES: u64 = 256 << 10;
/// The same of resources dropped: this part of those that there were.
const MEASURE_PART: usize = 4;

/// What a store holds of fields.
pub struct Fields {
    /// Never less than what there is.
    estimate_bytes: u64,
    measured_bytes: u64,
    /// Resources at the last measure, and dropped since.
    entries: usize,
    dropped: usize,
    counted: Buffer,
}

impl Fields {
    pub fn new(counted: Buffer) -> Self {
        let (estimate_bytes, measured_bytes, entries, dropped) = (0, 0, 0, 0);
        Self { estimate_bytes, measured_bytes, entries, dropped, counted }
    }

    /// Counts bytes that are about to be held.
    fn add(&mut self, table: &mut ResourceTable, bytes: u64) -> Result<(), OutOfMemory> {
        self.estimate_bytes = self.estimate_bytes.saturating_add(bytes);
        let added = self.estimate_bytes - self.measured_bytes.min(self.estimate_bytes);
        if added > MEASURE_BYTES.max(self.measured_bytes) {
            self.measure(table, bytes);
        }
        if self.settle().is_ok() {
            return Ok(());
        }
        self.measure(table, bytes);
        self.settle()
    }

    fn settle(&mut self) -> Result<(), OutOfMemory> {
        if self.estimate_bytes <= self.counted.bytes() {
            return Ok(());
        }
        self.counted.resize(self.estimate_bytes.next_multiple_of(STEP_BYTES))
    }

    /// Something was dropped.
    fn less(&mut self, table: &mut ResourceTable) {
        self.dropped += 1;
        if self.estimate_bytes > MEASURE_BYTES && self.dropped * MEASURE_PART > self.entries {
            self.measure(table, 0);
        }
    }

    fn measure(&mut self, table: &mut ResourceTable, coming_bytes: u64) {
        let mut seen = HashSet::new();
        (self.measured_bytes, self.entries, self.dropped) = (0, 0, 0);
        for entry in table.iter_mut() {
            self.entries += 1;
            let (fields, other_bytes) = if let Some(fields) = entry.downcast_ref::<FieldMap>() {
                (fields, 0)
            } else if let Some(request) = entry.downcast_ref::<HostOutgoingRequest>() {
                (&request.headers, texts_of(request))
            } else if let Some(response) = entry.downcast_ref::<HostOutgoingResponse>() {
                (&response.headers, 0)
            } else if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
                (&response.headers, 0)
            } else if let Some(request) = entry.downcast_ref::<Request>() {
                (&request.headers, text_bytes_of(request))
            } else if let Some(response) = entry.downcast_ref::<Response>() {
                (&response.headers, 0)
            } else {
                continue;
            };
            self.measured_bytes += other_bytes;
            // Handles of one request's fields share them.
            let map: &HeaderMap = fields;
            if seen.insert(std::ptr::from_ref(map)) {
                self.measured_bytes += content_bytes(map);
            }
        }
        self.estimate_bytes = self.measured_bytes.saturating_add(coming_bytes);
        let wanted = self.estimate_bytes.next_multiple_of(STEP_BYTES);
        if wanted < self.counted.bytes() {
            self.counted.count(wanted);
        }
    }
}

/// As wasmtime-wasi-http counts for the bound of one block.
fn content_bytes(map: &HeaderMap) -> u64 {
    let names: usize = map.keys().map(|name| name.as_str().len() + size_of::<HeaderName>()).sum();
    let values: usize = map.values().map(|value| value.len() + size_of::<HeaderValue>()).sum();
    (names + values) as u64
}

fn field_bytes(name: &str, value: &[u8]) -> u64 {
    let each = size_of::<HeaderName>() + size_of::<HeaderValue>();
    (name.len() + value.len() + each) as u64
}

fn texts_of(request: &HostOutgoingRequest) -> u64 {
    let method = match &request.method {
        p2::Method::Other(method) => method.len(),
        _ => 0,
    };
    let texts = [&request.authority, &request.path_with_query];
    let texts: usize = texts.into_iter().flatten().map(String::len).sum();
    (method + texts) as u64
}

fn text_bytes_of(request: &Request) -> u64 {
    let authority = request.authority.as_ref().map_or(0, |authority| authority.as_str().len());
    let path = request.path_with_query.as_ref().map_or(0, |path| path.as_str().len());
    (request.method.as_str().len() + authority + path) as u64
}

impl HostState {
    /// Counts fields and texts that the guest hands over.
    fn add_fields(&mut self, bytes: u64) -> Result<(), OutOfMemory> {
        let (fields, table) = self.fields();
        fields.add(table, bytes)
    }

    fn fields_dropped(&mut self) {
        let (fields, table) = self.fields();
        fields.less(table);
    }

    fn content_bytes(&mut self, fields: &Resource<FieldMap>) -> wasmtime::Result<u64> {
        Ok(content_bytes(self.ctx().table.get(fields)?))
    }
}

/// Replaces the functions by which a guest hands over fields and texts, in both generations.
///
/// # Errors
/// When wasmtime refuses a definition, which a test would have shown.
pub fn shadow(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    let mut types = linker.instance(&format!("wasi:http/types@{P2_VERSION}"))?;
    shadow_p2(&mut types)?;
    text::<HostOutgoingRequest, p2::Method, ()>(
        &mut types,
        "[method]outgoing-request.set-method",
        |method| if let p2::Method::Other(method) = method { method.len() } else { 0 },
        |state, request, method| {
            p2::HostOutgoingRequest::set_method(&mut state.http(), request, method)
        },
    )?;
    text::<HostOutgoingRequest, Option<String>, ()>(
        &mut types,
        "[method]outgoing-request.set-path-with-query",
        |path| path.as_ref().map_or(0, String::len),
        |state, request, path| {
            p2::HostOutgoingRequest::set_path_with_query(&mut state.http(), request, path)
        },
    )?;
    text::<HostOutgoingRequest, Option<String>, ()>(
        &mut types,
        "[method]outgoing-request.set-authority",
        |authority| authority.as_ref().map_or(0, String::len),
        |state, request, authority| {
            p2::HostOutgoingRequest::set_authority(&mut state.http(), request, authority)
        },
    )?;
    let mut types = linker.instance(&format!("wasi:http/types@{P3_VERSION}"))?;
    shadow_p3(&mut types)?;
    text::<Request, p3::Method, ()>(
        &mut types,
        "[method]request.set-method",
        |method| if let p3::Method::Other(method) = method { method.len() } else { 0 },
        |state, request, method| p3::HostRequest::set_method(&mut state.http(), request, method),
    )?;
    text::<Request, Option<String>, ()>(
        &mut types,
        "[method]request.set-path-with-query",
        |path| path.as_ref().map_or(0, String::len),
        |state, request, path| {
            p3::HostRequest::set_path_with_query(&mut state.http(), request, path)
        },
    )?;
    text::<Request, Option<String>, ()>(
        &mut types,
        "[method]request.set-authority",
        |authority| authority.as_ref().map_or(0, String::len),
        |state, request, authority| {
            p3::HostRequest::set_authority(&mut state.http(), request, authority)
        },
    )
}

type SetText<R, V, E> = fn(&mut HostState, Resource<R>, V) -> wasmtime::Result<Result<(), E>>;

/// A function that sets one text of a request.
fn text<R, V, E>(
    instance: &mut LinkerInstance<'_, HostState>,
    name: &str,
    length: fn(&V) -> usize,
    set: SetText<R, V, E>,
) -> wasmtime::Result<()>
where
    R: Send + 'static,
    V: wasmtime::component::Lift + wasmtime::component::ComponentType + Send + 'static,
    E: wasmtime::component::Lower + wasmtime::component::ComponentType + Send + 'static,
{
    instance.func_wrap(
        name,
        move |mut store: StoreContextMut<'_, HostState>, (request, value): (Resource<R>, V)| {
            let state = store.data_mut();
            let bytes = length(&value);
            if bytes > 0 {
                state.add_fields(bytes as u64)?;
            }
            Ok((set(state, request, value)?,))
        },
    )
}

fn p2_settle<T>(
    result: Result<T, wasmtime_wasi_http::p2::HeaderError>,
) -> wasmtime::Result<(Result<T, p2::HeaderError>,)> {
    match result {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => Ok((Err(error.downcast()?),)),
    }
}

type Entries = Vec<(String, Vec<u8>)>;
type Values = Vec<Vec<u8>>;

fn entries_bytes(entries: &Entries) -> u64 {
    entries.iter().map(|(name, value)| field_bytes(name, value)).sum()
}

fn values_bytes(name: &str, values: &Values) -> u64 {
    values.iter().map(|value| field_bytes(name, value)).sum()
}

/// The functions of `fields` that are counted, of one generation of WASI: both have the same, in types of
/// their own.
macro_rules! shadow {
    ($name:ident, $generation:ident, $settle:ident) => {
        fn $name(instance: &mut LinkerInstance<'_, HostState>) -> wasmtime::Result<()> {
            instance.func_wrap(
                "[static]fields.from-list",
                |mut store: StoreContextMut<'_, HostState>, (entries,): (Entries,)| {
                    let state = store.data_mut();
                    state.add_fields(entries_bytes(&entries))?;
                    $settle($generation::HostFields::from_list(&mut state.http(), entries))
                },
            )?;
            instance.func_wrap(
                "[method]fields.set",
                |mut store: StoreContextMut<'_, HostState>,
                 (fields, name, values): (Resource<FieldMap>, String, Values)| {
                    let state = store.data_mut();
                    state.add_fields(values_bytes(&name, &values))?;
                    $settle($generation::HostFields::set(&mut state.http(), fields, name, values))
                },
            )?;
            instance.func_wrap(
                "[method]fields.append",
                |mut store: StoreContextMut<'_, HostState>,
                 (fields, name, value): (Resource<FieldMap>, String, Vec<u8>)| {
                    let state = store.data_mut();
                    state.add_fields(field_bytes(&name, &value))?;
                    $settle($generation::HostFields::append(&mut state.http(), fields, name, value))
                },
            )?;
            instance.func_wrap(
                "[method]fields.clone",
                |mut store: StoreContextMut<'_, HostState>, (fields,): (Resource<FieldMap>,)| {
                    let state = store.data_mut();
                    let bytes = state.content_bytes(&fields)?;
                    state.add_fields(bytes)?;
                    let copy = $generation::HostFields::clone(&mut state.http(), fields)?;
                    own(state, &copy)?;
                    Ok((copy,))
                },
            )?;
            drops(instance, |state, fields| {
                $generation::HostFields::drop(&mut state.http(), fields)
            })
        }
    };
}

shadow!(shadow_p2, p2, p2_settle);
shadow!(shadow_p3, p3, settle);

/// Makes a clone a copy now, since it was counted now: wasmtime-wasi-http would copy it at the first
/// change.
fn own(state: &mut HostState, fields: &Resource<FieldMap>) -> wasmtime::Result<()> {
    let map: HeaderMap = HeaderMap::clone(state.ctx().table.get(fields)?);
    let limit = super::limits::MAX_HTTP_FIELDS_BYTES;
    let hooks = state.http().hooks;
    let mut copy = FieldMap::new_immutable(hooks, map);
    copy.set_mutable(limit);
    *state.ctx().table.get_mut(fields)? = copy;
    Ok(())
}

fn drops(
    instance: &mut LinkerInstance<'_, HostState>,
    drop_fields: fn(&mut HostState, Resource<FieldMap>) -> wasmtime::Result<()>,
) -> wasmtime::Result<()> {
    let destructor = move |mut store: StoreContextMut<'_, HostState>, rep| {
        let state = store.data_mut();
        drop_fields(state, Resource::new_own(rep))?;
        state.fields_dropped();
        Ok(())
    };
    instance.resource("fields", ResourceType::host::<FieldMap>(), destructor)
}
