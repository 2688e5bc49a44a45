//! The single writer: a thread that drains the queue of commits into durable batches.
//!
//! It owns the disk and the order of commits. One turn takes everything that waits, tests each
//! commit in order, writes all that passed in one transaction (with a piece of the checkpoint, if
//! one is under way), makes them visible, and only then answers. An answer about a commit, a
//! conflict too, may rest on an earlier commit of the same batch, so all answers wait for the disk.
//! A batch that finds the disk full is tried again without its ordinary commits (`reserve.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::checkpoint::{Checkpoint, Room};
use super::disk::{Disk, Rows, WriteError};
use super::queue::{Patience, Queue};
use super::record;
use super::reserve::Reserve;
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

impl Request {
    /// What it takes up in the queue.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Request::Commit { bytes, .. } => *bytes,
            Request::Compact { .. } | Request::Close { .. } => 0,
        }
    }
}

/// A commit's answer, held back until the batch is durable.
type Answer = Result<Committed, CommitError>;

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
    pub(super) queue: Arc<Queue>,
    pub(super) checkpoint: Checkpoint,
    pub(super) reserve: Reserve,
}

impl Batch {
    /// The next batch of what waits; `None` when nothing is left.
    fn gather(requests: &mut impl Iterator<Item = Request>) -> Option<Batch> {
        let mut batch = Batch::default();
        let mut is_empty = true;
        while batch.commits.len() < BATCH_COMMITS && batch.bytes < BATCH_BYTES {
            match requests.next() {
                Some(Request::Commit { ops, bytes, reply }) => {
                    batch.bytes += bytes;
                    batch.commits.push((ops, reply));
                }
                Some(Request::Compact { revision, reply }) => {
                    batch.compacts.push((revision, reply));
                }
                Some(Request::Close { reply }) => batch.close = Some(reply),
                None => break,
            }
            is_empty = false;
        }
        (!is_empty).then_some(batch)
    }

    /// Answers everyone; if the batch was not written, nobody's commit was, and a conflict may have
    /// rested on a commit that was not.
    fn answer(self, answers: Vec<Answer>, failure: Option<&WriteError>) {
        let failed = |error: &WriteError| match error {
            WriteError::NoSpace(why) => CommitError::NoSpace(why.clone()),
            WriteError::Failed(why) => CommitError::Failed(why.clone()),
        };
        // Those who asked may have gone; then nobody waits for the answer.
        for ((_, reply), answer) in self.commits.into_iter().zip(answers) {
            let _ = reply.send(failure.map_or(answer, |error| Err(failed(error))));
        }
        for (_, reply) in self.compacts {
            let _ = reply.send(failure.map_or(Ok(()), |error| Err(failed(error))));
        }
    }
}

impl Writer {
    /// Serves until the store is closed or dropped.
    pub(super) fn run(mut self) {
        let mut patience = Patience::default();
        let mut close = None;
        loop {
            let requests = self.queue.take(&mut patience);
            if requests.is_empty() {
                break;
            }
            let mut requests = requests.into_iter();
            while let Some(mut batch) = Batch::gather(&mut requests) {
                if let Some(reply) = batch.close.take() {
                    close = Some(reply);
                    // Whatever comes later is told that the store is closed; what came before is
                    // served.
                    self.queue.close();
                }
                let count = batch.commits.len();
                let flush = self.serve(batch);
                patience.answered(count, flush, Instant::now());
            }
        }
        self.embedded.hub.end_all(WatchEnd::Closed);
        self.finish();
        if let Some(close) = close {
            // The one who asked may have gone.
            let _ = close.send(());
        }
    }

    /// Returns what the last transaction took.
    fn serve(&mut self, batch: Batch) -> Duration {
        let mut refused = self.reserve.refuses();
        loop {
            let (answers, result, flush) = self.attempt(&batch, refused.as_deref());
            match result {
                Err(WriteError::NoSpace(why)) => {
                    self.reserve.is_needed(&why);
                    let vital = !batch.compacts.is_empty()
                        || batch.commits.iter().any(|(ops, _)| self.reserve.serves(ops));
                    if vital && self.reserve.spend() {
                        refused = Some(why);
                        continue;
                    }
                    batch.answer(answers, Some(&WriteError::NoSpace(why)));
                }
                result => batch.answer(answers, result.as_ref().err()),
            }
            return flush;
        }
    }

    /// Tests the batch's commits and writes those that passed; the ordinary ones not, where there is
    /// a reason to refuse them.
    fn attempt(
        &mut self,
        batch: &Batch,
        refused: Option<&str>,
    ) -> (Vec<Answer>, Result<(), WriteError>, Duration) {
        let embedded = self.embedded.clone();
        let (answers, (events, revision)) = {
            let state = embedded.state();
            let mut stage = Stage::new(&state);
            let answer = |(ops, _): &(Vec<Op>, _)| match refused {
                Some(why) if !self.reserve.serves(ops) => Err(CommitError::NoSpace(why.to_owned())),
                _ => stage.commit(ops),
            };
            (batch.commits.iter().map(answer).collect::<Vec<_>>(), stage.finish())
        };
        let compact = batch.compacts.iter().map(|(wanted, _)| *wanted).max();
        let begin = Instant::now();
        let result = if events.is_empty() && compact.is_none() {
            embedded.failure.get().map_or(Ok(()), |why| Err(WriteError::Failed(why)))
        } else {
            self.write(&events, revision, compact)
        };
        let flush = begin.elapsed();
        if result.is_ok() {
            if !events.is_empty() {
                let gone = embedded.publish(&events, revision);
                self.checkpoint.forgotten(&gone);
            }
            if let Some(wanted) = compact {
                self.checkpoint.forgotten(&embedded.compact(wanted));
            }
        }
        (answers, result, flush)
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
        let mut rows = Rows { log: record::encode_commits(events), ..Rows::default() };
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
