//! The node's network against a real kernel and a real dockerd, verified with `ip`, `nft` and `iptables`.

mod alone;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skep_tests::{Cluster, Node, suite, until};

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
            ("endpoints_outlive_the_agent", endpoints_outlive_the_agent),
            ("leaving_removes_everything", leaving_removes_everything),
        ],
    )
}

/// One node with dockerd and, instead of the agent, its network alone.
struct Fixture {
    cluster: Cluster,
    alone: Mutex<Alone>,
}

struct Alone {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Number of the process inside the namespaces.
    pid: String,
}

impl Fixture {
    fn make() -> Result<Self> {
        let cluster = Cluster::builder("nettest").nodes(1).without_agent().build()?;
        let alone = Mutex::new(Alone::start(cluster.node(1))?);
        let fixture = Self { cluster, alone };
        for line in [
            "peer 1 192.168.50.1",
            "network app 4097 10.0.1.0/24 10.0.1.1 -",
            "network inside 4098 10.0.2.0/24 10.0.2.1 internal",
            "attachment a1 app 10.0.1.10/24",
            "attachment a2 app 10.0.1.11/24",
            "attachment a3 inside 10.0.2.10/24",
        ] {
            fixture.ask(line)?;
        }
        Ok(fixture)
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
        let arguments = [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            network,
            "--ip",
            address,
            "--dns",
            "169.254.1.53",
            "busybox",
            "sleep",
            "600",
        ];
        self.node().docker_ok(&arguments)
    }
}

impl Alone {
    fn start(node: &Node) -> Result<Self> {
        let mut command = node.space()?.command(std::env::current_exe()?);
        command.args(["alone", "1", &node.address().to_string()]);
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
    ensure!(route.contains("dev skep0"), "{route}");
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

fn endpoints_outlive_the_agent(fixture: &Fixture) -> Result<()> {
    fixture.run("app", "10.0.1.11", "c2")?;
    let before = fixture.sh("ip -o link show group 29547")?;
    {
        let mut alone = fixture.alone.lock().unwrap_or_else(PoisonError::into_inner);
        fixture.sh(&format!("kill -9 {}", alone.pid))?;
        alone.child.wait()?;
        *alone = Alone::start(fixture.node())?;
        for line in [
            "peer 1 192.168.50.1",
            "network app 4097 10.0.1.0/24 10.0.1.1 -",
            "network inside 4098 10.0.2.0/24 10.0.2.1 internal",
            "attachment a1 app 10.0.1.10/24",
            "attachment a2 app 10.0.1.11/24",
        ] {
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
