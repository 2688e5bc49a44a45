//! A node's runtime must offer what the pod's programs import: the target, the WASI world, the
//! packages of host interfaces. A node that declares nothing is taken at its word of old: it may.

use crate::scheduler::framework::{FilterPlugin, Reasons, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;

pub struct WasmFeatures;

impl FilterPlugin for WasmFeatures {
    fn name(&self) -> &'static str {
        "WasmFeatures"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        let wanted = &pod.wants.features;
        if wanted.is_empty() || node.features.is_empty() {
            return Ok(());
        }
        let lacking = wanted.iter().filter(|one| !node.features.contains(*one));
        let reasons: Reasons = lacking
            .map(|one| format!("node(s) didn't have the Wasm feature {one}").into())
            .collect();
        if reasons.is_empty() { Ok(()) } else { Err(reasons) }
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node]
    }
}
