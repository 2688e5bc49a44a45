//! `wasi:config`, `wasi:keyvalue` and our own `wasmfleet:workload`, as guests import them.
//!
//! The interfaces are those of `wit/`; what stands behind them is the container's
//! [`Workload`](super::workload::Workload) and its [`Signals`]. A bucket is read whole for each
//! call, since it is small by its keeper's bound, and every write is durable when it returns.

use std::sync::Arc;

use wasmtime::component::{Accessor, HasSelf, Linker, Resource};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};

use super::host::HostState;
use super::signals::Signals;
use super::store_memory::Buffer;
use super::workload::{Bucket as Contents, Changes, Workload, WriteError};
use bindings::wasi::config::store as config;
use bindings::wasi::keyvalue::store::{Error, KeyResponse};
use bindings::wasi::keyvalue::{atomics, batch, store};
use bindings::wasmfleet::workload::{identity, lifecycle, readiness};

/// Longest key of a bucket, in bytes.
const MAX_KEY_BYTES: usize = 128;
/// Longest value, in bytes. A bucket as a whole has a bound, too, which its keeper holds.
const MAX_VALUE_BYTES: usize = 256 << 10;
/// How often an increment begins again because somebody else was faster.
const MAX_TRIES: usize = 64;

/// A bucket that a guest opened.
pub struct Bucket(String);

mod bindings {
    wasmtime::component::bindgen!({
        path: "wit",
        world: "wasmfleet:workload/workload",
        imports: { default: async | trappable },
        require_store_data_send: true,
        with: {
            "wasi:io": wasmtime_wasi::p2::bindings::io,
            "wasi:keyvalue/store.bucket": super::Bucket,
        },
    });
}

/// Defines all of them.
///
/// # Errors
/// When wasmtime refuses a definition, which a test would have shown.
pub fn add_to_linker(linker: &mut Linker<HostState>) -> wasmtime::Result<()> {
    fn own(state: &mut HostState) -> &mut HostState {
        state
    }
    config::add_to_linker::<_, HasSelf<HostState>>(linker, own)?;
    store::add_to_linker::<_, HasSelf<HostState>>(linker, own)?;
    atomics::add_to_linker::<_, HasSelf<HostState>>(linker, own)?;
    batch::add_to_linker::<_, HasSelf<HostState>>(linker, own)?;
    lifecycle::add_to_linker::<_, HasSelf<HostState>>(linker, own)?;
    readiness::add_to_linker::<_, HasSelf<HostState>>(linker, own)?;
    identity::add_to_linker::<_, HasSelf<HostState>>(linker, own)?;
    linker.instance("wasmfleet:workload/shutdown@0.1.0")?.func_wrap_concurrent(
        "wait",
        |accessor: &Accessor<HostState>, (): ()| {
            Box::pin(async move {
                let signals = accessor.with(|mut access| access.data_mut().signals.clone());
                signals.stopping().await;
                Ok((grace_millis(&signals).unwrap_or(0),))
            })
        },
    )
}

fn grace_millis(signals: &Signals) -> Option<u64> {
    signals.remaining().map(|rest| u64::try_from(rest.as_millis()).unwrap_or(u64::MAX))
}

/// Ready once the container was told to end.
struct Shutdown(Arc<Signals>);

#[async_trait]
impl Pollable for Shutdown {
    async fn ready(&mut self) {
        self.0.stopping().await;
    }
}

impl lifecycle::Host for HostState {
    async fn subscribe_shutdown(&mut self) -> wasmtime::Result<Resource<DynPollable>> {
        let shutdown = Shutdown(self.signals.clone());
        let table = self.ctx().table;
        let shutdown = table.push(shutdown)?;
        subscribe(table, shutdown)
    }

    async fn grace_remaining(&mut self) -> wasmtime::Result<Option<u64>> {
        Ok(grace_millis(&self.signals))
    }
}

impl readiness::Host for HostState {
    async fn set_ready(&mut self, ready: bool) -> wasmtime::Result<()> {
        self.signals.set_ready(ready).await;
        Ok(())
    }
}

impl identity::Host for HostState {
    async fn whoami(&mut self) -> wasmtime::Result<identity::Workload> {
        let own = self.workload.identity.clone();
        Ok(identity::Workload {
            namespace: own.namespace,
            pod: own.pod,
            uid: own.uid,
            container: own.container,
            node: own.node,
            service_account: own.service_account,
            labels: own.labels.into_iter().collect(),
        })
    }

    async fn token(
        &mut self,
        audience: String,
    ) -> wasmtime::Result<Result<String, identity::TokenError>> {
        if !self.workload.audiences.contains(&audience) {
            return Ok(Err(identity::TokenError::Denied));
        }
        let token = self.workload.platform.token(&audience).await;
        Ok(token.map_err(identity::TokenError::Unavailable))
    }
}

impl config::Host for HostState {
    async fn get(
        &mut self,
        key: String,
    ) -> wasmtime::Result<Result<Option<String>, config::Error>> {
        Ok(Ok(self.workload.config.get(&key).cloned()))
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, config::Error>> {
        Ok(Ok(self.workload.config.clone().into_iter().collect()))
    }
}

/// A key that a bucket may have.
fn checked(key: &str) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::Other("a key is not empty".to_owned())),
        1..=MAX_KEY_BYTES => Ok(()),
        _ => Err(Error::Other(format!("a key has at most {MAX_KEY_BYTES} bytes"))),
    }
}

fn put(key: String, value: Vec<u8>) -> Result<(String, Option<Vec<u8>>), Error> {
    checked(&key)?;
    if value.len() > MAX_VALUE_BYTES {
        return Err(Error::Other(format!("a value has at most {MAX_VALUE_BYTES} bytes")));
    }
    Ok((key, Some(value)))
}

/// A bucket at work, apart from the store that it was opened in.
struct Opened {
    name: String,
    workload: Arc<Workload>,
}

impl HostState {
    fn bucket(&mut self, bucket: &Resource<Bucket>) -> wasmtime::Result<Opened> {
        let workload = self.workload.clone();
        Ok(Opened { name: self.ctx().table.get(bucket)?.0.clone(), workload })
    }
}

impl Opened {
    async fn contents(&self) -> Result<Contents, Error> {
        self.workload.platform.read(&self.name).await.map_err(Error::Other)
    }

    async fn change(&self, changes: Result<Changes, Error>) -> Result<(), Error> {
        let changes = changes?;
        if changes.is_empty() {
            return Ok(());
        }
        let written = self.workload.platform.write(&self.name, None, changes).await;
        written.map_err(|error| match error {
            WriteError::Conflict => Error::Other("others change the bucket too often".to_owned()),
            WriteError::Failed(text) => Error::Other(text),
        })
    }

    async fn add(&self, key: &str, delta: u64) -> Result<u64, Error> {
        checked(key)?;
        let _alone = self.workload.counting.lock().await;
        for _ in 0..MAX_TRIES {
            let contents = self.contents().await?;
            let now = match contents.entries.get(key) {
                Some(value) => number(value)?,
                None => 0,
            };
            let next = now.checked_add(delta);
            let next = next.ok_or_else(|| Error::Other(format!("{now} cannot grow by {delta}")))?;
            let changes = vec![(key.to_owned(), Some(next.to_string().into_bytes()))];
            // Of a bucket that is not there yet, the first writer makes the version.
            let version = contents.version.as_deref().unwrap_or_default();
            match self.workload.platform.write(&self.name, Some(version), changes).await {
                Ok(()) => return Ok(next),
                Err(WriteError::Conflict) => {}
                Err(WriteError::Failed(text)) => return Err(Error::Other(text)),
            }
        }
        Err(Error::Other(format!("others changed the bucket {MAX_TRIES} times meanwhile")))
    }
}

/// A counter is kept as its decimal digits (as wasmtime-wasi-keyvalue does).
fn number(value: &[u8]) -> Result<u64, Error> {
    let text = std::str::from_utf8(value).ok();
    let number = text.and_then(|text| text.parse().ok());
    number.ok_or_else(|| Error::Other("the value is no number in decimal digits".to_owned()))
}

impl store::Host for HostState {
    async fn open(
        &mut self,
        identifier: String,
    ) -> wasmtime::Result<Result<Resource<Bucket>, Error>> {
        let buckets = &self.workload.buckets;
        let found = match identifier.as_str() {
            "" => buckets.first(),
            name => buckets.iter().find(|bucket| *bucket == name),
        };
        let Some(name) = found.cloned() else {
            return Ok(Err(Error::AccessDenied));
        };
        Ok(Ok(self.ctx().table.push(Bucket(name))?))
    }
}

impl store::HostBucket for HostState {
    async fn get(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<Option<Vec<u8>>, Error>> {
        let bucket = self.bucket(&bucket)?;
        Ok(bucket.contents().await.map(|mut contents| contents.entries.remove(&key)))
    }

    async fn set(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        value: Vec<u8>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let bucket = self.bucket(&bucket)?;
        Ok(bucket.change(put(key, value).map(|change| vec![change])).await)
    }

    async fn delete(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<(), Error>> {
        let bucket = self.bucket(&bucket)?;
        let changes = checked(&key).map(|()| vec![(key, None)]);
        Ok(bucket.change(changes).await)
    }

    async fn exists(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
    ) -> wasmtime::Result<Result<bool, Error>> {
        let bucket = self.bucket(&bucket)?;
        Ok(bucket.contents().await.map(|contents| contents.entries.contains_key(&key)))
    }

    /// A bucket is small: one answer holds all its keys.
    async fn list_keys(
        &mut self,
        bucket: Resource<Bucket>,
        cursor: Option<u64>,
    ) -> wasmtime::Result<Result<KeyResponse, Error>> {
        let bucket = self.bucket(&bucket)?;
        let after = usize::try_from(cursor.unwrap_or(0)).unwrap_or(usize::MAX);
        let contents = bucket.contents().await;
        Ok(contents.map(|contents| KeyResponse {
            keys: contents.entries.into_keys().skip(after).collect(),
            cursor: None,
        }))
    }

    async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
        self.ctx().table.delete(bucket)?;
        Ok(())
    }
}

impl atomics::Host for HostState {
    async fn increment(
        &mut self,
        bucket: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> wasmtime::Result<Result<u64, Error>> {
        let bucket = self.bucket(&bucket)?;
        Ok(bucket.add(&key, delta).await)
    }
}

fn answer_bytes(contents: &Contents, keys: &[String]) -> u64 {
    let values = keys.iter().filter_map(|key| contents.entries.get(key));
    values.map(|value| value.len() as u64).sum()
}

impl batch::Host for HostState {
    async fn get_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<Vec<Option<(String, Vec<u8>)>>, Error>> {
        let bucket = self.bucket(&bucket)?;
        let contents = match bucket.contents().await {
            Ok(contents) => contents,
            Err(error) => return Ok(Err(error)),
        };
        // A key may be asked for any number of times, each with its value.
        let mut answer = Buffer::none(self.share());
        answer.resize(answer_bytes(&contents, &keys))?;
        let found = |key: String| {
            let value = contents.entries.get(&key).cloned()?;
            Some((key, value))
        };
        Ok(Ok(keys.into_iter().map(found).collect()))
    }

    /// All or none, which is more than the interface promises.
    async fn set_many(
        &mut self,
        bucket: Resource<Bucket>,
        key_values: Vec<(String, Vec<u8>)>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let bucket = self.bucket(&bucket)?;
        let changes = key_values.into_iter().map(|(key, value)| put(key, value)).collect();
        Ok(bucket.change(changes).await)
    }

    async fn delete_many(
        &mut self,
        bucket: Resource<Bucket>,
        keys: Vec<String>,
    ) -> wasmtime::Result<Result<(), Error>> {
        let bucket = self.bucket(&bucket)?;
        let changes = keys.into_iter().map(|key| checked(&key).map(|()| (key, None))).collect();
        Ok(bucket.change(changes).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_as_large_as_what_was_asked_for_in_it() {
        let entries = [("a".to_owned(), vec![0; 1000]), ("b".to_owned(), vec![0; 10])].into();
        let contents = Contents { version: None, entries };
        let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        assert_eq!(answer_bytes(&contents, &keys(&["a", "b", "c"])), 1010);
        assert_eq!(answer_bytes(&contents, &keys(&["a"; 500])), 500_000);
    }
}
