//! Where a worker's status goes: to the object that it runs, or, of a static pod, to the mirror
//! that there may be.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::api::kinds::static_pod;
use crate::node::Shared;
use crate::node::inbox::{Desired, Inbox};
use crate::node::status::StatusWriter;

pub enum StatusSink {
    Object(StatusWriter),
    Mirror { node: Arc<Shared>, pod: Arc<Pod>, inbox: Arc<Inbox> },
}

impl StatusSink {
    pub fn new(node: Arc<Shared>, pod: Arc<Pod>, inbox: &Arc<Inbox>) -> StatusSink {
        match static_pod::is_static(&pod) {
            true => StatusSink::Mirror { node, pod, inbox: inbox.clone() },
            false => StatusSink::Object(StatusWriter::new(node, pod)),
        }
    }

    /// A newer object came. A static pod's is its file's, and no object of the API.
    pub fn observe(&self, pod: &Arc<Pod>) {
        if let StatusSink::Object(writer) = self {
            writer.observe(pod);
        }
    }

    /// See [`StatusWriter::rest`]. Of a static pod there are no bytes to decode it from again.
    pub fn rest(&self) -> bool {
        match self {
            StatusSink::Object(writer) => writer.rest(),
            StatusSink::Mirror { .. } => false,
        }
    }

    pub fn submit(&self, status: PodStatus) {
        match self {
            StatusSink::Object(writer) => writer.submit(status),
            StatusSink::Mirror { node, pod, .. } => node.static_pods.mirrors.submit(pod, status),
        }
    }

    /// Deletes the object for good. Of a static pod there is none: it is over, and its mirror goes
    /// with its worker.
    pub fn delete(&self) {
        match self {
            StatusSink::Object(writer) => writer.delete(),
            StatusSink::Mirror { inbox, .. } => inbox.desire(Desired::Gone),
        }
    }
}
