//! The one thread that writes the log: group commit, in the order of submission.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use openraft::storage::LogFlushed;
use prost::Message;
use redb::WriteTransaction;
use tokio::sync::oneshot;

use super::*;

/// Operations waiting at most; a full queue makes the Raft core wait, which is what a slow disk should do to it.
const QUEUE: usize = 4096;
/// Operations of one commit at most.
const BATCH: usize = 256;
/// How late the commit index may reach the disk when nothing else is written.
const IDLE: Duration = Duration::from_secs(1);

pub(super) enum Op {
    Vote {
        vote: Vote,
        done: oneshot::Sender<()>,
    },
    Append {
        entries: Vec<LogEntry>,
        callback: LogFlushed<TypeConfig>,
    },
    Truncate {
        from: u64,
        done: oneshot::Sender<()>,
    },
    Purge {
        upto: LogId,
        done: oneshot::Sender<()>,
    },
}

/// Handle of the thread. Dropping the last one makes it write the commit index and end, and waits for that.
pub(super) struct Writer {
    queue: Option<SyncSender<Op>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn spawn(shared: Arc<Shared>) -> Writer {
        let (queue, operations) = sync_channel(QUEUE);
        let thread = std::thread::spawn(move || run(&shared, &operations));
        Writer {
            queue: Some(queue),
            thread: Mutex::new(Some(thread)),
        }
    }

    pub(super) fn send(&self, op: Op) -> Result<(), LogError> {
        let queue = self.queue.as_ref().ok_or(LogError::WriterGone)?;
        queue.send(op).map_err(|_| LogError::WriterGone)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the writer of the Raft log panicked");
        }
    }
}

fn run(shared: &Shared, operations: &Receiver<Op>) {
    let mut written_commit = *lock(&shared.committed);
    loop {
        let (mut batch, ended) = match operations.recv_timeout(IDLE) {
            Ok(op) => (vec![op], false),
            Err(RecvTimeoutError::Timeout) => (Vec::new(), false),
            Err(RecvTimeoutError::Disconnected) => (Vec::new(), true),
        };
        while !batch.is_empty() && batch.len() < BATCH {
            match operations.try_recv() {
                Ok(op) => batch.push(op),
                Err(_) => break,
            }
        }
        let committed = *lock(&shared.committed);
        let commit_moved = committed != written_commit;
        if !batch.is_empty() || commit_moved {
            if let Err(error) = commit(shared, &batch, committed) {
                // What is on disk is unknown now, and acknowledging or retrying could lose what was acknowledged.
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "cannot write the Raft log"
                );
                std::process::abort();
            }
            written_commit = committed;
            acknowledge(shared, batch);
        }
        if ended {
            return;
        }
    }
}

/// Writes a batch in one durable transaction.
fn commit(shared: &Shared, batch: &[Op], committed: Option<LogId>) -> Result<(), LogError> {
    let mut transaction = shared.database.begin_write().map_err(database("begin a write"))?;
    transaction.set_two_phase_commit(true);
    for op in batch {
        match op {
            Op::Vote { vote, .. } => put_meta(shared, &transaction, VOTE, &VoteRecord::from(*vote))?,
            Op::Append { entries, .. } => append(shared, &transaction, entries)?,
            Op::Truncate { from, .. } => remove(&transaction, *from..=u64::MAX)?,
            Op::Purge { upto, .. } => {
                remove(&transaction, 0..=upto.index)?;
                put_meta(shared, &transaction, PURGED, &LogIdRecord::from(*upto))?;
            }
        }
    }
    if let Some(id) = committed {
        put_meta(shared, &transaction, COMMITTED, &LogIdRecord::from(id))?;
    }
    transaction.commit().map_err(database("commit"))
}

/// Writes a vote and an entry while no Raft core runs.
pub(super) fn write_now(shared: &Shared, vote: &Vote, entry: LogEntry) -> Result<(), LogError> {
    let mut transaction = shared.database.begin_write().map_err(database("begin a write"))?;
    transaction.set_two_phase_commit(true);
    put_meta(shared, &transaction, VOTE, &VoteRecord::from(*vote))?;
    append(shared, &transaction, &[entry])?;
    transaction.commit().map_err(database("commit"))
}

fn append(shared: &Shared, transaction: &WriteTransaction, entries: &[LogEntry]) -> Result<(), LogError> {
    let mut log = transaction
        .open_table(LOG)
        .map_err(database("open the log table"))?;
    for entry in entries {
        let index = entry.log_id.index;
        let plain = EntryRecord::from(entry).encode_to_vec();
        let sealed = shared
            .sealer
            .seal(LOG_NAME, index, entry.log_id.leader_id.term, &plain)?;
        log.insert(index, sealed.as_slice()).map_err(database("append"))?;
    }
    Ok(())
}

fn remove(transaction: &WriteTransaction, range: std::ops::RangeInclusive<u64>) -> Result<(), LogError> {
    let mut log = transaction
        .open_table(LOG)
        .map_err(database("open the log table"))?;
    log.retain_in::<u64, _>(range, |_, _| false)
        .map_err(database("remove entries"))
}

fn put_meta(
    shared: &Shared,
    transaction: &WriteTransaction,
    name: &'static str,
    record: &impl Message,
) -> Result<(), LogError> {
    let sealed = shared.sealer.seal(name, 0, 0, &record.encode_to_vec())?;
    let mut meta = transaction
        .open_table(META)
        .map_err(database("open the meta table"))?;
    meta.insert(name, sealed.as_slice())
        .map_err(database("write a meta record"))?;
    Ok(())
}

fn acknowledge(shared: &Shared, batch: Vec<Op>) {
    for op in batch {
        match op {
            Op::Append { entries, callback } => {
                {
                    let mut pending = write(&shared.pending);
                    for entry in &entries {
                        pending.remove(&entry.log_id.index);
                    }
                }
                callback.log_io_completed(Ok(()));
            }
            Op::Vote { done, .. } | Op::Truncate { done, .. } | Op::Purge { done, .. } => {
                // A caller that no longer waits is a Raft core that was stopped.
                if done.send(()).is_err() {
                    tracing::debug!("nobody waits for a write of the Raft log");
                }
            }
        }
    }
}
