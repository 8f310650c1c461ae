//! The replicated log: the only module that knows openraft. Store, state machine, network, elections.
//!
//! In reading order: [`types`] (what openraft is instantiated with), [`record`] (our bytes for its types),
//! [`seal`] (records at rest), [`log`] (log and vote in redb), [`machine`] (the state and its snapshots),
//! [`network`] (RPCs to peers), [`group`] (this member), [`elect`] (pre-vote),
//! [`snapshots`] (when one is due).

pub mod elect;
pub mod group;
pub mod log;
pub mod machine;
pub mod network;
pub mod record;
pub mod seal;
pub mod snapshots;
pub mod types;
