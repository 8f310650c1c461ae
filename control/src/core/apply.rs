//! Folds one committed command to the state: checks it, allocates what it needs, writes records.
//!
//! Deterministic: time, ids and seeds stand in the command. A refused command leaves everything but the index as it
//! was: each handler checks first and writes last.

mod attachment;
mod cluster;
mod ingress;
mod network;
mod node;
mod service;
mod task;

use super::state::ClusterState;
use super::validate::refuse;
use crate::model::*;

/// Text of swarmkit's store (manager/state/store/memory.go, `ErrSequenceConflict`); tools match it and retry.
const OUT_OF_SEQUENCE: &str = "update out of sequence";

/// Where and when a command is applied.
#[derive(Clone, Copy)]
pub(crate) struct At {
    index: u64,
    now: Timestamp,
}

impl At {
    fn created(self) -> Meta {
        Meta {
            version: self.index,
            created_at: self.now,
            updated_at: self.now,
        }
    }

    fn touch(self, meta: &mut Meta) {
        meta.version = self.index;
        meta.updated_at = self.now;
    }
}

type Answer = Result<Applied, Refused>;

impl ClusterState {
    /// Applies the entry at `index`.
    pub fn apply(&mut self, index: u64, command: &Command) -> Applied {
        self.index = index;
        let at = At {
            index,
            now: command.now,
        };
        let answer = match &command.change {
            Some(change) => self.change(at, change),
            None => Err(refuse(
                Code::Unimplemented,
                "the command is of a later version of the managers",
            )),
        };
        match answer {
            Ok(applied) => {
                self.resting.retain(|_, until| *until > at.now);
                Applied { index, ..applied }
            }
            Err(refused) => Applied {
                index,
                refused: Some(refused),
                ..Applied::default()
            },
        }
    }

    fn change(&mut self, at: At, change: &Change) -> Answer {
        if self.cluster.is_none() && !matches!(change, Change::InitCluster(_)) {
            return Err(refuse(Code::FailedPrecondition, "the swarm is not initialized"));
        }
        match change {
            Change::InitCluster(c) => cluster::init(self, at, c),
            Change::UpdateCluster(c) => cluster::update(self, at, c),
            Change::ForceNewCluster(c) => node::force_new_cluster(self, at, c),
            Change::FinishRootRotation(c) => cluster::finish_rotation(self, at, c),
            Change::CreateNode(c) => node::create(self, at, c),
            Change::UpdateNode(c) => node::update(self, at, c),
            Change::ReportNode(c) => node::report(self, at, c),
            Change::RemoveNode(c) => node::remove(self, at, c),
            Change::CreateService(c) => service::create(self, at, c),
            Change::UpdateService(c) => service::update(self, at, c),
            Change::RemoveService(c) => service::remove(self, at, c),
            Change::CreateNetwork(c) => network::create(self, at, c),
            Change::RemoveNetwork(c) => network::remove(self, at, c),
            Change::PlanTasks(c) => task::plan(self, at, c),
            Change::ReportTasks(c) => task::report(self, at, c),
            Change::CreateAttachment(c) => attachment::create(self, at, c),
            Change::UpdateAttachment(c) => attachment::update(self, at, c),
            Change::CreateIngressAddress(c) => ingress::create(self, at, c),
            Change::RemoveIngressAddress(c) => ingress::remove(self, c),
            Change::RankIngressAddresses(c) => ingress::rank(self, at, c),
            Change::MoveIngressAddress(c) => ingress::move_to(self, at, c),
        }
    }
}

fn not_found(kind: &str, name: &str) -> Refused {
    refuse(Code::NotFound, format!("{kind} {name} not found"))
}

fn exists(kind: &str, name: &str) -> Refused {
    refuse(
        Code::AlreadyExists,
        format!("name conflicts with an existing object: {kind} {name} already exists"),
    )
}

/// Every update names the version its author saw.
fn in_sequence(meta: &Meta, version: u64) -> Result<(), Refused> {
    if meta.version == version {
        Ok(())
    } else {
        Err(refuse(Code::Unknown, OUT_OF_SEQUENCE))
    }
}
