//! The store: openraft's conformance suite, and what it does not ask: reopening, damage, torn tails.

use openraft::entry::FromAppData;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::{StoreBuilder, Suite};
use openraft::{CommittedLeaderId, RaftLogId};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::raft::machine::Machine;

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let directory = tempfile::tempdir().unwrap();
        let sealer = sealer(directory.path());
        let log = LogStore::open(&directory.path().join("raft.redb"), sealer.clone(), false).unwrap();
        let machine = Machine::open(&directory.path().join("snapshot"), sealer).unwrap();
        Ok((directory, log, machine))
    }
}

fn sealer(directory: &Path) -> Arc<Sealer> {
    Arc::new(Sealer::open(&directory.join("raft.key"), "swarm", "node", None).unwrap())
}

fn open(directory: &Path, must_exist: bool) -> Result<LogStore, LogError> {
    LogStore::open(&directory.join("raft.redb"), sealer(directory), must_exist)
}

fn entry(index: u64) -> LogEntry {
    let mut entry = LogEntry::from_app_data(Proposal(vec![index as u8; 100]));
    entry.set_log_id(&LogId::new(CommittedLeaderId::new(1, 1), index));
    entry
}

/// A closed log of entries 0..count with a vote.
fn filled(directory: &Path, count: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut log = open(directory, false).unwrap();
        log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
        for index in 0..count {
            log.blocking_append([entry(index)]).await.unwrap();
        }
    });
}

#[test]
fn conforms_to_openraft() {
    Suite::test_all(Builder).unwrap();
}

#[tokio::test]
async fn acknowledged_entries_and_vote_survive_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = open(directory.path(), false).unwrap();
    log.save_vote(&Vote::new(3, 2)).await.unwrap();
    log.blocking_append((0..50).map(entry)).await.unwrap();
    log.truncate(entry(40).log_id).await.unwrap();
    log.purge(entry(9).log_id).await.unwrap();
    log.save_committed(Some(entry(30).log_id)).await.unwrap();
    drop(log);
    let mut log = open(directory.path(), true).unwrap();
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, 2)));
    assert_eq!(log.read_committed().await.unwrap(), Some(entry(30).log_id));
    let state = log.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(entry(9).log_id));
    assert_eq!(state.last_log_id, Some(entry(39).log_id));
    assert_eq!(
        log.try_get_log_entries(..).await.unwrap(),
        (10..40).map(entry).collect::<Vec<_>>()
    );
}

#[test]
fn a_lost_or_foreign_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(
        open(directory.path(), true),
        Err(LogError::Missing { .. })
    ));
    filled(directory.path(), 3);
    let other = Arc::new(Sealer::open(&directory.path().join("raft.key"), "swarm", "other", None).unwrap());
    let foreign = LogStore::open(&directory.path().join("raft.redb"), other, true);
    assert!(matches!(foreign, Err(LogError::Seal(_))));
    std::fs::write(directory.path().join("raft.redb"), b"").unwrap();
    assert!(matches!(
        open(directory.path(), true),
        Err(LogError::Missing { .. })
    ));
}

/// What opening a damaged copy gives: the entries, or `None` when it is refused (also by redb's own panic).
fn reopened(original: &Path, damage: impl FnOnce(&mut Vec<u8>)) -> Option<(Vec<LogEntry>, Option<Vote>)> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::copy(original.join("raft.key"), directory.path().join("raft.key")).unwrap();
    let mut bytes = std::fs::read(original.join("raft.redb")).unwrap();
    damage(&mut bytes);
    std::fs::write(directory.path().join("raft.redb"), bytes).unwrap();
    let result = std::panic::catch_unwind(|| {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut log = open(directory.path(), true).ok()?;
            Some((
                log.try_get_log_entries(..).await.ok()?,
                log.read_vote().await.ok()?,
            ))
        })
    });
    result.ok().flatten()
}

fn whole(count: u64) -> (Vec<LogEntry>, Option<Vote>) {
    ((0..count).map(entry).collect(), Some(Vote::new_committed(1, 1)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_flipped_byte_is_refused_or_harmless(position in any::<prop::sample::Index>(), bit in 0u8..8) {
        let directory = tempfile::tempdir().unwrap();
        filled(directory.path(), 10);
        let found = reopened(directory.path(), |bytes| {
            let position = position.index(bytes.len());
            bytes[position] ^= 1 << bit;
        });
        if let Some(found) = found {
            prop_assert_eq!(found, whole(10));
        }
    }
}

#[test]
fn flips_in_the_pages_that_hold_data_are_refused_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 10);
    let bytes = std::fs::read(directory.path().join("raft.redb")).unwrap();
    let used: Vec<usize> = (0..bytes.len())
        .filter(|&position| bytes[position] != 0)
        .collect();
    for position in used.iter().step_by(used.len() / 60 + 1) {
        if let Some(found) = reopened(directory.path(), |bytes| bytes[*position] ^= 0x10) {
            assert_eq!(found, whole(10), "byte {position}");
        }
    }
}

#[test]
fn a_torn_tail_is_refused_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path(), 10);
    let length = std::fs::metadata(directory.path().join("raft.redb"))
        .unwrap()
        .len() as usize;
    for cut in [1, 512, 4096, length / 2, length - 1] {
        if let Some(found) = reopened(directory.path(), |bytes| bytes.truncate(length - cut)) {
            assert_eq!(found, whole(10), "cut {cut}");
        }
        if let Some(found) = reopened(directory.path(), |bytes| bytes[length - cut..].fill(0)) {
            assert_eq!(found, whole(10), "zeroed {cut}");
        }
    }
}
