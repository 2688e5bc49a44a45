//! The bytes of a row: how commits, an entry and the head of the store are written down.
//!
//! Every row begins with eight bytes of SHA-256 over the rest of the row and over what the row
//! belongs to (its revision or its key), so that a damaged, misplaced or torn row is noticed before
//! anything in it is believed. Bodies are lz4-compressed where that saves space. Nothing here
//! panics on bad bytes.

use std::sync::Arc;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::store::state::Stored;
use crate::store::{Change, Event, Key, Revision};

/// The newest format this program reads, and the one it writes. The first one had one commit in each
/// log row, as a row may have now.
pub(super) const FORMAT: u32 = 2;

const CHECKSUM_BYTES: usize = 8;
/// Bodies below this size are not worth compressing.
const COMPRESS_FROM_BYTES: usize = 256;
const RAW: u8 = 0;
const LZ4: u8 = 1;

const PUT: u8 = 1;
/// A deletion whose last value is the stored one.
const DELETE: u8 = 2;
const DELETE_WITH_LAST: u8 = 3;
/// The next commit of the row begins.
const NEXT: u8 = 4;

/// How many bytes of commits share a log row: together they compress better and cost less, and a row
/// of a few pages is what redb handles well. A larger commit has a row of its own.
const ROW_BYTES: usize = 8 * 1024;

/// Why a row cannot be believed.
pub(super) type Damage = String;

/// A change as it stands in the log: the previous value is in the rows before it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Logged {
    Put { key: Key, value: Bytes },
    Delete { key: Key, last: Option<Bytes> },
}

/// What the store knows about its own file. One row, written with every transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// The newest revision in the log.
    pub(super) revision: Revision,
    /// The state rows hold everything up to this revision: the log is replayed from here.
    pub(super) checkpoint: Revision,
    /// No state row is newer than this (a checkpoint may be under way).
    pub(super) checkpoint_goal: Revision,
    /// The newest compaction asked for.
    pub(super) compacted: Revision,
    /// Log rows up to here were removed.
    pub(super) trimmed: Revision,
    /// How many state rows there are, and the exclusive or of their checksums.
    pub(super) state_rows: u64,
    pub(super) state_digest: u64,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut body = FORMAT.to_le_bytes().to_vec();
        for number in self.numbers() {
            body.extend_from_slice(&number.to_le_bytes());
        }
        let mut row = checksum(b"head", &[], &body).to_le_bytes().to_vec();
        row.extend_from_slice(&body);
        row
    }

    fn numbers(&self) -> [u64; 7] {
        [
            self.revision,
            self.checkpoint,
            self.checkpoint_goal,
            self.compacted,
            self.trimmed,
            self.state_rows,
            self.state_digest,
        ]
    }

    /// `Ok(Err(format))` if a newer program wrote the row.
    pub(super) fn decode(row: &[u8]) -> Result<Result<Head, u32>, Damage> {
        let (sum, mut body) = split_checksum(row)?;
        if sum != checksum(b"head", &[], body) {
            return Err("the checksum of the head does not match".to_owned());
        }
        let format = u32::from_le_bytes(take_array(&mut body)?);
        if format > FORMAT {
            return Ok(Err(format));
        }
        let mut number = || take_array(&mut body).map(u64::from_le_bytes);
        Ok(Ok(Head {
            revision: number()?,
            checkpoint: number()?,
            checkpoint_goal: number()?,
            compacted: number()?,
            trimmed: number()?,
            state_rows: number()?,
            state_digest: number()?,
        }))
    }
}

/// The log rows of commits, whose events come in order and without gaps. Each row is known by the
/// revision of its last commit.
pub(super) fn encode_commits(events: &[Arc<Event>]) -> Vec<(Revision, Vec<u8>)> {
    let mut rows = Vec::new();
    let mut body = Vec::new();
    let mut last = None;
    for commit in events.chunk_by(|one, other| one.revision == other.revision) {
        if let Some(revision) = last {
            let bytes: usize = commit.iter().map(|event| size(event)).sum();
            if body.len() + bytes > ROW_BYTES {
                rows.push((revision, seal_commits(revision, &body)));
                body.clear();
            } else {
                body.push(NEXT);
            }
        }
        commit.iter().for_each(|event| put_event(&mut body, event));
        last = Some(commit[0].revision);
    }
    rows.extend(last.map(|revision| (revision, seal_commits(revision, &body))));
    rows
}

fn size(event: &Event) -> usize {
    event.key.0.len() + event.value().len()
}

fn seal_commits(last: Revision, body: &[u8]) -> Vec<u8> {
    seal(b"log", &last.to_le_bytes(), body)
}

fn put_event(body: &mut Vec<u8>, event: &Event) {
    match &event.change {
        Change::Put { value, .. } => {
            body.push(PUT);
            put_bytes(body, &event.key.0);
            put_bytes(body, value);
        }
        Change::Delete { last, previous } if last == previous => {
            body.push(DELETE);
            put_bytes(body, &event.key.0);
        }
        Change::Delete { last, .. } => {
            body.push(DELETE_WITH_LAST);
            put_bytes(body, &event.key.0);
            put_bytes(body, last);
        }
    }
}

/// The commits of a log row, oldest first; the last one has the revision `last`.
pub(super) fn decode_commits(
    last: Revision,
    row: &[u8],
) -> Result<Vec<(Revision, Vec<Logged>)>, Damage> {
    let body = unseal(b"log", &last.to_le_bytes(), row)
        .map_err(|damage| format!("log row {last}: {damage}"))?;
    let mut rest = &body[..];
    let mut commits = Vec::new();
    let mut commit = Vec::new();
    while !rest.is_empty() {
        let [tag] = take_array(&mut rest)?;
        if tag == NEXT {
            commits.push(std::mem::take(&mut commit));
            continue;
        }
        let key = Key(take_bytes(&mut rest)?);
        commit.push(match tag {
            PUT => Logged::Put { key, value: take_bytes(&mut rest)? },
            DELETE => Logged::Delete { key, last: None },
            DELETE_WITH_LAST => Logged::Delete { key, last: Some(take_bytes(&mut rest)?) },
            other => return Err(format!("log row {last}: unknown change {other}")),
        });
    }
    commits.push(commit);
    let first = (last + 1)
        .checked_sub(commits.len() as u64)
        .filter(|first| *first > 0)
        .ok_or_else(|| format!("log row {last}: too many commits"))?;
    Ok((first..).zip(commits).collect())
}

/// The state row of one entry.
pub(super) fn encode_entry(key: &Key, stored: &Stored) -> Vec<u8> {
    let mut body = Vec::with_capacity(stored.value.len() + 8);
    body.extend_from_slice(&stored.revision.to_le_bytes());
    body.extend_from_slice(&stored.value);
    seal(b"state", &key.0, &body)
}

pub(super) fn decode_entry(key: &Key, row: &[u8]) -> Result<Stored, Damage> {
    let body = unseal(b"state", &key.0, row).map_err(|damage| format!("state row: {damage}"))?;
    let mut rest = &body[..];
    let revision = u64::from_le_bytes(take_array(&mut rest)?);
    Ok(Stored::new(Bytes::copy_from_slice(rest), revision))
}

/// The checksum that a row carries, unverified; for the digest over all state rows.
pub(super) fn row_checksum(row: &[u8]) -> Result<u64, Damage> {
    split_checksum(row).map(|(sum, _)| sum)
}

fn seal(domain: &[u8], owner: &[u8], body: &[u8]) -> Vec<u8> {
    let mut row = vec![0; CHECKSUM_BYTES];
    row.push(RAW);
    if body.len() >= COMPRESS_FROM_BYTES {
        let packed = lz4_flex::block::compress(body);
        if let Ok(size) = u32::try_from(body.len())
            && packed.len() + 4 < body.len() / 8 * 7
        {
            row[CHECKSUM_BYTES] = LZ4;
            row.extend_from_slice(&size.to_le_bytes());
            row.extend_from_slice(&packed);
        }
    }
    if row[CHECKSUM_BYTES] == RAW {
        row.extend_from_slice(body);
    }
    let sum = checksum(domain, owner, &row[CHECKSUM_BYTES..]);
    row[..CHECKSUM_BYTES].copy_from_slice(&sum.to_le_bytes());
    row
}

fn unseal(domain: &[u8], owner: &[u8], row: &[u8]) -> Result<Vec<u8>, Damage> {
    let (sum, mut rest) = split_checksum(row)?;
    if sum != checksum(domain, owner, rest) {
        return Err("the checksum does not match".to_owned());
    }
    match take_array(&mut rest)? {
        [RAW] => Ok(rest.to_vec()),
        [LZ4] => {
            let size = u32::from_le_bytes(take_array(&mut rest)?);
            lz4_flex::block::decompress(rest, size as usize).map_err(|error| error.to_string())
        }
        [other] => Err(format!("unknown encoding {other}")),
    }
}

fn checksum(domain: &[u8], owner: &[u8], rest: &[u8]) -> u64 {
    let mut hash = Sha256::new();
    hash.update(domain);
    hash.update((owner.len() as u64).to_le_bytes());
    hash.update(owner);
    hash.update(rest);
    let digest = hash.finalize();
    u64::from_le_bytes(std::array::from_fn(|index| digest[index]))
}

fn split_checksum(row: &[u8]) -> Result<(u64, &[u8]), Damage> {
    let mut rest = row;
    let sum = u64::from_le_bytes(take_array(&mut rest)?);
    Ok((sum, rest))
}

/// Appends the length and the bytes. A commit is far below 4 GiB: the queue's bound sees to it.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take_bytes(rest: &mut &[u8]) -> Result<Bytes, Damage> {
    let size = u32::from_le_bytes(take_array(rest)?) as usize;
    let (bytes, tail) = rest.split_at_checked(size).ok_or("a row ends too early")?;
    *rest = tail;
    Ok(Bytes::copy_from_slice(bytes))
}

fn take_array<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Damage> {
    let (bytes, tail) = rest.split_first_chunk::<N>().ok_or("a row ends too early")?;
    *rest = tail;
    Ok(*bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two changes make a commit.
    fn events(changes: &[(String, u8, Vec<u8>)]) -> Vec<Arc<Event>> {
        let event = |(index, (name, kind, bytes)): (usize, &(String, u8, Vec<u8>))| {
            let bytes = Bytes::from(bytes.clone());
            let change = match kind {
                0 => Change::Put { value: bytes, previous: None },
                1 => Change::Delete { last: bytes.clone(), previous: bytes },
                _ => Change::Delete { last: bytes, previous: Bytes::from_static(b"\xffother") },
            };
            let revision = 9 + index as u64 / 2;
            Arc::new(Event { revision, key: Key::new(&[name]), change })
        };
        changes.iter().enumerate().map(event).collect()
    }

    proptest! {
        #[test]
        fn commits_come_back_and_no_damage_passes(
            changes in prop::collection::vec(
                (".{0,9}", 0u8..3, prop::collection::vec(0u8..4, 0..3000)), 1..12),
            site in any::<prop::sample::Index>(),
            bit in 0u8..8,
        ) {
            let events = events(&changes);
            let rows = encode_commits(&events);
            let mut logged = Vec::new();
            let mut next = 9;
            for (last, row) in &rows {
                for (revision, changes) in decode_commits(*last, row).unwrap() {
                    prop_assert_eq!(revision, next);
                    next += 1;
                    logged.extend(changes.into_iter().map(|change| (revision, change)));
                }
            }
            for (event, (revision, logged)) in events.iter().zip(&logged) {
                prop_assert_eq!(*revision, event.revision);
                match logged {
                    Logged::Put { key, value } => {
                        prop_assert_eq!((key, value), (&event.key, event.value()));
                    }
                    Logged::Delete { key, last } => {
                        let Change::Delete { last: final_one, previous } = &event.change else {
                            return Err(TestCaseError::fail("a put became a deletion"));
                        };
                        prop_assert_eq!(key, &event.key);
                        prop_assert_eq!(last.as_ref().unwrap_or(previous), final_one);
                    }
                }
            }
            prop_assert_eq!(logged.len(), events.len());
            let (last, row) = &rows[site.index(rows.len())];
            prop_assert!(decode_commits(last + 1, row).is_err());
            let mut damaged = row.clone();
            damaged[site.index(row.len())] ^= 1 << bit;
            prop_assert!(decode_commits(*last, &damaged).is_err());
            prop_assert!(decode_commits(*last, &row[..site.index(row.len())]).is_err());
        }

        #[test]
        fn entries_come_back(value in prop::collection::vec(0u8..4, 0..900), revision: u64) {
            let stored = Stored::new(Bytes::from(value), revision);
            let key = Key::new(&["pods", "a"]);
            let row = encode_entry(&key, &stored);
            let back = decode_entry(&key, &row).unwrap();
            prop_assert_eq!((back.value, back.revision), (stored.value, stored.revision));
            prop_assert!(decode_entry(&Key::new(&["pods", "b"]), &row).is_err());
        }
    }

    #[test]
    fn a_head_of_a_newer_format_is_told_from_damage() {
        let head = Head { revision: 3, state_digest: u64::MAX, ..Head::default() };
        let mut row = head.encode();
        assert_eq!(Head::decode(&row), Ok(Ok(head)));
        row[CHECKSUM_BYTES] = FORMAT as u8 + 1;
        assert!(Head::decode(&row).is_err());
        let sum = checksum(b"head", &[], &row[CHECKSUM_BYTES..]);
        row[..CHECKSUM_BYTES].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(Head::decode(&row), Ok(Err(FORMAT + 1)));
    }
}
