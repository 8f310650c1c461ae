//! Real sockets on 127.0.0.x. What is asserted is that it happens, never how fast.

mod take_over;

use super::*;
use crate::probe::core::watched::Peer;

const PATIENCE: Duration = Duration::from_secs(30);

struct Deaf;

impl Sink for Deaf {
    fn silent(&mut self, _: u32) {}

    fn mark(&mut self, _: u32, _: bool) {}

    fn lease(&mut self, _: u32, _: &Held, _: Option<u64>) {}

    fn may_hold(&mut self, _: u32, _: bool) -> bool {
        true
    }
}

fn watched(peers: Vec<Peer>) -> Arc<Watched> {
    Arc::new(Watched {
        peers,
        ..Watched::default()
    })
}

struct Cluster {
    probes: BTreeMap<u32, Probe>,
    peers: watch::Sender<Arc<Watched>>,
}

fn config(index: u32, key: [u8; 32]) -> ProbeConfig {
    let bind = SocketAddr::from(([127, 0, 0, 100 + index as u8], 0));
    ProbeConfig {
        bind,
        self_index: index,
        key,
    }
}

/// Starts probes with these indexes and keys; then they are told of each other.
fn cluster(keys: &[(u32, [u8; 32])]) -> Cluster {
    let (peers, receiver) = watch::channel(Arc::default());
    let mut probes = BTreeMap::new();
    for (index, key) in keys {
        probes.insert(
            *index,
            start(config(*index, *key), receiver.clone(), Box::new(Deaf)).unwrap(),
        );
    }
    let list = |(index, probe): (&u32, &Probe)| Peer {
        index: *index,
        address: probe.local_addr(),
    };
    peers.send_replace(watched(probes.iter().map(list).collect()));
    Cluster { probes, peers }
}

impl Cluster {
    async fn until(&mut self, index: u32, marked: &[u32]) {
        let probe = self.probes.get_mut(&index).unwrap();
        let count = self.peers.borrow().peers.len() - 1;
        let wait = probe.alive.wait_for(|alive| {
            let dead: Vec<u32> = alive
                .iter()
                .filter(|(_, alive)| !**alive)
                .map(|(index, _)| *index)
                .collect();
            alive.len() == count && dead == marked
        });
        let outcome = tokio::time::timeout(PATIENCE, wait).await;
        assert!(outcome.is_ok(), "node {index} never marked exactly {marked:?}");
    }

    async fn until_answered(&mut self, index: u32, by: &[u32]) {
        let probe = self.probes.get_mut(&index).unwrap();
        let wait = probe.rtt.wait_for(|rtt| rtt.keys().eq(by));
        let outcome = tokio::time::timeout(PATIENCE, wait).await;
        assert!(outcome.is_ok(), "node {index} never heard exactly {by:?}");
    }
}

#[tokio::test]
async fn a_stopped_probe_is_marked_and_a_new_one_at_its_address_clears_the_mark() {
    let key = [7; 32];
    let mut cluster = cluster(&[(1, key), (2, key), (3, key)]);
    cluster.until_answered(1, &[2, 3]).await;
    cluster.until_answered(2, &[1, 3]).await;
    let dead = cluster.probes.remove(&3).unwrap();
    let address = dead.local_addr();
    drop(dead);
    cluster.until(1, &[3]).await;
    cluster.until(2, &[3]).await;
    // By now the aborted task has long given the address back.
    let again = ProbeConfig {
        bind: address,
        ..config(3, key)
    };
    let probe = start(again, cluster.peers.subscribe(), Box::new(Deaf)).unwrap();
    cluster.probes.insert(3, probe);
    for index in 1..=3 {
        cluster.until(index, &[]).await;
    }
    cluster.until_answered(3, &[1, 2]).await;
}

#[tokio::test]
async fn a_node_with_another_key_is_not_heard() {
    let mut cluster = cluster(&[(1, [7; 32]), (2, [7; 32]), (3, [8; 32])]);
    cluster.until(1, &[3]).await;
    cluster.until(2, &[3]).await;
    cluster.until_answered(1, &[2]).await;
    // It hears nobody at all, so it marks nobody.
    assert!(cluster.probes[&3].alive.borrow().values().all(|alive| *alive));
}

#[tokio::test]
async fn a_peer_that_is_removed_is_forgotten() {
    let key = [7; 32];
    let mut cluster = cluster(&[(1, key), (2, key), (3, key)]);
    cluster.until_answered(1, &[2, 3]).await;
    let list: Vec<Peer> = cluster
        .peers
        .borrow()
        .peers
        .iter()
        .copied()
        .filter(|peer| peer.index != 3)
        .collect();
    cluster.peers.send_replace(watched(list));
    cluster.until(1, &[]).await;
    cluster.until_answered(1, &[2]).await;
}
