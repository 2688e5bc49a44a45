//! LIST of custom resources that a webhook converts: in pieces, each of them one question, before
//! anything selects.

use super::{Cursor, ListError, Listed, token};
use crate::apiserver::filter::Filter;
use crate::apiserver::service::{ApiServer, Call};
use crate::apiserver::{keys, versions};

/// How many objects are asked for at once.
const PIECE_ENTRIES: usize = 500;

impl ApiServer {
    pub(super) async fn list_converted(
        &self,
        call: &Call,
        limit: usize,
        cursor: &Cursor,
        filter: &Filter,
    ) -> Result<Listed, ListError> {
        let prefix = keys::collection(&call.info, &call.namespace);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let piece = PIECE_ENTRIES.min(limit);
        let mut listed = Listed::default();
        let (mut at, mut after) = (cursor.at, cursor.after.clone());
        loop {
            let mut page = self.store.list(&prefix, after.as_ref(), piece, at)?;
            self.convert_entries(&call.info, &mut page.entries).await?;
            listed.revision = page.revision;
            at = Some(page.revision);
            let count = page.entries.len();
            for (index, entry) in page.entries.into_iter().enumerate() {
                if filter.matches(&call.info, &self.memo, &entry.value)? {
                    listed.items.push(versions::shown_raw(&call.info, entry.value));
                }
                let more = page.more || index + 1 < count;
                if listed.items.len() == limit && more {
                    listed.continue_token =
                        token(page.revision, &entry.key, None).unwrap_or_default();
                    return Ok(listed);
                }
                after = Some(entry.key);
            }
            if !page.more {
                return Ok(listed);
            }
        }
    }
}
