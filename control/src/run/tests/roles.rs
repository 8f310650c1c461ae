//! Workers that become managers and the other way round, a new root, locked managers, and one that goes on alone.

use super::*;
use crate::ca::UnlockKey;
use crate::core::root;
use crate::rpc::client::NodeClient;

fn voters(node: &Node) -> Vec<u64> {
    node.running.group().membership().voter_ids().collect()
}

impl Node {
    fn record(&self, node_id: &str) -> Arc<crate::model::Node> {
        self.running.manager.state().borrow().nodes[node_id].clone()
    }

    async fn ask_for(&self, node_id: &str, role: Role) -> Result<Applied, ControlError> {
        self.running.manager.barrier().await.unwrap();
        let record = self.record(node_id);
        let change = UpdateNode {
            id: node_id.to_string(),
            version: record.meta.version,
            spec: NodeSpec {
                role: role as i32,
                ..record.spec.clone()
            },
        };
        self.running.manager.propose(Change::UpdateNode(change)).await
    }

    fn client_of(&self, identity: &Identity) -> NodeClient {
        let managers = vec![self.listen.to_string()];
        NodeClient::new(watch::channel(identity.clone()).1, watch::channel(managers).1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_promoted_and_demoted_again() {
    let one = first().await;
    let (directory, _, joined) = one.join_as(&one.cluster().worker_token).await;
    let worker = joined.unwrap();
    one.ask_for(&worker.node_id, Role::Manager).await.unwrap();
    let raft_id = one.record(&worker.node_id).raft_id;
    assert_ne!(raft_id, 0);
    let renewed = one.client_of(&worker.identity).renew().await.unwrap();
    assert_eq!(renewed.role, Role::Manager);
    store_identity(directory.path(), &renewed, None).unwrap();
    let running = promote(directory.path(), &renewed, raft_id, None).await.unwrap();
    assert!(!running.is_member());
    enter(&running, vec![one.listen.to_string()]).await.unwrap();
    until("it is a voter", || voters(&one).len() == 2).await;
    running.manager.propose(network("by-the-new-one")).await.unwrap();
    assert!(one.has("by-the-new-one"));

    one.ask_for(&worker.node_id, Role::Worker).await.unwrap();
    until("it is told that it is a worker", || {
        let record = one.record(&worker.node_id);
        record.raft_id == 0 && record.manager_address.is_empty() && voters(&one).len() == 1
    })
    .await;
    let renewed = one.client_of(&renewed).renew().await.unwrap();
    assert_eq!(renewed.role, Role::Worker);
    demote(directory.path(), running).await.unwrap();
    let (facts, _) = stored(directory.path(), None).unwrap().unwrap();
    assert_eq!(facts.raft_id, 0);
    let last = one.running.identity.node_id.clone();
    let refused = one.ask_for(&last, Role::Worker).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "attempting to demote the last manager of the swarm"
    );
    one.write("still-works").await.unwrap();
    stop_all([one]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_may_be_demoted() {
    let [one, two, three] = three().await;
    assert!(one.leads());
    let own = one.running.identity.node_id.clone();
    two.ask_for(&own, Role::Worker).await.unwrap();
    until("another leads, and it is out", || {
        (two.leads() || three.leads()) && two.record(&own).raft_id == 0
    })
    .await;
    two.write_again("after").await;
    assert_eq!(voters(&two), [2, 3]);
    stop_all([one, two, three]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_takes_over_when_every_node_has_it() {
    let [one, two, three] = three().await;
    let old = one.cluster();
    let now = time::OffsetDateTime::now_utc();
    let old_root = Authority {
        root_pem: old.root_ca_cert.clone(),
        root_key_pem: old.root_ca_key.clone(),
    };
    let new_root = Authority::make(now).unwrap();
    let rotation = RootRotation {
        cross_signed: old_root.cross_sign(&new_root, now).unwrap(),
        ca_cert: new_root.root_pem.clone(),
        ca_key: new_root.root_key_pem.clone(),
    };
    let begin = UpdateCluster {
        root_rotation: Some(rotation),
        ..Default::default()
    };
    one.running
        .manager
        .propose(Change::UpdateCluster(begin))
        .await
        .unwrap();
    // One after the other: nodes with the old roots and with both understand each other.
    for node in [&three, &one, &two] {
        assert!(one.cluster().root_rotation.is_some());
        let client = one.client_of(&node.running.identity);
        let renewed = client.renew().await.unwrap();
        assert!(
            renewed.root_pem.contains(&old.root_ca_cert) && renewed.root_pem.contains(&new_root.root_pem)
        );
        node.running.renewed(renewed.clone());
        let fresh = one.client_of(&renewed);
        fresh.renew().await.unwrap();
        // A join between old and new certificates, by the old root's token.
        if node.listen == three.listen {
            let (_, _, joined) = three.join_as(&old.worker_token).await;
            let late = joined.unwrap();
            one.client_of(&late.identity).renew().await.unwrap();
        }
    }
    until("it has taken over", || one.cluster().root_rotation.is_none()).await;
    let cluster = one.cluster();
    assert_eq!(cluster.root_ca_cert, new_root.root_pem);
    assert_eq!(
        token::parse(&cluster.worker_token).unwrap().root_digest.to_vec(),
        root::digest(&new_root.root_pem)
    );
    let (_, _, joined) = two.join_as(&cluster.worker_token).await;
    assert_eq!(joined.unwrap().identity.root_pem, new_root.root_pem);
    let (_, _, joined) = two.join_as(&old.worker_token).await;
    assert!(joined.is_err());
    one.running.cut_off(true);
    until("others lead with new certificates", || {
        two.leads() || three.leads()
    })
    .await;
    stop_all([one, two, three]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_manager_starts_with_its_key_alone() {
    let node = first().await;
    node.write("app").await.unwrap();
    let key = UnlockKey::new([9; 32]);
    let path = node.directory.path();
    relock(path, &node.running.identity, None, Some(&key)).unwrap();
    node.running.stop().await;
    assert!(matches!(stored(path, None), Err(RunError::Locked)));
    let other = UnlockKey::new([8; 32]);
    assert!(matches!(stored(path, Some(&other)), Err(RunError::Locked)));
    let (facts, identity) = stored(path, Some(&key)).unwrap().unwrap();
    assert_eq!(stored_node_id(path).unwrap(), Some(identity.node_id.clone()));
    let config = facts.manager_config(path, identity.clone(), Some(key.clone()));
    let running = start(config).await.unwrap();
    running.manager.barrier().await.unwrap();
    assert!(running.manager.state().borrow().network_named("app").is_some());
    relock(path, &identity, Some(&key), None).unwrap();
    running.stop().await;
    assert!(stored(path, None).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_that_lost_the_others_goes_on_alone_with_what_it_knows() {
    let [one, two, three] = three().await;
    one.write("kept").await.unwrap();
    until("it has all", || two.has("kept")).await;
    let others = [
        one.running.identity.node_id.clone(),
        three.running.identity.node_id.clone(),
    ];
    let returning = one.running.identity.clone();
    one.running.stop().await;
    three.running.stop().await;
    until("it hears no leader", || {
        two.running.manager.leader().borrow().is_none()
    })
    .await;
    let error = two.running.manager.barrier().await.unwrap_err();
    assert!(error.to_string().starts_with("The swarm does not have a leader."));
    let (directory, listen, identity) = (two.directory, two.listen, two.running.identity.clone());
    two.running.stop().await;
    let running = force_new_cluster(directory.path(), &identity, None, None, None)
        .await
        .unwrap();
    let two = Node {
        directory,
        listen,
        running,
    };
    assert!(two.has("kept"));
    assert_eq!(voters(&two), [2]);
    two.write("alone").await.unwrap();
    for id in &others {
        let record = two.record(id);
        assert_eq!((record.raft_id, record.spec.role()), (0, Role::Worker));
    }
    // One that comes back is a worker.
    let renewed = two.client_of(&returning).renew().await.unwrap();
    assert_eq!(renewed.role, Role::Worker);
    let (_, _, joined) = two.join_as(&two.cluster().manager_token).await;
    let joined = joined.unwrap().running.unwrap();
    assert!(joined.manager.state().borrow().network_named("kept").is_some());
    joined.stop().await;
    stop_all([two]).await;
}
