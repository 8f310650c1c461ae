//! What openraft is instantiated with.

use std::io::Cursor;

use openraft::{Entry, TokioRuntime};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::model::{Applied, Command};

/// An encoded [`Command`]: kept as bytes, so that the log stores and sends what was proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal(pub Vec<u8>);

impl Proposal {
    pub fn new(command: &Command) -> Proposal {
        Proposal(command.encode_to_vec())
    }
}

/// An encoded [`Applied`]; empty for entries that are no commands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer(pub Vec<u8>);

impl Answer {
    pub fn new(applied: &Applied) -> Answer {
        Answer(applied.encode_to_vec())
    }

    pub fn applied(&self) -> Result<Applied, prost::DecodeError> {
        Applied::decode(self.0.as_slice())
    }
}

/// A member of the Raft group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// CN of its certificate: a connection to anyone else is refused.
    pub node_id: String,
    /// `host:port`.
    pub address: String,
}

openraft::declare_raft_types!(
    /// Skep's instance of openraft.
    pub TypeConfig:
        D = Proposal,
        R = Answer,
        NodeId = u64,
        Node = Member,
        Entry = Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = TokioRuntime,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type LogEntry = Entry<TypeConfig>;
pub type Membership = openraft::Membership<u64, Member>;
pub type StoredMembership = openraft::StoredMembership<u64, Member>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Member>;
pub type StorageError = openraft::StorageError<u64>;
pub type StorageIoError = openraft::StorageIOError<u64>;
