//! Our bytes for openraft's types: protobuf, the same on disk and between managers. openraft's own layouts may
//! change between its versions; these do not.

use std::collections::{BTreeMap, BTreeSet};

use openraft::{CommittedLeaderId, EntryPayload};
use prost::{Message, Oneof};

use super::types::*;

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct LogIdRecord {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub leader: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct VoteRecord {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub leader: u64,
    #[prost(bool, tag = "3")]
    pub committed: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct EntryRecord {
    #[prost(message, required, tag = "1")]
    pub log_id: LogIdRecord,
    /// Absent: a blank entry, which a new leader writes.
    #[prost(oneof = "PayloadRecord", tags = "2, 3")]
    pub payload: Option<PayloadRecord>,
}

#[derive(Clone, PartialEq, Oneof)]
pub enum PayloadRecord {
    #[prost(bytes, tag = "2")]
    Command(Vec<u8>),
    #[prost(message, tag = "3")]
    Membership(MembershipRecord),
}

#[derive(Clone, PartialEq, Message)]
pub struct MembershipRecord {
    /// One set of voters, or two while the membership changes.
    #[prost(message, repeated, tag = "1")]
    pub voters: Vec<VotersRecord>,
    #[prost(btree_map = "uint64, message", tag = "2")]
    pub members: BTreeMap<u64, MemberRecord>,
}

#[derive(Clone, PartialEq, Message)]
pub struct VotersRecord {
    #[prost(uint64, repeated, tag = "1")]
    pub ids: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct MemberRecord {
    #[prost(string, tag = "1")]
    pub node_id: String,
    #[prost(string, tag = "2")]
    pub address: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct SnapshotMetaRecord {
    #[prost(message, optional, tag = "1")]
    pub last_log_id: Option<LogIdRecord>,
    #[prost(message, optional, tag = "2")]
    pub membership_log_id: Option<LogIdRecord>,
    #[prost(message, required, tag = "3")]
    pub membership: MembershipRecord,
    #[prost(string, tag = "4")]
    pub snapshot_id: String,
}

/// The snapshot file.
#[derive(Clone, PartialEq, Message)]
pub struct SnapshotRecord {
    #[prost(message, required, tag = "1")]
    pub meta: SnapshotMetaRecord,
    #[prost(bytes = "vec", tag = "2")]
    pub state: Vec<u8>,
}

impl From<LogId> for LogIdRecord {
    fn from(id: LogId) -> LogIdRecord {
        LogIdRecord {
            term: id.leader_id.term,
            leader: id.leader_id.node_id,
            index: id.index,
        }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(record: LogIdRecord) -> LogId {
        LogId::new(CommittedLeaderId::new(record.term, record.leader), record.index)
    }
}

impl From<Vote> for VoteRecord {
    fn from(vote: Vote) -> VoteRecord {
        VoteRecord {
            term: vote.leader_id.term,
            leader: vote.leader_id.node_id,
            committed: vote.committed,
        }
    }
}

impl From<VoteRecord> for Vote {
    fn from(record: VoteRecord) -> Vote {
        let mut vote = Vote::new(record.term, record.leader);
        vote.committed = record.committed;
        vote
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> MembershipRecord {
        MembershipRecord {
            voters: membership
                .get_joint_config()
                .iter()
                .map(|ids| VotersRecord {
                    ids: ids.iter().copied().collect(),
                })
                .collect(),
            members: membership
                .nodes()
                .map(|(id, member)| {
                    let record = MemberRecord {
                        node_id: member.node_id.clone(),
                        address: member.address.clone(),
                    };
                    (*id, record)
                })
                .collect(),
        }
    }
}

impl From<MembershipRecord> for Membership {
    fn from(record: MembershipRecord) -> Membership {
        let voters: Vec<BTreeSet<u64>> = record
            .voters
            .into_iter()
            .map(|set| set.ids.into_iter().collect())
            .collect();
        let members: BTreeMap<u64, Member> = record
            .members
            .into_iter()
            .map(|(id, member)| {
                let member = Member {
                    node_id: member.node_id,
                    address: member.address,
                };
                (id, member)
            })
            .collect();
        Membership::new(voters, members)
    }
}

impl From<&LogEntry> for EntryRecord {
    fn from(entry: &LogEntry) -> EntryRecord {
        let payload = match &entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(proposal) => Some(PayloadRecord::Command(proposal.0.clone())),
            EntryPayload::Membership(membership) => Some(PayloadRecord::Membership(membership.into())),
        };
        EntryRecord {
            log_id: entry.log_id.into(),
            payload,
        }
    }
}

impl From<EntryRecord> for LogEntry {
    fn from(record: EntryRecord) -> LogEntry {
        let payload = match record.payload {
            None => EntryPayload::Blank,
            Some(PayloadRecord::Command(bytes)) => EntryPayload::Normal(Proposal(bytes)),
            Some(PayloadRecord::Membership(membership)) => EntryPayload::Membership(membership.into()),
        };
        LogEntry {
            log_id: record.log_id.into(),
            payload,
        }
    }
}

impl From<&SnapshotMeta> for SnapshotMetaRecord {
    fn from(meta: &SnapshotMeta) -> SnapshotMetaRecord {
        SnapshotMetaRecord {
            last_log_id: meta.last_log_id.map(Into::into),
            membership_log_id: meta.last_membership.log_id().map(Into::into),
            membership: meta.last_membership.membership().into(),
            snapshot_id: meta.snapshot_id.clone(),
        }
    }
}

impl From<SnapshotMetaRecord> for SnapshotMeta {
    fn from(record: SnapshotMetaRecord) -> SnapshotMeta {
        SnapshotMeta {
            last_log_id: record.last_log_id.map(Into::into),
            last_membership: StoredMembership::new(
                record.membership_log_id.map(Into::into),
                record.membership.into(),
            ),
            snapshot_id: record.snapshot_id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout on disk: these bytes may never change.
    #[test]
    fn golden_bytes_of_an_entry() {
        let member = Member {
            node_id: "n".to_string(),
            address: "a:1".to_string(),
        };
        let membership = Membership::new(vec![BTreeSet::from([1])], BTreeMap::from([(1, member)]));
        let entry = LogEntry {
            log_id: LogId::new(CommittedLeaderId::new(2, 1), 7),
            payload: EntryPayload::Membership(membership),
        };
        let bytes = EntryRecord::from(&entry).encode_to_vec();
        assert_eq!(
            bytes,
            [
                0x0a, 6, 0x08, 2, 0x10, 1, 0x18, 7, 0x1a, 19, 0x0a, 3, 0x0a, 1, 1, 0x12, 12, 0x08, 1, 0x12,
                8, 0x0a, 1, b'n', 0x12, 3, b'a', b':', b'1'
            ]
        );
        assert_eq!(
            LogEntry::from(EntryRecord::decode(bytes.as_slice()).unwrap()),
            entry
        );
    }

    #[test]
    fn commands_and_votes_round_trip() {
        let entry = LogEntry {
            log_id: LogId::new(CommittedLeaderId::new(3, 2), 9),
            payload: EntryPayload::Normal(Proposal(vec![1, 2, 3])),
        };
        assert_eq!(LogEntry::from(EntryRecord::from(&entry)), entry);
        for vote in [Vote::new(4, 5), Vote::new_committed(4, 5)] {
            assert_eq!(Vote::from(VoteRecord::from(vote)), vote);
        }
    }
}
