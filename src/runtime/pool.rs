//! Places for instances of HTTP handlers that stay mapped between requests: memories, tables and
//! stacks. To map and unmap them for each request costs a quarter of what a request costs, since
//! each unmapping interrupts the other cores. wasmtime clears a place before its next use.
//!
//! A memory in a place cannot grow beyond what is reserved for it, so only containers whose limit
//! is below that have instances here; and who finds no place free is mapped anew, as all others.
//!
//! Guests of WASI 0.3 are not here: every call of one that waits in the host keeps a stack, as many as
//! it has handles at worst, and wasmtime takes them from the places' own, of which each needs two
//! mappings (a process has 65,530). Who finds none fails there instead of waiting, so one guest could
//! fail its neighbours' requests. Reuse (`http_reuse`) spares them the mapping where a pod asks for it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::component::Component;
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use super::host::{HostState, Linkers};
use super::limits::{MAX_INSTANCES, MAX_TABLE_ELEMENTS};
use crate::engine::supply::Native;
use crate::engine::{self, MEMORY_RESERVATION_BYTES};

/// Instances that have a place at once, in the whole process.
const PLACES: u32 = 256;
/// Tables of one instance.
const TABLES: u32 = 8;
/// Free places whose pages stay in memory, and how many of each: a handler touches some dozen.
const WARM_PLACES: u32 = 32;
const KEPT_MEMORY_BYTES: usize = 512 << 10;
const KEPT_TABLE_BYTES: usize = 16 << 10;

pub struct Pool {
    pub engine: Engine,
    linkers: Linkers,
    places: Arc<Semaphore>,
}

/// The place of one instance; dropped after its store.
pub type PlaceInPool = OwnedSemaphorePermit;

impl Pool {
    /// # Errors
    /// When the address space has no room for the places.
    pub fn new() -> wasmtime::Result<Pool> {
        let mut pooling = PoolingAllocationConfig::new();
        pooling
            .total_component_instances(PLACES)
            .total_core_instances(PLACES * MAX_INSTANCES as u32)
            .total_memories(PLACES)
            .total_tables(PLACES * TABLES)
            .total_stacks(PLACES)
            .max_core_instances_per_component(MAX_INSTANCES as u32)
            .max_memories_per_component(1)
            .max_tables_per_component(TABLES)
            .max_tables_per_module(TABLES)
            .table_elements(MAX_TABLE_ELEMENTS)
            .max_memory_size(MEMORY_RESERVATION_BYTES as usize)
            .max_unused_warm_slots(WARM_PLACES)
            .linear_memory_keep_resident(KEPT_MEMORY_BYTES)
            .table_keep_resident(KEPT_TABLE_BYTES)
            .pagemap_scan(Enabled::Auto);
        let mut config = engine::config();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pooling));
        let engine = Engine::new(&config)?;
        let linkers = Linkers::new(&engine)?;
        Ok(Pool { engine, linkers, places: Arc::new(Semaphore::new(PLACES as usize)) })
    }

    /// A place, if one is free.
    pub fn take(&self) -> Option<PlaceInPool> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Whether memories of a container with this limit fit.
    pub fn fits(&self, memory_limit_bytes: u64) -> bool {
        memory_limit_bytes <= MEMORY_RESERVATION_BYTES
    }

    /// A handler's code once more, for instances in places; `None` if it is too large for one.
    ///
    /// # Safety
    /// As of [`super::prepared::PreparedCode::load`].
    pub unsafe fn load(&self, native: &Native) -> Option<ProxyPre<HostState>> {
        // SAFETY: the caller's promise.
        let component = unsafe {
            match native {
                Native::File(file) => Component::deserialize_file(&self.engine, file.path()),
                Native::Bytes(code) => Component::deserialize(&self.engine, code),
            }
        };
        let pre = component
            .and_then(|component| self.linkers.components.instantiate_pre(&component))
            .and_then(ProxyPre::new);
        pre.inspect_err(|error| tracing::debug!(%error, "a handler is not pooled")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let pool = Pool::new().expect("there is room");
        let mut taken: Vec<PlaceInPool> = (0..PLACES).map_while(|_| pool.take()).collect();
        assert_eq!(taken.len(), PLACES as usize);
        assert!(pool.take().is_none(), "the next one is mapped anew");
        taken.pop();
        assert!(pool.take().is_some());
        assert!(pool.fits(MEMORY_RESERVATION_BYTES) && !pool.fits(MEMORY_RESERVATION_BYTES + 1));
    }
}
