//! Managers that leave, and such as cannot join.

use super::*;
use crate::rpc::client::NodeClient;

fn client(node: &Node, managers: &[&Node]) -> NodeClient {
    let managers = managers.iter().map(|node| node.listen.to_string()).collect();
    NodeClient::new(
        watch::channel(node.running.identity.clone()).1,
        watch::channel(managers).1,
    )
}

fn voters(node: &Node) -> Vec<u64> {
    node.running.group().membership().voter_ids().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_and_leader_may_leave_while_a_quorum_remains() {
    let [one, two, three] = three().await;
    client(&three, &[&two, &one]).leave().await.unwrap();
    until("the follower is out", || voters(&one) == [1, 2]).await;
    let gone = three.running.identity.node_id.clone();
    let state = one.running.manager.state().borrow().clone();
    assert_eq!(state.nodes[&gone].state(), NodeState::Down);
    three.running.stop().await;
    let remove = |id: &str| {
        Change::RemoveNode(RemoveNode {
            id: id.to_string(),
            force: false,
        })
    };
    let refused = one
        .running
        .manager
        .propose(remove(&two.running.identity.node_id))
        .await;
    assert!(matches!(refused, Err(ControlError::Refused(_))));
    one.running.manager.propose(remove(&gone)).await.unwrap();

    assert!(one.leads());
    client(&one, &[&one, &two]).leave().await.unwrap();
    one.running.stop().await;
    until("the one that remains leads alone", || {
        two.leads() && voters(&two) == [2]
    })
    .await;
    two.write("after").await.unwrap();
    // The last one ends the swarm and needs nobody's consent.
    client(&two, &[&two]).leave().await.unwrap();
    assert_eq!(voters(&two), [2]);
    stop_all([two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_may_not_leave_if_that_loses_the_quorum() {
    let [one, two, three] = three().await;
    three.running.stop().await;
    until("it is unreachable", || !one.running.manager.reachable(3)).await;
    let error = client(&two, &[&one]).leave().await.unwrap_err();
    let expected = "can't remove member from the raft: this would result in a loss of quorum";
    assert_eq!(error.to_string(), expected);
    assert_eq!(voters(&one), [1, 2, 3]);
    stop_all([one, two]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_the_leader_cannot_reach_does_not_join() {
    let one = first().await;
    let (directory, listen) = (tempfile::tempdir().unwrap(), free_address());
    let remotes = [one.listen.to_string()];
    let token = one.cluster().manager_token.clone();
    let wrong = free_address().to_string();
    let joined = join(directory.path(), listen, &wrong, &remotes, &token, join_params()).await;
    assert!(
        matches!(joined, Err(JoinError::NotMember(_))),
        "{:?}",
        joined.err()
    );
    assert!(stored(directory.path(), None).unwrap().is_none());
    assert_eq!(voters(&one), [1]);
    assert_eq!(
        one.running.manager.state().borrow().nodes.len(),
        1,
        "its record is gone too"
    );
    one.write("still-works").await.unwrap();
    let remotes = [free_address().to_string()];
    let joined = join(directory.path(), listen, &wrong, &remotes, &token, join_params()).await;
    assert!(matches!(joined, Err(JoinError::Unreachable { .. })));
    stop_all([one]).await;
}
