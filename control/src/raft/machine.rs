//! The state machine: the cluster state in memory, published after every batch of entries, and its snapshot on
//! disk as one sealed file that is replaced by rename.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::RaftStateMachine;
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot};
use prost::Message;
use tokio::sync::watch;

use super::record::*;
use super::seal::{SealError, Sealer};
use super::types::*;
use crate::ca::identity::{IdentityError, write_private};
use crate::core::snapshot::{SnapshotError, decode, encode};
use crate::core::state::ClusterState;
use crate::model::Command;

const SNAPSHOT: &str = "snapshot";

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("read the snapshot {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("write the snapshot")]
    Write(#[source] IdentityError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the snapshot does not decode")]
    Record(#[source] prost::DecodeError),
    #[error(transparent)]
    State(#[from] SnapshotError),
    #[error("the command at index {index} does not decode")]
    Command { index: u64, source: prost::DecodeError },
    #[error("the task that writes the snapshot failed")]
    Task(#[source] tokio::task::JoinError),
}

/// Where the snapshot lies, and how it is sealed.
#[derive(Clone)]
struct SnapshotFile {
    path: PathBuf,
    sealer: Arc<Sealer>,
}

/// openraft's state machine.
pub struct Machine {
    state: Arc<ClusterState>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    published: watch::Sender<Arc<ClusterState>>,
    file: SnapshotFile,
}

impl Machine {
    /// Starts from the snapshot, if there is one. Blocking.
    pub fn open(path: &Path, sealer: Arc<Sealer>) -> Result<Machine, MachineError> {
        let file = SnapshotFile {
            path: path.to_path_buf(),
            sealer,
        };
        let mut machine = Machine {
            state: Arc::new(ClusterState::default()),
            last_applied: None,
            membership: StoredMembership::default(),
            published: watch::channel(Arc::new(ClusterState::default())).0,
            file,
        };
        if let Some(record) = machine.file.load()? {
            machine.restore(record)?;
        }
        Ok(machine)
    }

    /// The applied state and its changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.published.subscribe()
    }

    fn restore(&mut self, record: SnapshotRecord) -> Result<(), MachineError> {
        let state = decode(&record.state)?;
        let meta = SnapshotMeta::from(record.meta);
        self.state = Arc::new(state);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership;
        self.published.send_replace(self.state.clone());
        Ok(())
    }

    fn apply_one(&mut self, entry: LogEntry) -> Result<Answer, MachineError> {
        let index = entry.log_id.index;
        self.last_applied = Some(entry.log_id);
        let state = Arc::make_mut(&mut self.state);
        match entry.payload {
            EntryPayload::Blank => {
                state.index = index;
                Ok(Answer::default())
            }
            EntryPayload::Membership(membership) => {
                state.index = index;
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Ok(Answer::default())
            }
            EntryPayload::Normal(proposal) => {
                let command = Command::decode(proposal.0.as_slice())
                    .map_err(|source| MachineError::Command { index, source })?;
                Ok(Answer::new(&state.apply(index, &command)))
            }
        }
    }
}

impl SnapshotFile {
    fn load(&self) -> Result<Option<SnapshotRecord>, MachineError> {
        let bytes = match std::fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(MachineError::Read {
                    path: self.path.clone(),
                    source,
                });
            }
        };
        let (_, plain) = self.sealer.unseal(SNAPSHOT, 0, &bytes)?;
        SnapshotRecord::decode(plain.as_slice())
            .map(Some)
            .map_err(MachineError::Record)
    }

    /// Durable when this returns; a crash before leaves the old snapshot.
    fn store(&self, record: &SnapshotRecord) -> Result<(), MachineError> {
        let term = record.meta.last_log_id.map_or(0, |id| id.term);
        let sealed = self.sealer.seal(SNAPSHOT, 0, term, &record.encode_to_vec())?;
        write_private(&self.path, &sealed).map_err(MachineError::Write)
    }

    async fn store_in_background(&self, record: SnapshotRecord) -> Result<SnapshotRecord, MachineError> {
        let file = self.clone();
        tokio::task::spawn_blocking(move || file.store(&record).map(|()| record))
            .await
            .map_err(MachineError::Task)?
    }
}

fn reading(error: MachineError) -> StorageError {
    StorageIoError::read_state_machine(&error).into()
}

fn writing(error: MachineError) -> StorageError {
    StorageIoError::write_snapshot(None, &error).into()
}

fn snapshot(record: SnapshotRecord) -> Snapshot<TypeConfig> {
    Snapshot {
        meta: record.meta.into(),
        snapshot: Box::new(Cursor::new(record.state)),
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Answer>, StorageError>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut answers = Vec::new();
        for entry in entries {
            let log_id = entry.log_id;
            let answer = self
                .apply_one(entry)
                .map_err(|error| StorageIoError::apply(log_id, &error))?;
            answers.push(answer);
        }
        self.published.send_replace(self.state.clone());
        Ok(answers)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            state: self.state.clone(),
            last_applied: self.last_applied,
            membership: self.membership.clone(),
            file: self.file.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::new(Cursor::new(Vec::new())))
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        let record = SnapshotRecord {
            meta: meta.into(),
            state: snapshot.into_inner(),
        };
        let record = self.file.store_in_background(record).await.map_err(writing)?;
        self.restore(record).map_err(reading)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError> {
        Ok(self.file.load().map_err(reading)?.map(snapshot))
    }
}

/// Builds a snapshot of the state at one index while later entries are applied.
pub struct Builder {
    state: Arc<ClusterState>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    file: SnapshotFile,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError> {
        let at = self.last_applied.map_or_else(
            || "0-0".to_string(),
            |id| format!("{}-{}", id.leader_id.term, id.index),
        );
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{at}-{:08x}", rand::random::<u32>()),
        };
        let record = SnapshotRecord {
            meta: (&meta).into(),
            state: encode(&self.state),
        };
        let record = self.file.store_in_background(record).await.map_err(writing)?;
        Ok(snapshot(record))
    }
}
