//! Tells nodes of Services, by name and for environments, from the watch cache that the proxy has,
//! too.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use rand::seq::SliceRandom;

use crate::client::cache::Cache;
use crate::node::service_links::Services;
use crate::proxy::names;
use crate::runtime::Names;

/// Names of Services, from a cache that keeps Services and EndpointSlices.
pub struct ServiceNames {
    cache: Arc<Cache>,
}

impl ServiceNames {
    pub fn new(cache: Arc<Cache>) -> Arc<ServiceNames> {
        Arc::new(ServiceNames { cache })
    }
}

impl Names for ServiceNames {
    fn resolve(&self, namespace: &str, name: &str) -> Option<Vec<IpAddr>> {
        let mut found = names::resolve(&self.cache.view(), namespace, name)?;
        // Most programs take the first: each endpoint of a headless Service has its turn.
        found.shuffle(&mut rand::rng());
        Some(found)
    }
}

#[async_trait::async_trait]
impl Services for ServiceNames {
    async fn synced(&self) {
        self.cache.wait_synced().await;
    }

    fn in_namespace(&self, namespace: &str) -> Vec<Arc<Service>> {
        self.cache.view().in_namespace::<Service>(namespace).cloned().collect()
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.cache.view().get::<Service>(namespace, name).cloned()
    }
}
