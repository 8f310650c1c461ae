//! Modes of published ports, addresses of their own, and ports of the host.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_tests::suite::Test;
use skep_tests::{Node, SessionKind, client, until};

use super::PATIENCE;
use super::stage::{ADDRESS, Stage};

pub const TESTS: &[Test<Stage>] = &[
    ("bad_labels_are_refused", bad_labels_are_refused),
    (
        "two_addresses_have_the_same_port_each_for_itself",
        two_addresses_have_the_same_port_each_for_itself,
    ),
    (
        "a_local_port_is_answered_by_its_own_node_only",
        a_local_port_is_answered_by_its_own_node_only,
    ),
    (
        "a_direct_reply_does_not_pass_the_entry_node",
        a_direct_reply_does_not_pass_the_entry_node,
    ),
    (
        "direct_replies_are_refused_where_the_network_drops_them",
        direct_replies_are_refused_where_the_network_drops_them,
    ),
    (
        "a_port_of_the_host_sees_the_clients_address",
        a_port_of_the_host_sees_the_clients_address,
    ),
];

const FIRST: &str = "192.168.50.110";
const SECOND: &str = "192.168.50.111";

fn add(stage: &Stage, address: &str) -> Result<()> {
    let manager = stage.leader()?;
    manager.skep(&["ingress", "address", "add", &format!("{address}/24")])?;
    until("a holder", PATIENCE, || stage.holder(manager, address).map(Some))?;
    Ok(())
}

fn remove(stage: &Stage, address: &str) -> Result<()> {
    stage
        .leader()?
        .skep(&["ingress", "address", "rm", address])
        .map(drop)
}

fn bad_labels_are_refused(stage: &Stage) -> Result<()> {
    let node = stage.leader()?;
    for (label, words) in [
        ("skep.ingress.mode=fast", "expected mesh, dsr or local"),
        ("skep.ingress.address=192.168.50.199", "skep ingress address add"),
        ("skep.ingress.address=fast", "skep.ingress.address=fast"),
    ] {
        let create = [
            "service", "create", "-d", "--name", "bad", "-p", "8099:80", "--label",
        ];
        let error = node
            .docker(&[&create[..], &[label, "skep-test"]].concat())?
            .refused()?;
        ensure!(error.contains(words), "{label}: {error}");
        // An update is checked as well, and changes nothing.
        let error = node
            .docker(&["service", "update", "-d", "--label-add", label, "web"])?
            .refused()?;
        ensure!(error.contains(words), "{label}: {error}");
    }
    ensure!(!node.docker_ok(&["service", "ls"])?.contains("bad"));
    Ok(())
}

fn hosts(stage: &Stage, url: &str) -> Result<BTreeSet<String>> {
    let replies = stage.cluster.client.get(url, 20)?;
    Ok(client::count_by_host(&replies)?.into_keys().collect())
}

fn two_addresses_have_the_same_port_each_for_itself(stage: &Stage) -> Result<()> {
    let mut all = BTreeSet::new();
    for (address, name) in [(FIRST, "first"), (SECOND, "second")] {
        add(stage, address)?;
        let label = format!("skep.ingress.address={address}");
        let tasks = stage.create(name, 2, 8086, &["--label", &label])?;
        stage.answers(address, 8086)?;
        let expected: BTreeSet<String> = tasks.iter().map(|task| task.hostname().to_string()).collect();
        let seen = hosts(stage, &format!("http://{address}:8086/"))?;
        ensure!(seen == expected, "{address}: {seen:?}, not {expected:?}");
        all.extend(seen);
    }
    ensure!(all.len() == 4, "{all:?}");
    // Nor on the address of all, nor on a node's own; and the port of all not on the dedicated one.
    let own = stage.node(1).address().to_string();
    for url in [
        format!("http://{ADDRESS}:8086/"),
        format!("http://{own}:8086/"),
        format!("http://{FIRST}:8080/"),
    ] {
        let reply = &stage.cluster.client.get(&url, 1)?[0];
        ensure!(reply.error == "refused", "{url}: {reply:?}");
    }
    let error = stage
        .leader()?
        .skep_output(&["ingress", "address", "rm", FIRST])?
        .refused()?;
    ensure!(error.contains("first"), "{error}");
    stage.remove(&["first", "second"])?;
    remove(stage, FIRST)?;
    remove(stage, SECOND)
}

fn a_local_port_is_answered_by_its_own_node_only(stage: &Stage) -> Result<()> {
    add(stage, FIRST)?;
    let label = format!("skep.ingress.address={FIRST}");
    let options = [
        "--label",
        "skep.ingress.mode=local",
        "--label",
        &label,
        "--constraint",
        "node.hostname==node4",
    ];
    let tasks = stage.create("near", 2, 8087, &options)?;
    let (_, took) = until("a holder that has a task", PATIENCE, || {
        let holder = stage.holder(stage.node(1), FIRST)?;
        Ok((holder.number() == 4).then_some(()))
    })?;
    println!("    held by the node of the tasks after {took:.1?}");
    stage.answers(FIRST, 8087)?;
    let expected: BTreeSet<String> = tasks.iter().map(|task| task.hostname().to_string()).collect();
    let seen = hosts(stage, &format!("http://{FIRST}:8087/"))?;
    ensure!(seen == expected, "{seen:?}, not {expected:?}");
    stage.remove(&["near"])?;
    remove(stage, FIRST)?;
    // Without an address of its own: each node has its own tasks.
    let options = [
        "--label",
        "skep.ingress.mode=local",
        "--constraint",
        "node.hostname!=node1",
    ];
    let tasks = stage.create("near", 4, 8087, &options)?;
    for node in &stage.cluster.nodes {
        let url = format!("http://{}:8087/", node.address());
        if node.number() == 1 {
            let reply = &stage.cluster.client.get(&url, 1)?[0];
            ensure!(reply.error == "refused", "{reply:?}");
            continue;
        }
        let own = tasks.iter().filter(|task| task.node == node.number());
        let own: BTreeSet<String> = own.map(|task| task.hostname().to_string()).collect();
        let seen = hosts(stage, &url)?;
        ensure!(seen == own, "{}: {seen:?}, not {own:?}", node.name());
    }
    stage.remove(&["near"])
}

fn sent(node: &Node) -> Result<u64> {
    let text = node
        .exec(&["cat", "/sys/class/net/eth0/statistics/tx_bytes"])?
        .ok()?;
    text.parse().with_context(|| text.clone())
}

/// Bytes that the entry node sent while a client downloaded, and bytes that the client got.
fn download(stage: &Stage, entry: &Node, port: u16) -> Result<(u64, u64)> {
    let target = format!("{}:{port}", entry.address());
    let before = sent(entry)?;
    let length = Duration::from_secs(3);
    let interval = Duration::ZERO;
    let sessions = stage
        .cluster
        .client
        .start_sessions(&target, SessionKind::Stream, 20, length, interval)?
        .finish()?;
    let after = sent(entry)?;
    for session in &sessions {
        ensure!(session.ok, "{session:?}");
    }
    Ok((after - before, sessions.iter().map(|session| session.bytes).sum()))
}

fn a_direct_reply_does_not_pass_the_entry_node(stage: &Stage) -> Result<()> {
    let place = ["--constraint", "node.hostname==node4"];
    stage.create("through", 1, 8088, &place)?;
    let direct = [&["--label", "skep.ingress.mode=dsr"], &place[..]].concat();
    stage.create("direct", 1, 8089, &direct)?;
    let entry = stage.node(2);
    for port in [8088, 8089] {
        stage.answers(&entry.address().to_string(), port)?;
        let url = format!("http://{}:{port}/", entry.address());
        let seen = stage.cluster.client.get(&url, 1)?[0].seen()?;
        ensure!(
            seen.client == stage.cluster.client.address().to_string(),
            "{seen:?}"
        );
    }
    let (sent, got) = download(stage, entry, 8088)?;
    println!("    mesh: the client got {got} bytes, the entry node sent {sent}");
    ensure!(sent > got / 2);
    let (sent, got) = download(stage, entry, 8089)?;
    println!("    dsr: the client got {got} bytes, the entry node sent {sent}");
    ensure!(sent < got / 2);
    stage.remove(&["through", "direct"])
}

fn direct_replies_are_refused_where_the_network_drops_them(stage: &Stage) -> Result<()> {
    let manager = stage.leader()?;
    let create = [
        "service",
        "create",
        "--quiet",
        "--detach",
        "--name",
        "direct",
        "--replicas",
        "0",
        "--publish",
        "8089:80",
        "--label",
        "skep.ingress.mode=dsr",
        "skep-test",
    ];
    stage.node(4).filter_sources(true)?;
    let refused = until("a refusal of dsr", PATIENCE, || {
        let output = manager.docker(&create)?;
        if output.success() {
            manager.docker_ok(&["service", "rm", "direct"])?;
            return Ok(None);
        }
        output.refused().map(Some)
    });
    stage.node(4).filter_sources(false)?;
    let (error, took) = refused?;
    println!("    after {took:.1?}: {error}");
    for words in ["dsr does not work in this swarm", "from node4 do not arrive"] {
        ensure!(error.contains(words), "{error}");
    }
    // The filter is gone, so it is allowed again, without a restart of anything.
    let (_, took) = until("dsr to be allowed again", PATIENCE, || {
        manager.docker_ok(&create).map(Some)
    })?;
    println!("    allowed {took:.1?} after the filter went");
    stage.remove(&["direct"])
}

fn a_port_of_the_host_sees_the_clients_address(stage: &Stage) -> Result<()> {
    let manager = stage.leader()?;
    manager.docker_ok(&[
        "service",
        "create",
        "--quiet",
        "--name",
        "hosted",
        "--constraint",
        "node.hostname==node3",
        "--publish",
        "mode=host,published=8090,target=80",
        "skep-test",
    ])?;
    stage.settled("hosted", 1)?;
    let own = stage.node(3).address().to_string();
    stage.answers(&own, 8090)?;
    let seen = stage.cluster.client.get(&format!("http://{own}:8090/"), 1)?[0].seen()?;
    ensure!(
        seen.client == stage.cluster.client.address().to_string(),
        "{seen:?}"
    );
    stage.remove(&["hosted"])
}
