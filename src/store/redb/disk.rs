//! The tables in the redb file: loading them, and the one kind of transaction that writes them.
//!
//! The only file that speaks to redb. It knows rows and when a transaction is durable; what is due
//! to be written, and when a commit counts as done, the writer decides.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use ::redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase, StorageError, TableDefinition,
    WriteTransaction,
};

use super::backend::{Medium, Trouble, TroubleNote, Watched, is_no_space};
use super::record::{self, Damage, FORMAT, Head, Logged};
use super::{OpenError, Options};
use crate::store::state::Stored;
use crate::store::{Key, Revision};

/// Encoded commits by the last one's revision, and under [`HEAD`] the head: it lies in the page that
/// every commit writes anyway.
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
/// Encoded entries by key: the state at the last checkpoint.
const STATE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("state");
const HEAD: u64 = u64::MAX;

/// Why a transaction was not written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// There is no room; the store may try again.
    NoSpace(String),
    /// What the disk holds is unknown; nothing may be acknowledged any more.
    Failed(String),
}

/// What one transaction writes.
#[derive(Default)]
pub(super) struct Rows {
    /// Log rows, by the revision of their last commit.
    pub(super) log: Vec<(Revision, Vec<u8>)>,
    /// State rows, `None` to remove one.
    pub(super) state: Vec<(Key, Option<Stored>)>,
    /// Removes the log rows that end up to here.
    pub(super) trim: Revision,
    /// Removes the log rows above here: leftovers of a transaction that was given up.
    pub(super) cut_above: Option<Revision>,
}

pub(super) struct Disk {
    medium: Box<dyn Medium>,
    note: TroubleNote,
    /// `None` after a write found no room: redb must be opened anew.
    database: Option<Database>,
    cache_bytes: usize,
    two_phase_commit: bool,
    /// The head of the last durable transaction.
    pub(super) head: Head,
}

/// What the tables hold.
pub(super) struct Loaded {
    pub(super) entries: BTreeMap<Key, Stored>,
    /// The commits after the checkpoint, without gaps.
    pub(super) log: Vec<(Revision, Vec<Logged>)>,
}

impl Disk {
    /// Opens the tables, and makes them if the medium is empty.
    pub(super) fn open(medium: Box<dyn Medium>, options: &Options) -> Result<Disk, OpenError> {
        let mut disk = Disk {
            medium,
            note: TroubleNote::default(),
            database: None,
            cache_bytes: options.cache_bytes,
            two_phase_commit: options.two_phase_commit,
            head: Head::default(),
        };
        let database = disk.open_database()?;
        let head = guarded(|| read_head(&database))?;
        disk.database = Some(database);
        match head {
            Some(head) => disk.head = head,
            None => disk.write(Rows::default(), Head::default()).map_err(|error| match error {
                WriteError::NoSpace(why) | WriteError::Failed(why) => OpenError::Io(why),
            })?,
        }
        Ok(disk)
    }

    /// Reads everything and believes nothing that its checksum does not confirm.
    pub(super) fn load(&self) -> Result<Loaded, OpenError> {
        let Some(database) = &self.database else {
            return Err(OpenError::Io("the database is not open".to_owned()));
        };
        guarded(|| load(database, &self.head))
    }

    fn open_database(&self) -> Result<Database, OpenError> {
        let inner = self.medium.open().map_err(OpenError::from_io)?;
        self.note.clear();
        let watched = Watched { inner, note: self.note.clone() };
        guarded(|| {
            let mut builder = Builder::new();
            builder.set_cache_size(self.cache_bytes);
            builder.create_with_backend(watched).map_err(OpenError::from_database)
        })
    }

    /// Writes all rows and the head in one durable transaction, or nothing.
    pub(super) fn write(&mut self, mut rows: Rows, mut head: Head) -> Result<(), WriteError> {
        if self.database.is_none() {
            self.reopen(&mut rows, &mut head)?;
        }
        let Some(database) = &self.database else {
            return Err(WriteError::Failed("the database is not open".to_owned()));
        };
        let two_phase_commit = self.two_phase_commit;
        let result =
            catch_unwind(AssertUnwindSafe(|| write(database, two_phase_commit, &rows, &mut head)));
        let error = match result {
            Ok(Ok(())) => {
                self.head = head;
                return Ok(());
            }
            Ok(Err(error)) => error,
            Err(_) => return Err(WriteError::Failed("the database panicked".to_owned())),
        };
        match self.note.read() {
            Some(Trouble::NoSpace(why)) => {
                self.database = None;
                Err(WriteError::NoSpace(why))
            }
            Some(Trouble::Failed(why)) => Err(WriteError::Failed(why)),
            None => Err(WriteError::Failed(error)),
        }
    }

    /// Opens the database again after a write found no room. What that write left is unknown, so
    /// the head is taken from the file and log rows that were never acknowledged are cut off.
    fn reopen(&mut self, rows: &mut Rows, head: &mut Head) -> Result<(), WriteError> {
        let failed = |error: OpenError| match (self.note.read(), error) {
            (Some(Trouble::NoSpace(why)), _) => WriteError::NoSpace(why),
            (_, OpenError::NoSpace(why)) => WriteError::NoSpace(why),
            (_, error) => WriteError::Failed(error.to_string()),
        };
        let database = self.open_database().map_err(failed)?;
        let Some(found) = guarded(|| read_head(&database)).map_err(failed)? else {
            return Err(WriteError::Failed("the head of the store is gone".to_owned()));
        };
        if found.revision < self.head.revision {
            return Err(WriteError::Failed("acknowledged commits are gone".to_owned()));
        }
        rows.cut_above = Some(self.head.revision);
        head.state_rows = found.state_rows;
        head.state_digest = found.state_digest;
        head.checkpoint_goal = head.checkpoint_goal.max(found.checkpoint_goal);
        self.database = Some(database);
        Ok(())
    }

    /// Closes the file in good order, which spares the next open a repair.
    pub(super) fn close(self) -> Result<(), String> {
        match self.database {
            Some(database) => database.close().map_err(|error| error.to_string()),
            None => Ok(()),
        }
    }
}

/// Runs what reads a file that may be damaged. redb notices most damage and says so, but it may
/// panic on the rest.
fn guarded<T>(body: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        Err(OpenError::Damaged("the database could not make sense of it".to_owned()))
    })
}

fn damaged(what: impl std::fmt::Display) -> OpenError {
    OpenError::Damaged(what.to_string())
}

fn read_head(database: &Database) -> Result<Option<Head>, OpenError> {
    let transaction = database.begin_read().map_err(damaged)?;
    let log = match transaction.open_table(LOG) {
        Ok(log) => log,
        // A file that was made and never written to.
        Err(::redb::TableError::TableDoesNotExist(_)) => {
            let mut tables = transaction.list_tables().map_err(damaged)?;
            return match tables.next() {
                Some(_) => Err(damaged("it holds tables of something else")),
                None => Ok(None),
            };
        }
        Err(error) => return Err(damaged(error)),
    };
    let row = log.get(HEAD).map_err(damaged)?.ok_or_else(|| damaged("its head is missing"))?;
    match Head::decode(row.value()).map_err(OpenError::Damaged)? {
        Ok(head) => Ok(Some(head)),
        Err(found) => Err(OpenError::NewerFormat { found, known: FORMAT }),
    }
}

fn load(database: &Database, head: &Head) -> Result<Loaded, OpenError> {
    let transaction = database.begin_read().map_err(damaged)?;
    let mut entries = BTreeMap::new();
    let mut digest = 0;
    let state = transaction.open_table(STATE).map_err(damaged)?;
    for row in state.range::<&[u8]>(..).map_err(damaged)? {
        let (key, row) = row.map_err(damaged)?;
        let key = Key(bytes::Bytes::copy_from_slice(key.value()));
        digest ^= record::row_checksum(row.value()).map_err(OpenError::Damaged)?;
        let stored = record::decode_entry(&key, row.value()).map_err(OpenError::Damaged)?;
        entries.insert(key, stored);
    }
    if (entries.len() as u64, digest) != (head.state_rows, head.state_digest) {
        return Err(damaged("rows of the state are missing"));
    }
    let mut log = Vec::new();
    let mut reached = head.checkpoint;
    let rows = transaction.open_table(LOG).map_err(damaged)?;
    for row in rows.range(head.checkpoint + 1..HEAD).map_err(damaged)? {
        let (last, row) = row.map_err(damaged)?;
        let commits =
            record::decode_commits(last.value(), row.value()).map_err(OpenError::Damaged)?;
        // The first row may begin before the checkpoint.
        let is_first = log.is_empty();
        let begins = commits.first().map(|(revision, _)| *revision);
        if begins.is_none_or(|begins| begins > reached + 1 || !is_first && begins <= reached) {
            return Err(damaged(format!("revision {} is missing in the log", reached + 1)));
        }
        log.extend(commits.into_iter().filter(|(revision, _)| *revision > reached));
        reached = last.value();
    }
    if reached != head.revision {
        return Err(damaged(format!("the log ends at {reached}, not at {}", head.revision)));
    }
    Ok(Loaded { entries, log })
}

fn write(
    database: &Database,
    two_phase_commit: bool,
    rows: &Rows,
    head: &mut Head,
) -> Result<(), Damage> {
    let mut transaction = database.begin_write().map_err(|error| error.to_string())?;
    transaction.set_durability(Durability::Immediate).map_err(|error| error.to_string())?;
    transaction.set_two_phase_commit(two_phase_commit);
    write_state(&transaction, rows, head)?;
    write_log(&transaction, rows, head).map_err(|error| error.to_string())?;
    transaction.commit().map_err(|error| error.to_string())
}

fn write_state(transaction: &WriteTransaction, rows: &Rows, head: &mut Head) -> Result<(), Damage> {
    if rows.state.is_empty() && head.revision != 0 {
        return Ok(());
    }
    let mut state = transaction.open_table(STATE).map_err(|error| error.to_string())?;
    for (key, stored) in &rows.state {
        let old = match stored {
            Some(stored) => {
                let row = record::encode_entry(key, stored);
                head.state_rows += 1;
                head.state_digest ^= record::row_checksum(&row)?;
                state.insert(&key.0[..], &row[..])
            }
            None => state.remove(&key.0[..]),
        };
        if let Some(old) = old.map_err(|error| error.to_string())? {
            head.state_rows = head.state_rows.saturating_sub(1);
            head.state_digest ^= record::row_checksum(old.value())?;
        }
    }
    Ok(())
}

fn write_log(
    transaction: &WriteTransaction,
    rows: &Rows,
    head: &mut Head,
) -> Result<(), ::redb::Error> {
    let mut log = transaction.open_table(LOG)?;
    if let Some(above) = rows.cut_above {
        log.retain_in(above + 1..HEAD, |_, _| false)?;
    }
    for (revision, row) in &rows.log {
        log.insert(revision, &row[..])?;
    }
    if rows.trim > head.trimmed {
        log.retain_in(head.trimmed + 1..=rows.trim, |_, _| false)?;
        head.trimmed = rows.trim;
    }
    log.insert(HEAD, &head.encode()[..])?;
    Ok(())
}

impl OpenError {
    pub(super) fn from_io(error: std::io::Error) -> OpenError {
        use std::io::ErrorKind::{
            InvalidData, PermissionDenied, ReadOnlyFilesystem, UnexpectedEof,
        };
        match error.kind() {
            PermissionDenied | ReadOnlyFilesystem => OpenError::NotWritable(error.to_string()),
            InvalidData | UnexpectedEof => OpenError::Damaged(error.to_string()),
            _ if is_no_space(&error) => OpenError::NoSpace(error.to_string()),
            _ => OpenError::Io(error.to_string()),
        }
    }

    fn from_database(error: DatabaseError) -> OpenError {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
                OpenError::InUse
            }
            DatabaseError::Storage(StorageError::Io(error)) => OpenError::from_io(error),
            DatabaseError::UpgradeRequired(_) => {
                OpenError::Damaged(format!("its redb format is not the one written here: {error}"))
            }
            error => OpenError::Damaged(error.to_string()),
        }
    }
}
