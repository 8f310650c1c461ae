//! Programs on the node's own sockets. The packets of everybody else do not need them, so their absence is no error.

use super::Datapath;
use crate::io::cgroup::{self, Group};
use crate::tables::SocketProblem;

impl Datapath {
    /// New programs into the links that an agent before this one left.
    pub(super) fn take_over_sockets(&mut self) {
        for group in Group::ALL {
            if cgroup::is_attached(&self.pins, group) {
                // Told with the next sync, which tries again.
                if let Some(problem) = self.place_group(group) {
                    tracing::debug!(?problem, "programs on sockets stay those of the agent before");
                }
            }
        }
    }

    /// Attaches what is not at work yet. Called when the tables are in place: from then on published ports are ours.
    pub(super) fn place_sockets(&mut self) -> Vec<SocketProblem> {
        let groups = Group::ALL.into_iter();
        groups.filter_map(|group| self.place_group(group)).collect()
    }

    fn place_group(&mut self, group: Group) -> Option<SocketProblem> {
        if self.sockets.contains(&group) {
            return None;
        }
        match cgroup::attach(&mut self.object, &self.pins, group) {
            Ok(()) => {
                self.sockets.insert(group);
                None
            }
            Err(error) => Some(match group {
                Group::Dial => SocketProblem::NotDialed(error.to_string()),
                Group::Guard => SocketProblem::NotGuarded(error.to_string()),
            }),
        }
    }
}
