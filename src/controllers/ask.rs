//! Questions to the API that a controller has before it decides: about what no cache keeps, because
//! it is measured or computed at each read. The driver asks, so that the decision itself stays pure.

use std::time::Duration;

use crate::api::error::Reason;
use crate::api::{ApiError, Raw};
use crate::client::{ListOptions, SharedApi, Target};

/// How often a controller may ask on before it must decide.
pub(super) const MOST_ROUNDS: usize = 3;
/// Nodes that are measured for an answer have some seconds each, and are asked side by side.
const LIMIT: Duration = Duration::from_secs(30);

/// One question.
#[derive(Clone, Debug, PartialEq)]
pub enum Ask {
    /// One object, or one of its subresources.
    One(Target),
    /// The objects of a collection that a selector wants.
    All { target: Target, label_selector: String },
}

/// A question, and what came of it; one object for [`Ask::One`].
#[derive(Debug)]
pub struct Answer {
    pub ask: Ask,
    pub result: Result<Vec<Raw>, ApiError>,
}

pub(super) async fn perform(api: &SharedApi, ask: Ask) -> Answer {
    let call = async {
        match &ask {
            Ask::One(target) => api.get(target).await.map(|raw| vec![raw]),
            Ask::All { target, label_selector } => {
                let options = ListOptions {
                    label_selector: label_selector.clone(),
                    ..ListOptions::default()
                };
                api.list(target, &options).await.map(|list| list.items)
            }
        }
    };
    let result = tokio::time::timeout(LIMIT, call).await.unwrap_or_else(|_| {
        Err(ApiError::new(504, Reason::Timeout, "the API did not answer in time"))
    });
    Answer { ask, result }
}
