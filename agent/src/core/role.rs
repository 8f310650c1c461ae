//! What this node does about its certificate and its manager, from what it is and what it is told to be.

use skep_control::model::SwarmItem;

/// What this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// The certificate says manager.
    pub manager: bool,
    /// SHA-256 of the PEM of the roots it trusts.
    pub trust_digest: Vec<u8>,
    /// The certificate's time to be renewed has come.
    pub due: bool,
    /// Of the running manager.
    pub raft_id: Option<u64>,
    /// The running manager is a Raft member.
    pub member: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A new certificate: it carries the role and the roots.
    Renew,
    /// Start the manager with this Raft id.
    Start(u64),
    /// Ask the leader to be a member.
    Enter,
    /// End the manager.
    Stop,
    Rest,
}

/// The next step towards what the managers say. `told` is absent before they said anything.
///
/// A node that is promoted has the certificate first, then the manager, then the membership. One that is demoted is told
/// when it is no member any more; then the certificate goes, and the manager with it.
pub fn next(own: &Own, told: Option<&SwarmItem>) -> Step {
    let raft_id = told.and_then(|told| told.raft_id);
    let other_role = raft_id.is_some_and(|id| (id != 0) != own.manager);
    let other_roots =
        told.is_some_and(|told| !told.trust_digest.is_empty() && told.trust_digest != own.trust_digest);
    if other_role || other_roots || own.due {
        return Step::Renew;
    }
    match (raft_id, own.raft_id) {
        (Some(0), Some(_)) => Step::Stop,
        // A manager of an earlier promotion.
        (Some(id), Some(running)) if id != running => Step::Stop,
        (Some(id), None) if id != 0 => Step::Start(id),
        (_, Some(_)) if !own.member => Step::Enter,
        _ => Step::Rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(manager: bool, raft_id: Option<u64>, member: bool) -> Own {
        Own {
            manager,
            trust_digest: vec![1],
            due: false,
            raft_id,
            member,
        }
    }

    fn told(raft_id: u64) -> SwarmItem {
        SwarmItem {
            raft_id: Some(raft_id),
            trust_digest: vec![1],
            ..SwarmItem::default()
        }
    }

    #[test]
    fn a_promotion_and_a_demotion_take_their_steps_in_order() {
        let manager = Some(&told(4)).cloned();
        let up = |own: &Own| next(own, manager.as_ref());
        assert_eq!(up(&own(false, None, false)), Step::Renew);
        assert_eq!(up(&own(true, None, false)), Step::Start(4));
        assert_eq!(up(&own(true, Some(4), false)), Step::Enter);
        assert_eq!(up(&own(true, Some(4), true)), Step::Rest);
        assert_eq!(up(&own(true, Some(2), true)), Step::Stop);
        let worker = told(0);
        let down = |own: &Own| next(own, Some(&worker));
        assert_eq!(down(&own(true, Some(4), true)), Step::Renew);
        assert_eq!(down(&own(false, Some(4), true)), Step::Stop);
        assert_eq!(down(&own(false, None, false)), Step::Rest);
    }

    #[test]
    fn other_roots_or_its_time_renew_a_certificate() {
        let mut rotated = told(0);
        rotated.trust_digest = vec![2];
        assert_eq!(next(&own(false, None, false), Some(&rotated)), Step::Renew);
        let mut due = own(true, Some(4), true);
        due.due = true;
        assert_eq!(next(&due, None), Step::Renew);
    }

    #[test]
    fn managers_of_an_earlier_version_change_no_role() {
        let old = SwarmItem::default();
        assert_eq!(next(&own(true, Some(4), true), Some(&old)), Step::Rest);
        assert_eq!(next(&own(false, None, false), Some(&old)), Step::Rest);
        assert_eq!(next(&own(true, Some(4), true), None), Step::Rest);
    }
}
