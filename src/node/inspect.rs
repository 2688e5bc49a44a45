//! Looks into a container's program: profiles of one that runs, and core dumps of one that
//! trapped. Dumps lie beside the container's logs and go with them.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;

use super::streams::Pieces;
use super::{Node, query};
use crate::api::ApiError;
use crate::api::error::Reason;
use crate::api::kinds::pod_grants::CORE_DUMP;
use crate::base::private;
use crate::runtime::{CoreDumps, MAX_PROFILE, StartError};

/// Dumps that a node keeps; the oldest goes.
const MAX_DUMPS: usize = 16;
const FILE: &str = "core.wasm";
const READ_BYTES: usize = 64 << 10;

/// The dumps that the node keeps, the oldest first.
#[derive(Default)]
pub struct KeptDumps(Mutex<VecDeque<PathBuf>>);

/// The place of one container's dump.
pub struct DumpPlace {
    path: PathBuf,
    kept: Arc<KeptDumps>,
}

impl DumpPlace {
    /// Of a pod that asks for dumps.
    pub fn of(pod: &Pod, log_dir: &Path, kept: &Arc<KeptDumps>) -> Option<Arc<dyn CoreDumps>> {
        let annotations = pod.metadata.annotations.as_ref()?;
        let asked = annotations.get(CORE_DUMP)? == "true";
        let place = DumpPlace { path: log_dir.join(FILE), kept: kept.clone() };
        asked.then(|| Arc::new(place) as Arc<dyn CoreDumps>)
    }

    fn write(&self, dump: &[u8]) -> io::Result<()> {
        private::make_dir(self.path.parent().unwrap_or(Path::new("/")))?;
        let unfinished = self.path.with_extension("new");
        std::fs::write(&unfinished, dump)?;
        std::fs::rename(&unfinished, &self.path)?;
        let mut kept = self.kept.0.lock();
        kept.retain(|path| *path != self.path);
        kept.push_back(self.path.clone());
        while kept.len() > MAX_DUMPS
            && let Some(oldest) = kept.pop_front()
        {
            // It may be gone with its pod.
            let _ = std::fs::remove_file(oldest);
        }
        Ok(())
    }
}

impl CoreDumps for DumpPlace {
    fn keep(&self, dump: Vec<u8>) {
        let place = DumpPlace { path: self.path.clone(), kept: self.kept.clone() };
        tokio::task::spawn_blocking(move || {
            if let Err(error) = place.write(&dump) {
                let path = place.path.display();
                tracing::warn!(%path, %error, "a core dump is not kept");
            }
        });
    }
}

impl Node {
    /// Profiles a container for `seconds` of the query; the answer begins at once.
    pub(super) async fn profile(
        &self,
        [namespace, pod, container]: [&str; 3],
        query: &str,
    ) -> Result<Pieces, ApiError> {
        let seconds = query::pairs(query).find(|(key, _)| *key == "seconds");
        let seconds = seconds.and_then(|(_, value)| value.parse::<u64>().ok());
        let most = MAX_PROFILE.as_secs();
        let seconds = seconds.filter(|seconds| (1..=most).contains(seconds));
        let seconds = seconds.ok_or_else(|| {
            query::wrong("seconds", &format!("a number of seconds from 1 to {most}"))
        })?;
        let running = self.running(namespace, pod, container)?.container.upgrade();
        let running = running.ok_or_else(|| {
            let text = format!("container {container:?} in pod {pod:?} is not running");
            ApiError::bad_request(text)
        })?;
        let clock = self.shared.clock.clone();
        let until = async move { clock.sleep(Duration::from_secs(seconds)).await }.boxed();
        let mut made = async move { running.profile(until).await }.boxed();
        let ready = |result: Result<Vec<u8>, StartError>| match result {
            Ok(bytes) => Ok(Bytes::from(bytes)),
            Err(StartError::Container(why)) => Err(ApiError::new(409, Reason::Conflict, why)),
            Err(StartError::Internal(why)) => Err(ApiError::unavailable(why)),
        };
        // What cannot begin is told by the answer's code.
        if let Poll::Ready(result) = futures::poll!(&mut made) {
            let bytes = ready(result)?;
            return Ok(futures::stream::iter([Ok(bytes)]).boxed());
        }
        let later =
            made.map(move |result| ready(result).map_err(|error| io::Error::other(error.message)));
        Ok(futures::stream::once(later).boxed())
    }

    /// The last core dump of a container.
    pub(super) async fn core_dump(
        &self,
        [namespace, pod, container]: [&str; 3],
    ) -> Result<Pieces, ApiError> {
        let entry = self.pod(namespace, pod)?;
        if !entry.has(container) {
            let text = format!("container {container} is not valid for pod {pod}");
            return Err(ApiError::bad_request(text));
        }
        let dir = self.shared.logs.pod_dir(namespace, pod, &entry.uid).join(container);
        let file = match tokio::fs::File::open(dir.join(FILE)).await {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let asked = entry.pod().metadata.annotations.clone().unwrap_or_default();
                let hint = match asked.get(CORE_DUMP).map(String::as_str) {
                    Some("true") => "its program did not trap".to_string(),
                    _ => format!("the pod has no annotation {CORE_DUMP}: \"true\""),
                };
                let text = format!("there is no core dump of container {container:?}: {hint}");
                return Err(ApiError::new(404, Reason::NotFound, text));
            }
            Err(error) => return Err(ApiError::internal(error)),
        };
        let pieces = futures::stream::unfold(Some(file), |file| async {
            let mut file = file?;
            let mut buffer = BytesMut::with_capacity(READ_BYTES);
            match file.read_buf(&mut buffer).await {
                Ok(0) => None,
                Ok(_) => Some((Ok(buffer.freeze()), Some(file))),
                Err(error) => Some((Err(error), None)),
            }
        });
        Ok(pieces.boxed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_so_many_dumps() {
        let dir = tempfile::tempdir().unwrap();
        let kept = Arc::new(KeptDumps::default());
        let place = |n: usize| DumpPlace {
            path: dir.path().join(n.to_string()).join(FILE),
            kept: kept.clone(),
        };
        for n in 0..MAX_DUMPS {
            place(n).write(b"one").unwrap();
        }
        place(0).write(b"newer").unwrap();
        place(MAX_DUMPS).write(b"more").unwrap();
        assert_eq!(std::fs::read(place(0).path).unwrap(), b"newer");
        assert!(!place(1).path.exists() && place(2).path.exists());
        let pod = Pod::default();
        assert!(DumpPlace::of(&pod, dir.path(), &kept).is_none(), "nobody asked");
    }
}
