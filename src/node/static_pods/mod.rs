//! Static pods: pods that the node has from files of a folder, and runs whether or not there is an
//! API. The API shows each by a mirror, which the node makes and keeps the status of.
//!
//! ```text
//!   folder ──read──▶ Folder ──wanted──▶ Manager (`manage`) ──▶ one PodWorker a pod
//!    by period and     (pure)               │ what runs,            │ its status
//!    when it changes                        │ what the API has      ▼
//!                                           └──────────────▶ Mirrors ──▶ API
//! ```
//!
//! The name of a pod is that of its file's and the node's; its uid is a digest of both and of the
//! content, so that a changed file is another pod, which begins when the one before it has ended. A
//! file that is gone ends its pod as a deletion would. The pod of a file that cannot be read any
//! more runs on: half a file is no reason to end it.
//!
//! Source: k8s.io/kubernetes pkg/kubelet/config, pkg/kubelet/pod/mirror_client.go.

mod folder;
mod inotify;
mod manage;
mod manifest;
mod mirror;
mod range;
mod status;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::watch;

use super::Shared;
use crate::api::ObjectKey;
use crate::base::dirty_set::DirtySet;
use crate::client::event::Notice;

pub(super) use manage::Statics;
pub(super) use mirror::keep_mirrors;
pub(super) use range::remember;
pub(super) use status::StatusSink;

use folder::{Folder, Trouble};
use mirror::Mirrors;

/// After a change the folder is left alone for so long: who writes a file is seldom done with it at
/// once, and nobody makes the node read it without an end.
const SETTLE: Duration = Duration::from_millis(200);

/// Where static pods are.
#[derive(Clone, Debug)]
pub struct Source {
    /// A folder, each of whose files is a pod, or one such file.
    pub path: PathBuf,
    /// How often it is read (kubelet's fileCheckFrequency: 20 s); changes are seen at once where
    /// the system tells of them.
    pub period: Duration,
}

/// The pods that the folder wants, by namespace and name.
pub type Wanted = Arc<BTreeMap<ObjectKey, Arc<Pod>>>;

/// What the node's parts share of static pods.
pub struct StaticPods {
    /// `None` until the folder was read for the first time.
    wanted: watch::Sender<Option<Wanted>>,
    mirrors: Mirrors,
}

impl StaticPods {
    pub fn new(source: Option<&Source>) -> StaticPods {
        let known = source.is_none().then(Wanted::default);
        StaticPods { wanted: watch::Sender::new(known), mirrors: Mirrors::default() }
    }

    /// What the folder wants; nothing until it was read.
    fn wanted(&self) -> Wanted {
        self.wanted.borrow().clone().unwrap_or_default()
    }

    async fn read_once(&self) {
        // It fails when the sender is gone, which is `self`.
        let _ = self.wanted.subscribe().wait_for(Option::is_some).await;
    }
}

/// Reads the folder again and again, and marks the pods that changed.
pub(super) async fn keep_reading(node: Arc<Shared>, source: Source, dirty: DirtySet<ObjectKey>) {
    let mut folder = Folder::new(&source.path, &node.options.name);
    loop {
        // Before the look, so that no change comes between the two.
        let changes = inotify::Changes::of(&source.path);
        let path = source.path.clone();
        let listing = tokio::task::spawn_blocking(move || folder::read(&path)).await;
        if let Ok(listing) = listing {
            let troubles = folder.take(listing, node.clock.now());
            publish(&node, folder.wanted(), &dirty);
            tell(&node, troubles);
        }
        tokio::select! {
            () = node.clock.sleep(source.period) => {}
            () = changes.next() => node.clock.sleep(SETTLE).await,
        }
    }
}

fn publish(node: &Shared, wanted: Wanted, dirty: &DirtySet<ObjectKey>) {
    let before = node.static_pods.wanted.send_replace(Some(wanted.clone())).unwrap_or_default();
    let uid = |pods: &Wanted, key: &ObjectKey| pods.get(key)?.metadata.uid.clone();
    for key in before.keys().chain(wanted.keys()) {
        if uid(&before, key) != uid(&wanted, key) {
            dirty.mark(key.clone());
        }
    }
}

/// To the log, and as Events of the Node.
fn tell(node: &Shared, troubles: Vec<Trouble>) {
    for Trouble { file, message } in troubles {
        tracing::warn!(node = node.options.name, file = %file.display(), message, "static pods");
        let text = format!("{}: {message}", file.display());
        node.tell(Notice::warning(&node_object(node), "InvalidStaticPod", text));
    }
}

/// The Node as Events of its agent name it (kubelet puts the name for the uid).
fn node_object(node: &Shared) -> NodeObject {
    let name = Some(node.options.name.clone());
    let metadata = ObjectMeta { name: name.clone(), uid: name, ..ObjectMeta::default() };
    NodeObject { metadata, ..NodeObject::default() }
}
