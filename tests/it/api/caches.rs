//! Caches over an API that goes wrong: a store restored from a backup, watches that break.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use parking_lot::Mutex;
use wasmfleet::api::ApiError;
use wasmfleet::base::Tasks;
use wasmfleet::client::around::{Around, Call};
use wasmfleet::client::cache::Cache;
use wasmfleet::client::{Target, WatchEvent, WatchOptions, WatchStream};

use super::*;

type WatchOf = Box<dyn Fn(WatchStream) -> WatchStream + Send + Sync>;

/// Reads from the API that is set now; each watch is bent by `watch_of`.
struct Bent {
    inner: Mutex<SharedApi>,
    watch_of: WatchOf,
    lists: AtomicUsize,
    watches: AtomicUsize,
}

impl Bent {
    fn new(inner: SharedApi, watch_of: WatchOf) -> Arc<Bent> {
        let (lists, watches) = Default::default();
        Arc::new(Bent { inner: Mutex::new(inner), watch_of, lists, watches })
    }
}

impl Around for Bent {
    fn inner(&self) -> SharedApi {
        self.inner.lock().clone()
    }

    async fn before(&self, call: Call<'_>) -> Result<(), ApiError> {
        let count = match call {
            Call::List(_) => &self.lists,
            Call::Watch(_) => &self.watches,
            _ => return Ok(()),
        };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn watch(
        &self,
        target: &Target,
        options: &WatchOptions,
    ) -> Result<WatchStream, ApiError> {
        Ok((self.watch_of)(self.inner().watch(target, options).await?))
    }
}

/// Waits until the cache has these ConfigMaps, in virtual time.
async fn holds(cache: &Cache, wanted: &[&str]) {
    let names = || -> Vec<String> {
        let view = cache.view();
        let mut names: Vec<_> =
            view.all::<ConfigMap>().map(|map| map.metadata.name.clone().unwrap()).collect();
        names.sort();
        names
    };
    let found = async {
        while names() != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let result = tokio::time::timeout(Duration::from_secs(60), found).await;
    assert!(result.is_ok(), "{:?} and not {wanted:?}", names());
}

#[tokio::test(start_paused = true)]
async fn a_cache_lists_again_when_the_store_went_back_in_time() {
    let (before, after) = (Cluster::new().await, Cluster::new().await);
    for name in ["a", "b", "c"] {
        before.config_map(name, json!({})).await;
    }
    after.config_map("a", json!({})).await;
    assert!(after.store.revision() < before.store.revision());
    let api = Bent::new(before.api(), Box::new(|stream| stream));
    let (cache, tasks) = (Cache::new(), Tasks::default());
    cache.keep::<ConfigMap>(api.clone(), "", &tasks);
    holds(&cache, &["a", "b", "c"]).await;
    *api.inner.lock() = after.api();
    before.store.close().await;
    holds(&cache, &["a"]).await;
    after.config_map("d", json!({})).await;
    holds(&cache, &["a", "d"]).await;
    tasks.shut_down(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_breaks_goes_on_at_once_if_it_brought_something() {
    let cluster = Cluster::new().await;
    cluster.config_map("a", json!({})).await;
    let broken = || ApiError::unavailable("the connection was lost");
    let bookmark = || Ok(WatchEvent::Bookmark("5".into()));
    for (events, most_watches, least_watches) in [(0, 20, 2), (1, 1000, 100)] {
        let api = Bent::new(
            cluster.api(),
            Box::new(move |_| {
                let some = (0..events).map(move |_| bookmark());
                futures::stream::iter(some.chain(std::iter::once(Err(broken())))).boxed()
            }),
        );
        let (cache, tasks) = (Cache::new(), Tasks::default());
        cache.keep::<ConfigMap>(api.clone(), "", &tasks);
        tokio::time::sleep(Duration::from_secs(10)).await;
        tasks.shut_down(Duration::from_secs(1)).await;
        let watches = api.watches.load(Ordering::Relaxed);
        assert!((least_watches..most_watches).contains(&watches), "{events}: {watches}");
        // The revision is not doubted by it.
        assert_eq!(api.lists.load(Ordering::Relaxed), 1);
    }
}
