//! Taints and tolerations: NoSchedule and NoExecute taints filter, PreferNoSchedule taints score.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::api::placement;
use crate::scheduler::framework::{FilterPlugin, MAX_SCORE, Reasons, ScorePlugin, Wake};
use crate::scheduler::pod_info::PodInfo;
use crate::scheduler::snapshot::NodeInfo;

pub struct TaintToleration;

/// The score that each untolerated PreferNoSchedule taint costs.
const COST_OF_A_TAINT: i64 = MAX_SCORE / 4;

/// Whether any of the tolerations tolerates a taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| placement::tolerates(toleration, taint))
}

impl FilterPlugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, pod: &PodInfo, node: &NodeInfo) -> Result<(), Reasons> {
        let mut hard =
            node.taints.iter().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute");
        if hard.all(|taint| tolerates(&pod.wants.tolerations, taint)) {
            return Ok(());
        }
        // Which taints is not for everyone who may read pods; upstream left them out in 1.35.
        Err(vec!["node(s) had untolerated taint(s)".into()])
    }

    fn woken_by(&self) -> &'static [Wake] {
        &[Wake::Node]
    }
}

impl ScorePlugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let soft = node.taints.iter().filter(|t| t.effect == "PreferNoSchedule");
        let bad = soft.filter(|t| !tolerates(&pod.wants.tolerations, t)).count();
        let bad = i64::try_from(bad).unwrap_or(i64::MAX);
        MAX_SCORE.saturating_sub(bad.saturating_mul(COST_OF_A_TAINT))
    }
}
