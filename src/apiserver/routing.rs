//! Which watches an event of a Pod is for. Every node agent watches the Pods that are bound to its
//! node; without this, every event of a Pod would wake the watches of all nodes.
//!
//! The store's tags of such an event are the nodes' names before and after it. A watch whose
//! selector asks for one node asks the store for that tag, and filters as every watch does.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;

use super::filter::Filter;
use crate::api::resource::KindInfo;
use crate::store::{Change, Key, TagsOf};

/// The field that nodes select Pods by.
const NODE_NAME: &str = "spec.nodeName";

/// The tag of a watch, if it needs the events of one node only.
pub fn tag(info: &KindInfo, filter: &Filter) -> Option<Bytes> {
    let node = filter.requires(NODE_NAME).filter(|_| is_pods(info))?;
    Some(Bytes::copy_from_slice(node.as_bytes()))
}

/// Finds the tags of Pods' events; of no others.
pub fn tags_of() -> TagsOf {
    let pods = Key::new(&["", "pods"]);
    Box::new(move |event| {
        if !event.key.starts_with(&pods) {
            return None;
        }
        let (one, other) = match &event.change {
            Change::Put { value, previous } => (value, previous.as_ref()),
            Change::Delete { last, previous } => (last, Some(previous)),
        };
        std::iter::once(one).chain(other).map(|raw| node_of(raw)).collect()
    })
}

/// The node of a Pod in its stored bytes, of which nothing else is read.
fn node_of(raw: &[u8]) -> Option<Bytes> {
    let pod: Pod = serde_json::from_slice(raw).ok()?;
    Some(Bytes::copy_from_slice(pod.spec.node_name.as_bytes()))
}

#[derive(Deserialize)]
struct Pod<'a> {
    #[serde(borrow)]
    spec: Spec<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    node_name: Cow<'a, str>,
}

fn is_pods(info: &KindInfo) -> bool {
    info.gvr.group.is_empty() && info.gvr.resource == "pods"
}
