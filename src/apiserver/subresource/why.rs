//! `pods/why`: what the scheduler thinks of a pod, node by node. Ours; no other server has it.
//!
//! The scheduler answers from its own snapshot; this file knows only that somebody does.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Semaphore;

use super::super::service::{Answer, ApiServer, Call};
use crate::api::ApiError;
use crate::api::why::{DEFAULT_NODES, Explanation, MAX_NODES};

pub const WHY: &str = "why";

/// Looks at a pod and tells of so many nodes one by one.
pub type Explain = Arc<dyn Fn(&Pod, usize) -> Explanation + Send + Sync>;

/// Who explains. One question at a time: the scheduler waits while it is answered.
pub struct Explanations {
    explain: Explain,
    turn: Semaphore,
}

impl ApiServer {
    /// Questions about where pods go are answered by `explain`.
    pub fn explain_with(&self, explain: Explain) {
        // Set once, before the first request.
        let _ = self.explanations.set(Explanations { explain, turn: Semaphore::new(1) });
    }

    /// `most`: of how many nodes to tell one by one; 0 for the usual number.
    ///
    /// # Errors
    /// 404 where there is no such pod, 503 where no scheduler runs in this process.
    pub(in crate::apiserver) async fn why(
        &self,
        call: &Call,
        most: usize,
    ) -> Result<Answer, ApiError> {
        self.authorize(call, "get")?;
        let pod: Pod = self.stored(call)?.object.typed()?;
        let Some(explanations) = self.explanations.get() else {
            return Err(ApiError::unavailable("no scheduler runs beside this server"));
        };
        let most = if most == 0 { DEFAULT_NODES } else { most.min(MAX_NODES) };
        // Never closed.
        let _turn = explanations.turn.acquire().await.ok();
        let explain = explanations.explain.clone();
        let explained = tokio::task::spawn_blocking(move || explain(&pod, most)).await;
        let explained = explained.map_err(|error| ApiError::internal(error.to_string()))?;
        let json = serde_json::to_vec(&explained).map_err(ApiError::internal)?;
        Ok(Answer::other(200, json))
    }
}
