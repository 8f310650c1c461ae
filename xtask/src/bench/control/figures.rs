//! The figures and their goals.

use anyhow::Result;

use super::side::Side;
use super::{faults, work};

type Measured = fn(&Side) -> Result<f64>;

#[derive(Clone, Copy)]
pub enum Measure {
    Both(Measured),
    /// On Skep's nodes alone.
    Floor(Measured),
}

/// What Skep's figure is held against.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Goal {
    /// At most so many times Swarm's in the same round.
    Ratio(f64),
    /// At most so much, in the figure's unit.
    AtMost(f64),
    /// Told only.
    None,
}

pub struct Figure {
    pub name: &'static str,
    pub measure: Measure,
    pub goal: Goal,
    /// At most so many rounds: some take minutes.
    pub rounds: usize,
}

const fn both(name: &'static str, measure: Measured, goal: Goal, rounds: usize) -> Figure {
    Figure {
        name,
        measure: Measure::Both(measure),
        goal,
        rounds,
    }
}

const fn floor(name: &'static str, measure: Measured, goal: Goal, rounds: usize) -> Figure {
    Figure {
        name,
        measure: Measure::Floor(measure),
        goal,
        rounds,
    }
}

pub const ALL: &[Figure] = &[
    floor(
        "six containers by docker run",
        work::floor,
        Goal::None,
        usize::MAX,
    ),
    both("create 6", work::create, Goal::Ratio(1.0), usize::MAX),
    both("remove 6", work::remove, Goal::Ratio(0.9), usize::MAX),
    both("scale 6 to 30", work::scale_up, Goal::Ratio(0.9), usize::MAX),
    both("scale 30 to 6", work::scale_down, Goal::Ratio(0.9), usize::MAX),
    both(
        "update 6, one at a time",
        work::update,
        Goal::Ratio(0.4),
        usize::MAX,
    ),
    both(
        "killed container replaced",
        work::replace,
        Goal::Ratio(0.7),
        usize::MAX,
    ),
    both(
        "list 50 services, leader (ms)",
        work::list_leader,
        Goal::Ratio(1.0),
        usize::MAX,
    ),
    both(
        "list 50 services, follower (ms)",
        work::list_follower,
        Goal::Ratio(1.0),
        usize::MAX,
    ),
    both("50 waiting commands (cores)", work::waiting, Goal::AtMost(0.5), 2),
    both("memory (MiB)", work::memory, Goal::Ratio(1.5), 1),
    both("create 120", work::create_many, Goal::Ratio(1.0), 2),
    both(
        "leader killed to next write",
        faults::leader_to_write,
        Goal::AtMost(1.5),
        usize::MAX,
    ),
    both(
        "leader killed to tasks elsewhere",
        faults::leader_to_tasks,
        Goal::AtMost(18.0),
        2,
    ),
    both(
        "node killed to tasks elsewhere",
        faults::follower_to_tasks,
        Goal::AtMost(13.0),
        2,
    ),
    floor(
        "leader restarted: writes refused",
        faults::leader_restart_refusals,
        Goal::AtMost(0.0),
        2,
    ),
    both(
        "cut for 60 s, back to Ready",
        faults::cut_to_ready,
        Goal::AtMost(5.0),
        1,
    ),
    both(
        "cut for 60 s, writes refused",
        faults::cut_refusals,
        Goal::AtMost(0.0),
        1,
    ),
];
