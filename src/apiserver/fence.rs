//! Commits that hold only while a leader's term lasts: the lease is checked in the commit itself, so
//! that no write of a leader comes after the term of the next one began, however late it is.

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;

use super::service::{ApiServer, Call, Conflict, read_error};
use crate::api::error::Cause;
use crate::api::resource::Gvr;
use crate::api::{ApiError, Raw};
use crate::client::election::{Fence, LOST};
use crate::store::{Committed, Expect, Key, Op};

/// How often a commit is tried again because the lease was renewed just then; renewals are seconds
/// apart.
const ATTEMPTS: usize = 5;

impl Call {
    /// The call of somebody whose term must last.
    pub fn fenced(self, fence: &Option<Arc<Fence>>) -> Call {
        Call { fence: fence.clone(), ..self }
    }
}

impl ApiServer {
    /// [`ApiServer::commit`] with the call's fence.
    pub(super) async fn commit_for(
        &self,
        call: &Call,
        ops: Vec<Op>,
    ) -> Result<Result<Committed, Conflict>, ApiError> {
        match &call.fence {
            None => self.commit(ops).await,
            Some(fence) => Box::pin(self.commit_fenced(fence, ops)).await,
        }
    }

    async fn commit_fenced(
        &self,
        fence: &Fence,
        ops: Vec<Op>,
    ) -> Result<Result<Committed, Conflict>, ApiError> {
        for _ in 0..ATTEMPTS {
            let check = self.lasts(fence)?;
            // Last, since callers know their own operations by their place.
            let fenced = ops.iter().cloned().chain([check]).collect();
            match self.commit(fenced).await? {
                Err(conflict) if conflict.op == ops.len() => {}
                result => return Ok(result),
            }
        }
        let message = "the lease of this writer changes all the time, please try again later";
        Err(ApiError::too_many_requests(message, 1))
    }

    /// What must still be so at the commit, if the term lasts now.
    fn lasts(&self, fence: &Fence) -> Result<Op, ApiError> {
        let (namespace, name) = (fence.namespace.as_str(), fence.name.as_str());
        let leases = Gvr::of::<Lease>();
        let key = Key::new(&[&leases.group, &leases.resource, namespace, name]);
        let entry = self.store.get(&key).map_err(read_error)?;
        let found = entry.filter(|entry| {
            fence.lasts(entry.revision, || Raw(entry.value.clone()).decode::<Lease>().ok())
        });
        let Some(entry) = found else {
            let message = format!("the term {} of {} is over", fence.transitions, fence.holder);
            let cause = Cause { reason: LOST.into(), message, field: String::new() };
            let why = "the writer is not its holder any more";
            return Err(ApiError::conflict(&leases, name, why).cause(cause));
        };
        Ok(Op::Check { key, expect: Expect::Revision(entry.revision) })
    }
}
