//! Who may call what: every method of node RPC by a caller of each kind.

use tonic::transport::Channel;
use tonic::{Code, Status};

use super::*;
use crate::ca::authority::names;
use crate::rpc::channel::{ANY_MANAGER, Dialer, Trust, within};
use crate::rpc::tls;
use crate::rpc::wire::service::{
    ca_client::CaClient, control_client::ControlClient, dispatcher_client::DispatcherClient,
    membership_client::MembershipClient, raft_client::RaftClient,
};
use crate::rpc::wire::*;

const SECOND: Duration = Duration::from_secs(5);

/// Calls every method once: its name, and what came back.
async fn call_all(channel: &Channel) -> Vec<(&'static str, Option<Code>)> {
    fn outcome<T>(result: Result<tonic::Response<T>, Status>) -> Option<Code> {
        result.err().map(|status| status.code())
    }
    let mut raft = RaftClient::new(channel.clone());
    let mut control = ControlClient::new(channel.clone());
    let mut ca = CaClient::new(channel.clone());
    let mut membership = MembershipClient::new(channel.clone());
    let mut dispatcher = DispatcherClient::new(channel.clone());
    let hello = NodeToManager {
        word: Some(NodeWord::Hello(Hello::default())),
    };
    let chunks = tokio_stream::iter([SnapshotChunk::default()]);
    vec![
        (
            "Raft.Append",
            outcome(raft.append(within(AppendRequest::default(), SECOND)).await),
        ),
        (
            "Raft.Vote",
            outcome(raft.vote(within(VoteRequest::default(), SECOND)).await),
        ),
        (
            "Raft.InstallSnapshot",
            outcome(raft.install_snapshot(within(chunks, SECOND)).await),
        ),
        (
            "Raft.PreVote",
            outcome(raft.pre_vote(within(PreVoteRequest {}, SECOND)).await),
        ),
        (
            "Control.Propose",
            outcome(control.propose(within(ProposeRequest::default(), SECOND)).await),
        ),
        (
            "Control.ReadIndex",
            outcome(control.read_index(within(ReadIndexRequest {}, SECOND)).await),
        ),
        (
            "Control.Health",
            outcome(control.health(within(HealthRequest {}, SECOND)).await),
        ),
        (
            "Control.CreateAttachment",
            outcome(
                control
                    .create_attachment(within(CreateAttachment::default(), SECOND))
                    .await,
            ),
        ),
        (
            "Control.UpdateAttachment",
            outcome(
                control
                    .update_attachment(within(UpdateAttachment::default(), SECOND))
                    .await,
            ),
        ),
        (
            "Ca.GetRoot",
            outcome(ca.get_root(within(RootRequest {}, SECOND)).await),
        ),
        (
            "Ca.Issue",
            outcome(ca.issue(within(IssueRequest::default(), SECOND)).await),
        ),
        (
            "Ca.Renew",
            outcome(ca.renew(within(RenewRequest::default(), SECOND)).await),
        ),
        (
            "Membership.Join",
            outcome(membership.join(within(JoinRequest::default(), SECOND)).await),
        ),
        (
            "Dispatcher.Session",
            outcome(
                dispatcher
                    .session(within(tokio_stream::iter([hello]), SECOND))
                    .await,
            ),
        ),
    ]
}

fn channel_as(trust: Trust, node: &Node) -> Channel {
    Dialer::new(trust, Arc::new(Gate::default()))
        .channel(&node.listen.to_string(), ANY_MANAGER)
        .unwrap()
}

fn signed(node: &Node, node_id: &str, cluster_id: &str, role: Role, life: time::Duration) -> Identity {
    let cluster = node.cluster();
    let authority = Authority {
        root_pem: cluster.root_ca_cert.clone(),
        root_key_pem: cluster.root_ca_key.clone(),
    };
    let (key, csr) = make_request().unwrap();
    let now = time::OffsetDateTime::now_utc();
    let cert = authority
        .sign(&csr, node_id, cluster_id, role, now, life)
        .unwrap();
    Identity::from_pem(cert, key, authority.root_pem).unwrap()
}

fn member(identity: Identity) -> Trust {
    Trust::Member(watch::channel(identity).1)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_serves_only_those_it_is_for() {
    let node = first().await;
    let cluster_id = node.cluster().id.clone();
    let (_directory, _, joined) = node.join_as(&node.cluster().worker_token).await;
    let worker = joined.unwrap().identity;
    let own = node.running.identity.clone();

    let nobody = Trust::Pinned(Arc::new(tls::pinned(&own.root_pem).unwrap()));
    for (method, code) in call_all(&channel_as(nobody, &node)).await {
        let expected = match method {
            "Ca.GetRoot" => None,
            // Served, and refused for its token.
            "Ca.Issue" => Some(Code::InvalidArgument),
            _ => Some(Code::Unauthenticated),
        };
        assert_eq!(code, expected, "{method} without a certificate");
    }

    let for_nodes = [
        "Control.CreateAttachment",
        "Control.UpdateAttachment",
        "Ca.Renew",
        "Dispatcher.Session",
    ];
    for (method, code) in call_all(&channel_as(member(worker.clone()), &node)).await {
        let denied = code == Some(Code::PermissionDenied);
        let open = for_nodes.contains(&method) || method == "Ca.GetRoot" || method == "Ca.Issue";
        assert_eq!(denied, !open, "{method} by a worker: {code:?}");
    }

    let stranger = "0123456789abcdefghijklmno";
    let short = time::Duration::seconds(-60);
    let long = time::Duration::days(1);
    let foreign = signed(&node, &own.node_id, "another-swarm", Role::Manager, long);
    let unknown = signed(&node, stranger, &cluster_id, Role::Worker, long);
    let posing = signed(&node, &worker.node_id, &cluster_id, Role::Manager, long);
    for (who, identity) in [("another swarm", foreign), ("a node that is not known", unknown)] {
        for (method, code) in call_all(&channel_as(member(identity), &node)).await {
            if method != "Ca.GetRoot" && method != "Ca.Issue" {
                assert_eq!(code, Some(Code::PermissionDenied), "{method} by {who}");
            }
        }
    }
    // An old manager certificate of a node that is a worker now.
    for (method, code) in call_all(&channel_as(member(posing), &node)).await {
        if method.starts_with("Control.Propose")
            || method == "Control.ReadIndex"
            || method == "Membership.Join"
        {
            assert_eq!(code, Some(Code::PermissionDenied), "{method} by a demoted node");
        }
    }
    // The handshake refuses these.
    let expired = signed(&node, &own.node_id, &cluster_id, Role::Manager, short);
    let other_root = Authority::make(time::OffsetDateTime::now_utc()).unwrap();
    let (key, csr) = make_request().unwrap();
    let now = time::OffsetDateTime::now_utc();
    let forged = other_root
        .sign(&csr, &own.node_id, &cluster_id, Role::Manager, now, long)
        .unwrap();
    let forged = Identity::from_pem(forged, key, own.root_pem.clone()).unwrap();
    for (who, identity) in [("an expired certificate", expired), ("another root", forged)] {
        for (method, code) in call_all(&channel_as(member(identity), &node)).await {
            // In TLS 1.3 the client learns of it only when it reads: a broken connection or one that was never there.
            let broken = matches!(code, Some(Code::Unavailable | Code::Cancelled | Code::Unknown));
            assert!(broken, "{method} by {who}: {code:?}");
        }
    }
    stop_all([node]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_loses_its_session_and_gets_no_other() {
    let node = first().await;
    let (_directory, _, joined) = node.join_as(&node.cluster().worker_token).await;
    let worker = joined.unwrap().identity;
    let mut handle = open_session(&worker, vec![node.listen.to_string()]);
    assert_eq!(
        next_assignments(&mut handle).await.kind(),
        AssignmentsKind::Complete
    );
    let removed = Instant::now();
    let remove = RemoveNode {
        id: worker.node_id.clone(),
        force: true,
    };
    node.running
        .manager
        .propose(Change::RemoveNode(remove))
        .await
        .unwrap();
    while !matches!(next(&mut handle).await, SessionEvent::Disconnected { .. }) {}
    assert!(removed.elapsed() < Duration::from_secs(5));
    assert!(
        timeout(Duration::from_secs(2), handle.events.recv())
            .await
            .is_err(),
        "it gets no other session"
    );
    stop_all([node]).await;
}

#[test]
fn names_are_read_from_nothing_else() {
    assert!(names(b"no certificate").is_none());
}
