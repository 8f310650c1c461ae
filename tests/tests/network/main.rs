//! The node's network against a real kernel and a real dockerd, verified with `ip`, `nft` and `iptables`.

mod alone;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_tests::{Cluster, Node, Output, suite, until};

const PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == "alone") {
        return match alone::run(&arguments[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:#}");
                println!("error {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    suite::run(
        Fixture::make,
        &[
            ("the_nodes_own_links_stand", the_nodes_own_links_stand),
            (
                "docker_makes_endpoints_with_our_addresses",
                docker_makes_endpoints_with_our_addresses,
            ),
            (
                "what_does_not_come_from_the_swarm_is_refused",
                what_does_not_come_from_the_swarm_is_refused,
            ),
            ("a_clash_with_a_bridge_names_it", a_clash_with_a_bridge_names_it),
            ("published_ports_are_guarded", published_ports_are_guarded),
            (
                "dockers_forward_policy_is_answered",
                dockers_forward_policy_is_answered,
            ),
            (
                "containers_reach_outside_and_names",
                containers_reach_outside_and_names,
            ),
            (
                "containers_reach_each_other_and_vips",
                containers_reach_each_other_and_vips,
            ),
            (
                "published_ports_answer_on_every_node",
                published_ports_answer_on_every_node,
            ),
            (
                "an_ingress_address_lives_on_its_holder",
                an_ingress_address_lives_on_its_holder,
            ),
            (
                "docker_run_publishes_on_an_overlay",
                docker_run_publishes_on_an_overlay,
            ),
            ("endpoints_outlive_the_agent", endpoints_outlive_the_agent),
            ("leaving_removes_everything", leaving_removes_everything),
        ],
    )
}

/// Two nodes with dockerd and, instead of the agent, their network alone.
struct Fixture {
    cluster: Cluster,
    alone: Mutex<Alone>,
    other: Mutex<Alone>,
}

/// What node 1 is told at first. Addresses of attachments that only one node uses do no harm on the other.
const ITEMS: [&str; 9] = [
    "peer 1 192.168.50.1",
    "peer 2 192.168.50.2",
    "network app 4097 10.0.1.0/24 10.0.1.1 -",
    "network inside 4098 10.0.2.0/24 10.0.2.1 internal",
    "network ingress 4096 10.255.0.0/16 10.255.0.1 ingress",
    "attachment a1 app 10.0.1.10/24",
    "attachment a2 app 10.0.1.11/24",
    "attachment a3 inside 10.0.2.10/24",
    "attachment a4 ingress 10.255.0.11/16",
];

struct Alone {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Number of the process inside the namespaces.
    pid: String,
}

impl Fixture {
    fn make() -> Result<Self> {
        let cluster = Cluster::builder("nettest").nodes(2).without_agent().build()?;
        let fixture = Self {
            alone: Mutex::new(Alone::start(cluster.node(1))?),
            other: Mutex::new(Alone::start(cluster.node(2))?),
            cluster,
        };
        for line in ITEMS {
            fixture.ask(line)?;
            fixture.ask_other(line)?;
        }
        fixture.ask_other("attachment b1 app 10.0.1.20/24")?;
        fixture.ask_other("attachment b2 ingress 10.255.0.20/16")?;
        Ok(fixture)
    }

    /// As [`Self::ask`], for node 2.
    fn ask_other(&self, line: &str) -> Result<String> {
        self.other
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ask(line)
    }

    /// One line to both.
    fn tell(&self, line: &str) -> Result<()> {
        self.ask(line)?;
        self.ask_other(line)?;
        Ok(())
    }

    fn node(&self) -> &Node {
        self.cluster.node(1)
    }

    /// One line to the network; its answer, an error if it is one.
    fn ask(&self, line: &str) -> Result<String> {
        self.alone
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .ask(line)
    }

    fn sh(&self, line: &str) -> Result<String> {
        self.node().exec(&["sh", "-c", line])?.ok()
    }

    fn run(&self, network: &str, address: &str, name: &str) -> Result<String> {
        start(self.node(), network, address, name, &[])
    }
}

/// A container that serves on port 80.
fn start(node: &Node, network: &str, address: &str, name: &str, more: &[&str]) -> Result<String> {
    // Of a test that failed.
    node.docker(&["rm", "-f", name])?;
    let place = ["--network", network, "--ip", address, "--dns", "169.254.1.53"];
    let id = node.docker_ok(&[&["run", "-d", "--name", name], &place[..], more, &["skep-test"]].concat())?;
    until("the server listens", PATIENCE, || {
        let own = inside(node, name, "skep-testbox get http://127.0.0.1/")?;
        Ok(own.stdout.contains("hostname").then_some(()))
    })?;
    Ok(id)
}

/// Runs a line in a container.
fn inside(node: &Node, container: &str, line: &str) -> Result<Output> {
    node.docker(&["exec", container, "sh", "-c", line])
}

impl Alone {
    fn start(node: &Node) -> Result<Self> {
        let mut command = node.space()?.command(std::env::current_exe()?);
        command.args(["alone", &node.number().to_string(), &node.address().to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("standard input")?;
        let output = BufReader::new(child.stdout.take().context("standard output")?);
        let mut alone = Self {
            child,
            input,
            output,
            pid: String::new(),
        };
        let ready = alone.read()?;
        alone.pid = ready
            .strip_prefix("ready ")
            .with_context(|| ready.clone())?
            .to_string();
        Ok(alone)
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        let answer = self.read()?;
        ensure!(!answer.starts_with("error"), "{line}: {answer}");
        Ok(answer)
    }

    fn read(&mut self) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        Ok(line.trim().to_string())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // Already gone is as good.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn the_nodes_own_links_stand(fixture: &Fixture) -> Result<()> {
    let vxlan = fixture.sh("ip -d link show skep-vx")?;
    ensure!(
        vxlan.contains("external") && vxlan.contains("dstport 4789") && vxlan.contains("nolearning"),
        "{vxlan}"
    );
    ensure!(vxlan.contains("mtu 1450") && vxlan.contains("UP"), "{vxlan}");
    let addresses = fixture.sh("ip -4 addr show skep0")?;
    ensure!(addresses.contains("169.254.1.53/32"), "{addresses}");
    let route = fixture.sh("ip route get 169.254.1.1")?;
    let source = format!("src {}", fixture.node().address());
    ensure!(route.contains("dev skep0") && route.contains(&source), "{route}");
    let table = fixture.sh("nft list table inet skep")?;
    ensure!(table.contains("masquerade"), "{table}");
    ensure!(fixture.sh("cat /proc/sys/net/ipv4/conf/skep0/route_localnet")? == "1");
    Ok(())
}

fn docker_makes_endpoints_with_our_addresses(fixture: &Fixture) -> Result<()> {
    fixture.ask("twin app")?;
    fixture.ask("twin inside")?;
    let again = fixture.ask("twin app")?;
    let listed = fixture.node().docker_ok(&[
        "network",
        "ls",
        "--no-trunc",
        "--filter",
        "driver=skep",
        "--format",
        "{{.Name}} {{.ID}}",
    ])?;
    ensure!(listed.contains(&format!("app {again}")), "{listed}");
    fixture.run("app", "10.0.1.10", "c1")?;
    let inside = fixture
        .node()
        .docker_ok(&["exec", "c1", "ip", "addr", "show", "eth0"])?;
    ensure!(
        inside.contains("10.0.1.10/24")
            && inside.contains("02:42:0a:00:01:0a")
            && inside.contains("mtu 1450"),
        "{inside}"
    );
    let routes = fixture.node().docker_ok(&["exec", "c1", "ip", "route"])?;
    ensure!(
        routes.contains("default via 10.0.1.1") && routes.contains("169.254.1.53"),
        "{routes}"
    );
    let host = fixture.sh("ip -d link show group 29547; ip route; ip neigh")?;
    ensure!(
        host.contains("02:42:00:00:00:01") && host.contains("10.0.1.10 dev skep"),
        "{host}"
    );
    ensure!(host.contains("lladdr 02:42:0a:00:01:0a PERMANENT"), "{host}");
    fixture
        .node()
        .docker_ok(&["network", "connect", "--ip", "10.0.2.10", "inside", "c1"])?;
    let routes = fixture.node().docker_ok(&["exec", "c1", "ip", "route"])?;
    ensure!(
        routes.contains("10.0.2.0/24 dev eth1") && routes.contains("default via 10.0.1.1"),
        "{routes}"
    );
    fixture.node().docker_ok(&["rm", "-f", "c1"])?;
    let host = fixture.sh("ip link show group 29547")?;
    ensure!(host.is_empty(), "{host}");
    Ok(())
}

fn what_does_not_come_from_the_swarm_is_refused(fixture: &Fixture) -> Result<()> {
    let refused = fixture.node().docker(&[
        "run",
        "--rm",
        "--network",
        "app",
        "--ip",
        "10.0.1.77",
        "busybox",
        "true",
    ])?;
    ensure!(
        refused.stderr.contains("is not assigned to this node"),
        "{}",
        refused.stderr
    );
    let refused = fixture
        .node()
        .docker(&["network", "create", "-d", "skep", "stray"])?;
    ensure!(refused.stderr.contains("are made by Skep"), "{}", refused.stderr);
    fixture.run("app", "10.0.1.10", "c1")?;
    fixture.node().docker_ok(&["rm", "-f", "c1"])?;
    Ok(())
}

fn a_clash_with_a_bridge_names_it(fixture: &Fixture) -> Result<()> {
    fixture
        .node()
        .docker_ok(&["network", "create", "--subnet", "10.0.9.0/25", "lan"])?;
    fixture.ask("network wide 4099 10.0.9.0/24 10.0.9.1 -")?;
    let error = fixture
        .ask("twin wide")
        .err()
        .context("the clash went unseen")?
        .to_string();
    ensure!(error.contains("network lan (driver bridge)"), "{error}");
    fixture.node().docker_ok(&["network", "rm", "lan"])?;
    fixture.ask("twin wide")?;
    fixture.ask("remove network/wide")?;
    fixture.ask("untwin")?;
    let left = fixture
        .node()
        .docker_ok(&["network", "ls", "-q", "--filter", "name=wide"])?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

fn published_ports_are_guarded(fixture: &Fixture) -> Result<()> {
    fixture.ask("published web 8080 80")?;
    let table = fixture.sh("nft list table inet skep")?;
    ensure!(table.contains("tcp dport 8080 dnat ip to 169.254.1.1"), "{table}");
    let taken = fixture.node().docker(&[
        "run", "-d", "--name", "c9", "-p", "8080:80", "busybox", "sleep", "9",
    ])?;
    ensure!(
        taken.stderr.contains("address already in use"),
        "{}",
        taken.stderr
    );
    fixture.node().docker_ok(&["rm", "-f", "c9"])?;
    fixture.ask("remove published/web")?;
    fixture.node().docker_ok(&[
        "run", "-d", "--name", "c9", "-p", "8080:80", "busybox", "sleep", "60",
    ])?;
    fixture.ask("published web 8080 80")?;
    let problems = fixture.ask("problems")?;
    ensure!(
        problems.contains("published port 8080/tcp does not work on this node"),
        "{problems}"
    );
    let table = fixture.sh("nft list table inet skep")?;
    ensure!(!table.contains("dport 8080 dnat"), "{table}");
    fixture.node().docker_ok(&["rm", "-f", "c9"])?;
    until("the port is taken over", PATIENCE, || {
        Ok(fixture
            .sh("nft list table inet skep")?
            .contains("dport 8080 dnat")
            .then_some(()))
    })?;
    fixture.ask("remove published/web")?;
    Ok(())
}

fn dockers_forward_policy_is_answered(fixture: &Fixture) -> Result<()> {
    let rules = || fixture.sh("iptables -S DOCKER-USER");
    until("our rules", PATIENCE, || {
        Ok(rules()?.contains("-i skep+").then_some(()))
    })?;
    fixture.sh("iptables -F DOCKER-USER && nft delete table inet skep")?;
    until("our rules again", PATIENCE, || {
        let there = rules()?.contains("-i skep+") && fixture.sh("nft list tables")?.contains("inet skep");
        Ok(there.then_some(()))
    })?;
    let count = rules()?.matches("skep+").count();
    ensure!(count == 2, "{count} rules");
    Ok(())
}

fn containers_reach_outside_and_names(fixture: &Fixture) -> Result<()> {
    let policy = fixture.sh("iptables -S FORWARD")?;
    ensure!(policy.contains("-P FORWARD DROP"), "{policy}");
    fixture.ask("twin app")?;
    fixture.run("app", "10.0.1.10", "c1")?;
    inside(fixture.node(), "c1", "ping -c 1 -W 3 203.0.113.1")?.ok()?;
    inside(fixture.node(), "c1", "ping -c 1 -W 3 192.168.50.1")?.ok()?;
    fixture.ask("endpoint task20 app - 10.0.1.20 2 -")?;
    let name = inside(fixture.node(), "c1", "nslookup task20")?.ok()?;
    ensure!(name.contains("10.0.1.20"), "{name}");
    fixture.ask("remove endpoint/app/task20")?;
    fixture.node().docker_ok(&["rm", "-f", "c1"])?;
    Ok(())
}

fn containers_reach_each_other_and_vips(fixture: &Fixture) -> Result<()> {
    let (one, two) = (fixture.cluster.node(1), fixture.cluster.node(2));
    fixture.ask("twin app")?;
    fixture.ask_other("twin app")?;
    fixture.run("app", "10.0.1.10", "c1")?;
    fixture.run("app", "10.0.1.11", "c2")?;
    start(two, "app", "10.0.1.20", "d1", &[])?;
    fixture.tell("service web app 10.0.1.2")?;
    let refused = inside(one, "c1", "skep-testbox get http://web/")?;
    ensure!(refused.stdout.contains("\"refused\""), "{refused:?}");
    for line in [
        "endpoint t10 app - 10.0.1.10 1 -",
        "endpoint t11 app web 10.0.1.11 1 -",
        "endpoint t20 app web 10.0.1.20 2 -",
    ] {
        fixture.tell(line)?;
    }
    for address in ["10.0.1.11", "10.0.1.20"] {
        inside(one, "c1", &format!("ping -c 1 -W 3 {address}"))?.ok()?;
    }
    inside(two, "d1", "ping -c 1 -W 3 10.0.1.10")?.ok()?;
    for name in ["web", "tasks.web", "t20"] {
        for _ in 0..6 {
            let replies = inside(one, "c1", &format!("skep-testbox get http://{name}/"))?;
            skep_tests::client::replies(&replies)?[0].seen()?;
        }
    }
    let names = inside(one, "c1", "nslookup tasks.web")?.ok()?;
    ensure!(
        names.contains("10.0.1.11") && names.contains("10.0.1.20"),
        "{names}"
    );
    fixture.ask("remove endpoint/app/t20")?;
    let names = inside(one, "c1", "nslookup tasks.web")?.ok()?;
    ensure!(!names.contains("10.0.1.20"), "{names}");
    for key in ["endpoint/app/t10", "endpoint/app/t11", "service/app/web"] {
        fixture.ask(&format!("remove {key}"))?;
        fixture.ask_other(&format!("remove {key}"))?;
    }
    fixture.node().docker_ok(&["rm", "-f", "c1", "c2"])?;
    two.docker_ok(&["rm", "-f", "d1"])?;
    Ok(())
}

fn published_ports_answer_on_every_node(fixture: &Fixture) -> Result<()> {
    let (one, two) = (fixture.cluster.node(1), fixture.cluster.node(2));
    fixture.ask("twin ingress")?;
    fixture.ask_other("twin ingress")?;
    start(one, "ingress", "10.255.0.11", "c1", &[])?;
    start(two, "ingress", "10.255.0.20", "d1", &[])?;
    fixture.tell("published web 8080 80 10.255.0.11@1 10.255.0.20@2")?;
    for node in [one, two] {
        let replies = fixture
            .cluster
            .client
            .get(&format!("http://{}:8080/", node.address()), 20)?;
        let mut hosts = std::collections::BTreeSet::new();
        for reply in &replies {
            let seen = reply.seen()?;
            ensure!(
                seen.client
                    .starts_with(&fixture.cluster.client.address().to_string()),
                "{seen:?}"
            );
            hosts.insert(seen.hostname);
        }
        ensure!(hosts.len() == 2, "{} answered: {hosts:?}", node.name());
        for address in ["127.0.0.1", &node.address().to_string()] {
            let url = format!("http://{address}:8080/");
            for _ in 0..4 {
                let seen = skep_tests::client::replies(&node.testbox(&["get", &url])?)?[0].seen()?;
                ensure!(seen.client == node.address().to_string(), "{url}: {seen:?}");
            }
        }
        // A container on a bridge that carries no program of ours.
        let url = format!("http://{}:8080/", node.address());
        let own = node.docker_ok(&["run", "--rm", "skep-test", "skep-testbox", "get", &url])?;
        ensure!(own.contains("hostname"), "{own}");
    }
    fixture.ask("remove published/web")?;
    fixture.ask_other("remove published/web")?;
    one.docker_ok(&["rm", "-f", "c1"])?;
    two.docker_ok(&["rm", "-f", "d1"])?;
    Ok(())
}

const INGRESS: &str = "192.168.50.100";
/// The ingress hook of both nodes: what it is told goes into a file beside it.
const HOOK: &str = "/var/lib/skep/hook";

fn carries(node: &Node) -> Result<bool> {
    let addresses = node.exec(&["ip", "-4", "address", "show", "dev", "eth0"])?.ok()?;
    Ok(addresses.contains(&format!(" {INGRESS}/32 ")))
}

/// MACs that answer for the address, or announce it, within two seconds.
fn claimants(fixture: &Fixture) -> Result<std::collections::BTreeSet<String>> {
    let heard = fixture
        .cluster
        .client
        .testbox(&["arp", "--address", INGRESS, "--seconds", "2"])?
        .ok()?;
    let macs = heard.lines().filter_map(|line| line.split("\"mac\":\"").nth(1));
    Ok(macs
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_string)
        .collect())
}

fn mac(node: &Node) -> Result<String> {
    let text = node.exec(&["cat", "/sys/class/net/eth0/address"])?.ok()?;
    Ok(text.trim().to_string())
}

fn told(node: &Node) -> Result<String> {
    Ok(node.exec(&["cat", &format!("{HOOK}.told")])?.stdout)
}

fn an_ingress_address_lives_on_its_holder(fixture: &Fixture) -> Result<()> {
    let (one, two) = (fixture.cluster.node(1), fixture.cluster.node(2));
    for node in [one, two] {
        let make = format!(
            "rm -f {HOOK}.told; printf '#!/bin/sh\\necho \"$@\" >> {HOOK}.told\\n' > {HOOK}; chmod +x {HOOK}"
        );
        node.exec(&["sh", "-c", &make])?.ok()?;
    }
    let wait_for = |holder: &Node, other: &Node| {
        until("the holder alone carries the address", PATIENCE, || {
            Ok((carries(holder)? && !carries(other)?).then_some(()))
        })
    };
    fixture.tell(&format!("ingress {INGRESS}/24 1 1,2"))?;
    wait_for(one, two)?;
    // Only the holder's program answers: the kernels' own ARP never does.
    ensure!(claimants(fixture)? == [mac(one)?].into());
    // With nobody to renew it, it would go.
    let shown = one.exec(&["ip", "-4", "address", "show", "dev", "eth0"])?.ok()?;
    ensure!(
        shown.contains("noprefixroute") && shown.contains("valid_lft"),
        "{shown}"
    );

    fixture.tell(&format!("ingress {INGRESS}/24 2 2,1"))?;
    wait_for(two, one)?;
    ensure!(claimants(fixture)? == [mac(two)?].into());
    until("both hooks", PATIENCE, || {
        Ok((!told(one)?.is_empty() && !told(two)?.is_empty()).then_some(()))
    })?;
    // Nodes of this test have no names.
    ensure!(told(one)?.starts_with(INGRESS), "{}", told(one)?);
    ensure!(told(two)?.lines().count() == 1, "{}", told(two)?);

    fixture.tell("remove ingress/a")?;
    until("nobody carries the address", PATIENCE, || {
        Ok((!carries(one)? && !carries(two)?).then_some(()))
    })?;
    ensure!(claimants(fixture)?.is_empty());
    Ok(())
}

fn docker_run_publishes_on_an_overlay(fixture: &Fixture) -> Result<()> {
    let node = fixture.node();
    fixture.ask("twin app")?;
    start(node, "app", "10.0.1.10", "c1", &["-p", "9090:80"])?;
    let url = format!("http://{}:9090/", node.address());
    let replies = fixture.cluster.client.get(&url, 2)?;
    let seen = replies[0].seen()?;
    ensure!(
        seen.client
            .starts_with(&fixture.cluster.client.address().to_string()),
        "{seen:?}"
    );
    skep_tests::client::replies(&node.testbox(&["get", &url])?)?[0].seen()?;
    skep_tests::client::replies(&node.testbox(&["get", "http://127.0.0.1:9090/"])?)?[0].seen()?;
    node.docker_ok(&["rm", "-f", "c1"])?;
    Ok(())
}

fn endpoints_outlive_the_agent(fixture: &Fixture) -> Result<()> {
    fixture.run("app", "10.0.1.11", "c2")?;
    let before = fixture.sh("ip -o link show group 29547")?;
    {
        let mut alone = fixture.alone.lock().unwrap_or_else(PoisonError::into_inner);
        fixture.sh(&format!("kill -9 {}", alone.pid))?;
        alone.child.wait()?;
        *alone = Alone::start(fixture.node())?;
        for line in ITEMS {
            alone.ask(line)?;
        }
    }
    let after = fixture.sh("ip -o link show group 29547")?;
    ensure!(before == after && !after.is_empty(), "{before} / {after}");
    fixture.node().docker_ok(&["restart", "-t", "0", "c2"])?;
    fixture.node().docker_ok(&["rm", "-f", "c2"])?;
    ensure!(fixture.sh("ip link show group 29547")?.is_empty());
    Ok(())
}

fn leaving_removes_everything(fixture: &Fixture) -> Result<()> {
    fixture.ask("stop remove")?;
    let left = fixture.sh("ip -o link; nft list tables; iptables -S DOCKER-USER")?;
    ensure!(!left.contains("skep"), "{left}");
    let networks = fixture
        .node()
        .docker_ok(&["network", "ls", "-q", "--filter", "driver=skep"])?;
    ensure!(networks.is_empty(), "{networks}");
    Ok(())
}
