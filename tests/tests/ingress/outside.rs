//! A router above: an address that all nodes have, and flows spread over them.

use std::time::Duration;

use anyhow::{Result, ensure};
use skep_tests::router::{ANYCAST_ADDRESS, FAR_CLIENT, Router};
use skep_tests::suite::Test;
use skep_tests::{Node, SessionKind, until};

use super::PATIENCE;
use super::load::{Crowd, judge};
use super::stage::Stage;

pub const TESTS: &[Test<Stage>] = &[(
    "a_node_behind_a_router_dies_and_no_connection_with_it",
    a_node_behind_a_router_dies_and_no_connection_with_it,
)];

/// As long as a router takes to notice.
const NOTICED: Duration = Duration::from_millis(800);

fn a_node_behind_a_router_dies_and_no_connection_with_it(stage: &Stage) -> Result<()> {
    stage.create("behind", 4, 8091, &["--constraint", "node.hostname!=node5"])?;
    let router = Router::start(&stage.cluster)?;
    // All nodes have the address: those that are not dialed send what a silent client waits for.
    for node in &stage.cluster.nodes {
        router.prepare(node)?;
    }
    let three: Vec<&Node> = [3, 4, 5].map(|number| stage.node(number)).to_vec();
    router.spread(&three)?;
    let address = ANYCAST_ADDRESS.to_string();
    // A node learns of the address when it next looks; until then its own stack answers.
    until("answers that see the client", PATIENCE, || {
        for reply in stage.cluster.client.get(&format!("http://{address}:8091/"), 20)? {
            let seen = reply.seen()?;
            ensure!(seen.client == FAR_CLIENT.to_string(), "{seen:?}");
        }
        Ok(Some(()))
    })?;
    let kinds = [
        (SessionKind::Idle, 100, 0),
        (SessionKind::Echo, 50, 5),
        (SessionKind::Stream, 20, 0),
        (SessionKind::Udp, 10, 10),
    ];
    let crowd = Crowd::start(stage, &format!("{address}:8091"), &kinds)?;
    std::thread::sleep(Duration::from_secs(1));
    let killed_ms = stage.cluster.kill_now(&[5])?;
    std::thread::sleep(NOTICED);
    router.spread(&three[..2])?;
    std::thread::sleep(Duration::from_secs(3));
    judge(&crowd.stop()?, killed_ms, &std::collections::BTreeSet::new())?;
    for node in stage.cluster.living() {
        let off = format!("{address}/32");
        node.exec(&["ip", "address", "del", &off, "dev", "lo"])?.ok()?;
    }
    drop(router);
    stage.revive()?;
    stage.remove(&["behind"])
}
