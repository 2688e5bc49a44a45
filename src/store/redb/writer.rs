//! The single writer: a thread that drains the queue of commits into durable batches.
//!
//! It owns the disk and the order of commits. One turn takes everything that waits, tests each
//! commit in order, writes all that passed in one transaction (with a piece of the checkpoint, if
//! one is under way), makes them visible, and only then answers. An answer about a commit, a
//! conflict too, may rest on an earlier commit of the same batch, so all answers wait for the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::checkpoint::{Checkpoint, Room};
use super::disk::{Disk, Rows, WriteError};
use super::record;
use crate::store::embedded::Embedded;
use crate::store::stage::Stage;
use crate::store::{CommitError, Committed, Event, Op, Revision, WatchEnd};

/// How many commits one transaction takes.
const BATCH_COMMITS: usize = 1024;
/// How many bytes of commits one transaction takes (the first commit always fits).
const BATCH_BYTES: usize = 16 * 1024 * 1024;

pub(super) type Reply<T> = oneshot::Sender<Result<T, CommitError>>;

pub(super) enum Request {
    Commit { ops: Vec<Op>, bytes: usize, reply: Reply<Committed> },
    Compact { revision: Revision, reply: Reply<()> },
    Close { reply: oneshot::Sender<()> },
}

/// A commit with its answer, held back until the batch is durable.
struct Pending {
    reply: Reply<Committed>,
    answer: Result<Committed, CommitError>,
}

#[derive(Default)]
struct Batch {
    commits: Vec<(Vec<Op>, Reply<Committed>)>,
    compacts: Vec<(Revision, Reply<()>)>,
    close: Option<oneshot::Sender<()>>,
    bytes: usize,
}

pub(super) struct Writer {
    pub(super) disk: Disk,
    pub(super) embedded: Arc<Embedded>,
    pub(super) queue: mpsc::Receiver<Request>,
    /// The bytes of all commits in the queue.
    pub(super) waiting_bytes: Arc<AtomicUsize>,
    pub(super) checkpoint: Checkpoint,
}

impl Writer {
    /// Serves until the store is closed or dropped.
    pub(super) fn run(mut self) {
        let mut close = None;
        while close.is_none() {
            let Some(first) = self.queue.blocking_recv() else { break };
            let mut batch = Batch::default();
            self.gather(&mut batch, first);
            close = batch.close.take();
            self.serve(batch);
        }
        // Whatever comes later is told that the store is closed; what came before was served.
        self.queue.close();
        while let Ok(request) = self.queue.try_recv() {
            let mut batch = Batch::default();
            self.gather(&mut batch, request);
            self.serve(batch);
        }
        self.embedded.hub.end_all(WatchEnd::Closed);
        self.finish();
        if let Some(close) = close {
            // The one who asked may have gone.
            let _ = close.send(());
        }
    }

    fn gather(&mut self, batch: &mut Batch, first: Request) {
        let mut next = Some(first);
        while let Some(request) = next {
            match request {
                Request::Commit { ops, bytes, reply } => {
                    self.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    batch.bytes += bytes;
                    batch.commits.push((ops, reply));
                }
                Request::Compact { revision, reply } => batch.compacts.push((revision, reply)),
                Request::Close { reply } => batch.close = Some(reply),
            }
            let full = batch.commits.len() >= BATCH_COMMITS || batch.bytes >= BATCH_BYTES;
            next = if full { None } else { self.queue.try_recv().ok() };
        }
    }

    fn serve(&mut self, batch: Batch) {
        let embedded = self.embedded.clone();
        let (pending, (events, revision)) = {
            let state = embedded.state();
            let mut stage = Stage::new(&state);
            let commits = batch.commits.into_iter();
            let pending = commits
                .map(|(ops, reply)| Pending { reply, answer: stage.commit(ops) })
                .collect::<Vec<_>>();
            (pending, stage.finish())
        };
        let compact = batch.compacts.iter().map(|(wanted, _)| *wanted).max();
        let result = if events.is_empty() && compact.is_none() {
            embedded.failure.get().map_or(Ok(()), |why| Err(WriteError::Failed(why)))
        } else {
            self.write(&events, revision, compact)
        };
        match result {
            Ok(()) => {
                if !events.is_empty() {
                    let gone = embedded.publish(&events, revision);
                    self.checkpoint.forgotten(&gone);
                }
                if let Some(wanted) = compact {
                    self.checkpoint.forgotten(&embedded.compact(wanted));
                }
                answer(pending, batch.compacts, None);
            }
            Err(error) => answer(pending, batch.compacts, Some(error)),
        }
    }

    /// Writes a batch and the next piece of the checkpoint in one transaction.
    fn write(
        &mut self,
        events: &[Arc<Event>],
        revision: Revision,
        compact: Option<Revision>,
    ) -> Result<(), WriteError> {
        if let Some(why) = self.embedded.failure.get() {
            return Err(WriteError::Failed(why));
        }
        let mut head = self.disk.head.clone();
        head.revision = revision;
        if let Some(wanted) = compact {
            head.compacted = head.compacted.max(wanted.min(revision));
        }
        let log = events
            .chunk_by(|one, other| one.revision == other.revision)
            .map(|commit| {
                let revision = commit[0].revision;
                (revision, record::encode_commit(revision, commit.iter().map(|event| &**event)))
            })
            .collect();
        let mut rows = Rows { log, ..Rows::default() };
        let bytes = rows.log.iter().map(|(_, row)| row.len()).sum();
        let room = Room::beside(events.len(), bytes);
        let piece = self.checkpoint.piece(&self.embedded.state(), room, &mut rows, &mut head);
        match self.disk.write(rows, head) {
            Ok(()) => {
                self.checkpoint.written(piece);
                Ok(())
            }
            Err(WriteError::Failed(why)) => {
                tracing::error!(error = %why, "the store failed and takes no more writes");
                self.embedded.failure.set(&why);
                Err(WriteError::Failed(why))
            }
            Err(WriteError::NoSpace(why)) => {
                tracing::warn!(error = %why, "no space left for the store");
                Err(WriteError::NoSpace(why))
            }
        }
    }

    /// Brings the checkpoint up to date, so that the next start has little to replay, and closes
    /// the file.
    fn finish(mut self) {
        self.checkpoint.begin(self.embedded.state().floor());
        while self.embedded.failure.get().is_none() && self.checkpoint.is_due(&self.disk.head) {
            if self.write(&[], self.disk.head.revision, None).is_err() {
                break;
            }
        }
        if let Err(error) = self.disk.close() {
            tracing::warn!(%error, "the store's file was not closed in good order");
        }
    }
}

/// Answers everyone in the batch; if it was not written, nobody's commit was, and a conflict may
/// have rested on a commit that was not.
fn answer(
    pending: Vec<Pending>,
    compacts: Vec<(Revision, Reply<()>)>,
    failure: Option<WriteError>,
) {
    let failed = |error: &WriteError| match error {
        WriteError::NoSpace(why) => CommitError::NoSpace(why.clone()),
        WriteError::Failed(why) => CommitError::Failed(why.clone()),
    };
    // Those who asked may have gone; then nobody waits for the answer.
    for Pending { reply, answer } in pending {
        let _ = reply.send(failure.as_ref().map_or(answer, |error| Err(failed(error))));
    }
    for (_, reply) in compacts {
        let _ = reply.send(failure.as_ref().map_or(Ok(()), |error| Err(failed(error))));
    }
}
