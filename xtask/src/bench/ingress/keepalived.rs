//! The peer: keepalived on three nodes in the same kind of namespaces, a server on each, measured by the
//! same client.
//!
//! Two addresses with adverts of 1 s and 100 ms. Both are mostly on the same node, so that one kill measures both; under
//! load the quick one moves now and then though nobody died.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use skep_tests::client::unix_ms;
use skep_tests::command;
use skep_tests::runs::Run;
use skep_tests::space::Space;
use skep_tests::{Client, network, testbox, until};

use super::measure::{Seen, Watch};

/// Adverts and addresses.
pub const ADVERTS: [(&str, Ipv4Addr); 2] = [
    ("1", Ipv4Addr::new(192, 168, 50, 111)),
    ("0.1", Ipv4Addr::new(192, 168, 50, 112)),
];
const PORT: u16 = 8080;
/// Below this a death is noticed sooner: 256 minus it, in 256ths of an advert, is the skew (RFC 5798).
const HIGHEST: usize = 250;
const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(30);
/// Three adverts of 1 s, the skew, and what follows.
const WATCHED: Duration = Duration::from_secs(8);
const BEFORE_KILL: Duration = Duration::from_millis(1500);

struct Node {
    number: usize,
    space: Space,
    programs: Vec<Child>,
}

/// Switch, client and nodes; everything goes when this is dropped.
pub struct Keepalived {
    run: Arc<Run>,
    testbox: PathBuf,
    switch: Space,
    client: Client,
    nodes: Vec<Node>,
}

/// One kill, seen through the address of one interval of adverts.
pub struct Kill {
    pub advert: &'static str,
    pub seen: Seen,
    pub killed_ms: u128,
}

impl Keepalived {
    pub fn start() -> Result<Self> {
        let testbox = testbox::build()?;
        let run = Run::begin("peer")?;
        let switch = Space::start(&testbox, "switch", &[], false)?;
        run.add_process(switch.init())?;
        network::switch_on(&switch)?;
        let client = Space::start(&testbox, "client", &[], false)?;
        run.add_process(client.init())?;
        network::plug_in(&switch, &client, network::CLIENT_ADDRESS)?;
        let client = Client::new(client, testbox.clone());
        let mut all = Self {
            run,
            testbox,
            switch,
            client,
            nodes: Vec::new(),
        };
        for number in 1..=NODES {
            let node = all.start_node(number)?;
            all.nodes.push(node);
            // The first takes both addresses before another could take one of them.
            all.whole()?;
        }
        Ok(all)
    }

    fn start_node(&self, number: usize) -> Result<Node> {
        let name = format!("node{number}");
        let directory = self.run.directory.join(&name);
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        let line = directory.join("life");
        if !line.exists() {
            mkfifo(&line, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| line.display().to_string())?;
        }
        // It asks for the name of its node when it starts, and no name server answers here.
        fs::write(
            directory.join("hosts"),
            format!("127.0.0.1 localhost\n{} {name}\n", network::node_address(number)),
        )?;
        let arguments = [
            "--run".to_string(),
            directory.display().to_string(),
            "--cable".to_string(),
            line.display().to_string(),
            "--bind".to_string(),
            // As the node sees its directory of the run.
            "/run/skep/hosts:/etc/hosts".to_string(),
        ];
        let space = Space::start(&self.testbox, &name, &arguments, false)?;
        self.run.add_process(space.init())?;
        network::plug_in(&self.switch, &space, network::node_address(number))?;
        network::bind_to_life(&self.switch, &self.testbox, &name, &line)?;
        fs::write(directory.join("keepalived.conf"), configuration(number))?;
        let programs = vec![
            spawn(
                &space,
                &directory,
                &self.testbox,
                &["serve", "--port", &PORT.to_string()],
            )?,
            spawn(
                &space,
                &directory,
                Path::new("keepalived"),
                &[
                    "--dont-fork",
                    "--log-console",
                    "--use-file",
                    "/run/skep/keepalived.conf",
                ],
            )?,
        ];
        Ok(Node {
            number,
            space,
            programs,
        })
    }

    /// Waits until each address is on one node and answers; which node that is.
    fn whole(&self) -> Result<[usize; ADVERTS.len()]> {
        let (holders, _) = until("each address on one node", PATIENCE, || {
            let mut holders = [None; ADVERTS.len()];
            for (at, node) in self.nodes.iter().enumerate() {
                let shown = addresses(&node.space)?;
                for ((_, address), holder) in ADVERTS.iter().zip(&mut holders) {
                    if shown.contains(&format!("{address}/")) {
                        ensure!(holder.is_none(), "two nodes have {address}");
                        *holder = Some(at);
                    }
                }
            }
            Ok(match holders {
                [Some(first), Some(second)] => Some([first, second]),
                _ => None,
            })
        })?;
        for (_, address) in ADVERTS {
            let url = format!("http://{address}:{PORT}/");
            until("an answer of the address", PATIENCE, || {
                Ok(self.client.get(&url, 1)?[0].ok.then_some(()))
            })?;
        }
        Ok(holders)
    }

    /// One kill of the holder of each address, of both at once where it is the same node.
    pub fn kill_holders(&mut self) -> Result<Vec<Kill>> {
        let mut kills = Vec::new();
        let mut left: Vec<usize> = (0..ADVERTS.len()).collect();
        while let Some(first) = left.first() {
            let holders = self.whole()?;
            let victim = holders[*first];
            let (now, later): (Vec<usize>, Vec<usize>) = left.iter().partition(|at| holders[**at] == victim);
            kills.extend(self.kill(victim, &now)?);
            left = later;
        }
        Ok(kills)
    }

    /// Kills a node under load, starts it anew and waits until all is whole again.
    fn kill(&mut self, victim: usize, held: &[usize]) -> Result<Vec<Kill>> {
        let mut watches = Vec::new();
        for (advert, address) in held.iter().map(|at| ADVERTS[*at]) {
            watches.push((advert, Watch::start(&self.client, address, PORT, WATCHED)?));
        }
        std::thread::sleep(BEFORE_KILL);
        let killed_ms = self.nodes[victim].kill_now()?;
        let mut kills = Vec::new();
        for (advert, watch) in watches {
            let seen = watch.finish()?;
            kills.push(Kill {
                advert,
                seen,
                killed_ms,
            });
        }
        self.revive(victim)?;
        Ok(kills)
    }

    fn revive(&mut self, at: usize) -> Result<()> {
        let mut dead = self.nodes.remove(at);
        dead.space.kill()?;
        network::unplug(&self.switch, dead.space.name())?;
        for program in &mut dead.programs {
            program.wait().context("wait for a dead node's program")?;
        }
        let node = self.start_node(dead.number)?;
        self.nodes.insert(at, node);
        // One advert of 1 s and more: until then it does not know who holds.
        std::thread::sleep(Duration::from_secs(4));
        self.whole()?;
        Ok(())
    }
}

impl Node {
    /// As the harness does it with a node of Skep: the first process, and the cable and all others with it.
    fn kill_now(&self) -> Result<u128> {
        let init = self.space.init();
        kill(Pid::from_raw(init.pid), Signal::SIGKILL)
            .with_context(|| format!("kill {}", self.space.name()))?;
        Ok(unix_ms())
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        if let Err(error) = self.run.remove() {
            eprintln!("keepalived's nodes were not removed completely: {error:#}");
        }
    }
}

fn spawn(space: &Space, directory: &Path, program: &Path, arguments: &[&str]) -> Result<Child> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(directory.join(format!("{name}.log")))?;
    space
        .command(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {name} on {}", space.name()))
}

fn addresses(space: &Space) -> Result<String> {
    let mut command = space.command("ip");
    command::run(
        command.args(["-o", "address", "show", "dev", "eth0"]),
        Duration::from_secs(10),
    )?
    .ok()
}

/// All nodes begin as backups and a returning node takes nothing back: as little happens as can.
fn configuration(number: usize) -> String {
    let mut text = "global_defs {\n    vrrp_version 3\n}\n".to_string();
    for (id, (advert, address)) in ADVERTS.iter().enumerate() {
        let (id, priority) = (id + 1, HIGHEST - number);
        text.push_str(&format!(
            "vrrp_instance V{id} {{\n    state BACKUP\n    nopreempt\n    interface eth0\n    \
             virtual_router_id {id}\n    priority {priority}\n    advert_int {advert}\n    \
             virtual_ipaddress {{\n        {address}/24\n    }}\n}}\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priorities_fall_with_the_number_and_both_intervals_are_there() {
        let first = configuration(1);
        assert!(first.contains("priority 249") && configuration(3).contains("priority 247"));
        assert!(first.contains("advert_int 1\n") && first.contains("advert_int 0.1\n"));
        assert_eq!(first.matches("vrrp_instance").count(), 2);
    }
}
