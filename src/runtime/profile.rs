//! Profiles of a container's guests, while somebody asks for one: samples at the epoch's ticks, in
//! the format of the Firefox profiler (github.com/firefox-devtools/profiler,
//! docs-developer/processed-profile-format.md). While nobody asks, a tick looks at one flag.
//!
//! A sample is taken of a guest that runs, at its next loop or call after a tick: waiting costs
//! nothing and does not show, and time in host functions is their caller's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use parking_lot::Mutex;
use wasmtime::{AsContext, Engine, GuestProfiler};

use super::StartError;
use super::host::Sandbox;
use super::meter::TICK;
use super::prepared::PreparedCode;

/// The longest profile.
pub const MAX_DURATION: Duration = Duration::from_secs(300);
/// Samples of one profile: five minutes of two busy threads.
const MAX_SAMPLES: usize = 300_000;

/// The place of a container's profile, shared by all of its stores.
#[derive(Default)]
pub struct Profiling {
    active: AtomicBool,
    current: Mutex<Option<Current>>,
}

struct Current {
    profiler: GuestProfiler,
    samples: usize,
}

impl Profiling {
    /// Called at a tick by the guest that runs.
    pub fn tick(&self, store: impl AsContext) {
        if self.active.load(Ordering::Relaxed)
            && let Some(current) = self.current.lock().as_mut()
            && current.samples < MAX_SAMPLES
        {
            current.samples += 1;
            current.profiler.sample(store, TICK);
        }
    }
}

/// Ends a profile that nobody waits for any more.
struct Ending(Arc<Profiling>);

impl Ending {
    fn take(&self) -> Option<Current> {
        self.0.active.store(false, Ordering::Relaxed);
        self.0.current.lock().take()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.take();
    }
}

/// Samples the container's guests until `until` is over or the container ended; the file's bytes.
///
/// # Errors
/// When a profile of the container is under way, or there is nothing to name functions by.
pub async fn profile(
    (engine, is_pooled): (&Engine, bool),
    sandbox: &Arc<Sandbox>,
    until: BoxFuture<'static, ()>,
) -> Result<Vec<u8>, StartError> {
    let failed = |error: wasmtime::Error| StartError::Internal(format!("{error:#}"));
    let code = sandbox.spec.artifact.as_any().downcast_ref::<PreparedCode>();
    let code = code.ok_or_else(|| StartError::Internal("the code is another runtime's".into()))?;
    let name = &sandbox.spec.container_name;
    let profiling = sandbox.profiling.clone();
    let ending = {
        let mut current = profiling.current.lock();
        if current.is_some() {
            let text = "a profile of the container is being made already";
            return Err(StartError::Container(text.to_owned()));
        }
        let profiler = code.profiler(engine, is_pooled, name, TICK).map_err(failed)?;
        *current = Some(Current { profiler, samples: 0 });
        profiling.active.store(true, Ordering::Relaxed);
        Ending(profiling.clone())
    };
    let mut ended = sandbox.ended.subscribe();
    tokio::select! {
        () = until => {}
        _ = ended.wait_for(|ended| *ended) => {}
    }
    let Some(current) = ending.take() else {
        return Err(StartError::Internal("the profile was lost".to_owned()));
    };
    let written = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        current.profiler.finish(&mut out).map(|()| out)
    });
    let written = written.await.map_err(|error| StartError::Internal(error.to_string()))?;
    written.map_err(failed)
}
