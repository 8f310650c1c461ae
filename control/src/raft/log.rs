//! Log and vote in redb. One writer thread takes what waits, writes it in one two-phase commit and acknowledges
//! after that; a failed commit aborts the process, for what the disk holds is then unknown.

mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{CommittedLeaderId, EntryPayload, LogState, OptionalSend, RaftLogReader};
use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::sync::oneshot;

use super::record::*;
use super::seal::{SealError, Sealer};
use super::types::*;
use writer::{Op, Writer};

/// How often is looked whether a stopped member has let go of its store, and the pause between: twenty seconds.
const LOOKS: u32 = 400;
const PAUSE: Duration = Duration::from_millis(50);
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const LOG_NAME: &str = "log";
/// Names in `meta`; also the table names that those records are sealed for.
const VOTE: &str = "vote";
const PURGED: &str = "purged";
const COMMITTED: &str = "committed";
const BIRTH: &str = "birth";

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("{path} is missing or empty, but this node had a Raft log")]
    Missing { path: PathBuf },
    #[error("open {path}")]
    Open {
        path: PathBuf,
        source: redb::DatabaseError,
    },
    #[error("{operation} in the Raft log")]
    Database {
        operation: &'static str,
        #[source]
        source: Box<redb::Error>,
    },
    #[error("the Raft log has a hole before index {index}")]
    Hole { index: u64 },
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("record {index} of {table} is not what it should be")]
    Decode {
        table: &'static str,
        index: u64,
        source: prost::DecodeError,
    },
    #[error("the writer of the Raft log is gone")]
    WriterGone,
}

fn database<E: Into<redb::Error>>(operation: &'static str) -> impl FnOnce(E) -> LogError {
    move |error| LogError::Database {
        operation,
        source: Box::new(error.into()),
    }
}

/// What writer, readers and store share.
struct Shared {
    database: Database,
    sealer: Arc<Sealer>,
    /// Entries that were handed to the writer and are not on disk yet.
    pending: RwLock<BTreeMap<u64, LogEntry>>,
    /// Written with the next commit: losing it costs nothing but a later start of apply.
    committed: Mutex<Option<LogId>>,
}

/// openraft's log store. Clones read the same log.
#[derive(Clone)]
pub struct LogStore {
    shared: Arc<Shared>,
    writer: Arc<Writer>,
}

impl LogStore {
    /// Opens the log and checks all of it: every page, every seal, no hole. With `must_exist` an absent file is an error
    /// instead of a new log. Blocking.
    pub fn open(path: &Path, sealer: Arc<Sealer>, must_exist: bool) -> Result<LogStore, LogError> {
        let empty = std::fs::metadata(path)
            .map(|meta| meta.len() == 0)
            .unwrap_or(true);
        if must_exist && empty {
            return Err(LogError::Missing {
                path: path.to_path_buf(),
            });
        }
        let database = Database::builder()
            .set_cache_size(16 << 20)
            .set_check_integrity_on_open(true)
            .create(path)
            .map_err(|source| LogError::Open {
                path: path.to_path_buf(),
                source,
            })?;
        let shared = Shared {
            database,
            sealer,
            pending: RwLock::new(BTreeMap::new()),
            committed: Mutex::new(None),
        };
        shared.prepare(path, must_exist)?;
        shared.check()?;
        let committed = shared.meta::<LogIdRecord>(COMMITTED)?.map(LogId::from);
        *lock(&shared.committed) = committed;
        let shared = Arc::new(shared);
        let writer = Arc::new(Writer::spawn(shared.clone()));
        Ok(LogStore { shared, writer })
    }

    /// As [`Self::open`] of a log that must exist, once the member that was just stopped has let go of it: a request that is
    /// under way may hold it for a moment. Blocking.
    pub fn open_released(path: &Path, sealer: &Arc<Sealer>) -> Result<LogStore, LogError> {
        for _ in 0..LOOKS {
            match Self::open(path, sealer.clone(), true) {
                Err(LogError::Open {
                    source: DatabaseError::DatabaseAlreadyOpen,
                    ..
                }) => std::thread::sleep(PAUSE),
                opened => return opened,
            }
        }
        Self::open(path, sealer.clone(), true)
    }

    /// Appends a membership of this member alone, in a term of its own. What the log holds counts as committed from then
    /// on, and no other member is asked (etcd and swarmkit do the same: manager/state/raft/storage.go). Blocking.
    pub fn go_on_alone(&self, raft_id: u64, member: Member) -> Result<(), LogError> {
        let vote = self.shared.meta::<VoteRecord>(VOTE)?.map(Vote::from);
        let last = self.state()?.last_log_id;
        let term = vote
            .map_or(0, |vote| vote.leader_id.term)
            .max(last.map_or(0, |id| id.leader_id.term))
            + 1;
        let members = BTreeMap::from([(raft_id, member)]);
        let membership = Membership::new(vec![BTreeSet::from([raft_id])], members);
        let entry = LogEntry {
            log_id: LogId::new(
                CommittedLeaderId::new(term, raft_id),
                last.map_or(0, |id| id.index + 1),
            ),
            payload: EntryPayload::Membership(membership),
        };
        writer::write_now(&self.shared, &Vote::new(term, raft_id), entry)
    }

    async fn submit(&self, make: impl FnOnce(oneshot::Sender<()>) -> Op) -> Result<(), LogError> {
        let (done, wait) = oneshot::channel();
        self.writer.send(make(done))?;
        wait.await.map_err(|_| LogError::WriterGone)
    }

    fn state(&self) -> Result<LogState<TypeConfig>, LogError> {
        let last_pending = read(&self.shared.pending)
            .last_key_value()
            .map(|(_, entry)| entry.log_id);
        let purged = self.shared.meta::<LogIdRecord>(PURGED)?.map(LogId::from);
        let last_log_id = match last_pending {
            Some(id) => Some(id),
            None => self.shared.last_stored()?.or(purged),
        };
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id,
        })
    }

    fn entries(&self, range: impl RangeBounds<u64>) -> Result<Vec<LogEntry>, LogError> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(bounds) {
            return Ok(Vec::new());
        }
        // Pending before stored: what leaves the one in between is in the other already.
        let pending: Vec<LogEntry> = read(&self.shared.pending)
            .range(bounds)
            .map(|(_, e)| e.clone())
            .collect();
        let before = match pending.first() {
            Some(first) => (bounds.0, Bound::Excluded(first.log_id.index)),
            None => bounds,
        };
        // The leader sends most entries before they are on its own disk.
        let mut entries = if is_empty(before) {
            Vec::new()
        } else {
            self.shared.stored(before)?
        };
        entries.extend(pending);
        Ok(entries)
    }
}

/// `BTreeMap::range` and redb panic or fail on a range that ends before it starts.
fn is_empty(bounds: (Bound<u64>, Bound<u64>)) -> bool {
    let start = match bounds.0 {
        Bound::Included(index) => index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match bounds.1 {
        Bound::Included(index) => start > index,
        Bound::Excluded(index) => start >= index,
        Bound::Unbounded => false,
    }
}

/// A panicking holder leaves the data whole here: every critical section is one assignment or map operation.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Shared {
    /// Makes the tables of a new log; in an old one the birth record proves that the file is this node's.
    fn prepare(&self, path: &Path, must_exist: bool) -> Result<(), LogError> {
        let mut transaction = self.database.begin_write().map_err(database("begin"))?;
        transaction.set_two_phase_commit(true);
        {
            transaction
                .open_table(LOG)
                .map_err(database("open the log table"))?;
            let mut meta = transaction
                .open_table(META)
                .map_err(database("open the meta table"))?;
            let birth = meta
                .get(BIRTH)
                .map_err(database("read the birth record"))?
                .map(|v| v.value().to_vec());
            match birth {
                Some(bytes) => {
                    self.sealer.unseal(BIRTH, 0, &bytes)?;
                }
                None if must_exist => {
                    return Err(LogError::Missing {
                        path: path.to_path_buf(),
                    });
                }
                None => {
                    let sealed = self.sealer.seal(BIRTH, 0, 0, &[])?;
                    meta.insert(BIRTH, sealed.as_slice())
                        .map_err(database("write the birth record"))?;
                }
            }
        }
        transaction.commit().map_err(database("commit the tables"))
    }

    /// Opens every record and looks for holes.
    fn check(&self) -> Result<(), LogError> {
        self.meta::<VoteRecord>(VOTE)?;
        let purged = self.meta::<LogIdRecord>(PURGED)?;
        let mut expected = purged.map(|id| id.index + 1);
        let transaction = self.database.begin_read().map_err(database("begin"))?;
        let log = transaction
            .open_table(LOG)
            .map_err(database("open the log table"))?;
        for row in log.range::<u64>(..).map_err(database("scan"))? {
            let (key, value) = row.map_err(database("scan"))?;
            let index = key.value();
            if expected.is_some_and(|expected| expected != index) {
                return Err(LogError::Hole { index });
            }
            self.entry(index, value.value())?;
            expected = Some(index + 1);
        }
        Ok(())
    }

    fn entry(&self, index: u64, sealed: &[u8]) -> Result<LogEntry, LogError> {
        let (_, plain) = self.sealer.unseal(LOG_NAME, index, sealed)?;
        let record = EntryRecord::decode(plain.as_slice()).map_err(|source| LogError::Decode {
            table: LOG_NAME,
            index,
            source,
        })?;
        Ok(record.into())
    }

    fn meta<M: Message + Default>(&self, name: &'static str) -> Result<Option<M>, LogError> {
        let transaction = self.database.begin_read().map_err(database("begin"))?;
        let table = transaction
            .open_table(META)
            .map_err(database("open the meta table"))?;
        let Some(value) = table.get(name).map_err(database("read a meta record"))? else {
            return Ok(None);
        };
        let (_, plain) = self.sealer.unseal(name, 0, value.value())?;
        M::decode(plain.as_slice())
            .map(Some)
            .map_err(|source| LogError::Decode {
                table: name,
                index: 0,
                source,
            })
    }

    fn last_stored(&self) -> Result<Option<LogId>, LogError> {
        let transaction = self.database.begin_read().map_err(database("begin"))?;
        let log = transaction
            .open_table(LOG)
            .map_err(database("open the log table"))?;
        let last = log.last().map_err(database("read the last entry"))?;
        last.map(|(key, value)| Ok(self.entry(key.value(), value.value())?.log_id))
            .transpose()
    }

    fn stored(&self, bounds: (Bound<u64>, Bound<u64>)) -> Result<Vec<LogEntry>, LogError> {
        let transaction = self.database.begin_read().map_err(database("begin"))?;
        let log = transaction
            .open_table(LOG)
            .map_err(database("open the log table"))?;
        let rows = log.range::<u64>(bounds).map_err(database("read entries"))?;
        rows.map(|row| {
            let (key, value) = row.map_err(database("read entries"))?;
            self.entry(key.value(), value.value())
        })
        .collect()
    }
}

fn reading(error: LogError) -> StorageError {
    StorageIoError::read_logs(&error).into()
}

fn writing(error: LogError) -> StorageError {
    StorageIoError::write_logs(&error).into()
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<LogEntry>, StorageError> {
        self.entries(range).map_err(reading)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        self.state().map_err(reading)
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        self.submit(|done| Op::Vote { vote, done })
            .await
            .map_err(|error| StorageIoError::write_vote(&error).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let record = self.shared.meta::<VoteRecord>(VOTE);
        record
            .map(|vote| vote.map(Vote::from))
            .map_err(|error| StorageIoError::read_vote(&error).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        *lock(&self.shared.committed) = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(*lock(&self.shared.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<LogEntry> = entries.into_iter().collect();
        {
            let mut pending = write(&self.shared.pending);
            for entry in &entries {
                pending.insert(entry.log_id.index, entry.clone());
            }
        }
        self.writer
            .send(Op::Append { entries, callback })
            .map_err(writing)
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        self.submit(|done| Op::Truncate { from, done })
            .await
            .map_err(writing)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        self.submit(|done| Op::Purge { upto: log_id, done })
            .await
            .map_err(writing)
    }
}

#[cfg(test)]
mod tests;
