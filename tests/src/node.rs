//! One machine of the cluster: its namespaces, dockerd and agent, and the docker CLI against them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::json;

use crate::client::Load;
use crate::command::{self, Output};
use crate::runs::{Process, Run};
use crate::space::Space;
use crate::{client, network, wait};

/// A docker command that takes longer than this is a failure.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
const START_DEADLINE: Duration = Duration::from_secs(60);

/// What all nodes of a cluster have in common.
pub struct Settings {
    pub run: Arc<Run>,
    pub testbox: PathBuf,
    pub images: PathBuf,
    /// The `skep` binary; without one a node is dockerd alone.
    pub agent: Option<PathBuf>,
    /// dockerd's live-restore, which its own Swarm mode refuses.
    pub live_restore: bool,
    /// The nodes outlive this process.
    pub detached: bool,
    pub logs: PathBuf,
}

struct Live {
    space: Arc<Space>,
    dockerd: Child,
    agent: Option<Child>,
}

/// A node; alive from its building until it is killed, and again once it is started.
pub struct Node {
    number: usize,
    name: String,
    address: Ipv4Addr,
    directory: PathBuf,
    settings: Arc<Settings>,
    switch: Arc<Space>,
    live: Mutex<Option<Live>>,
    agent_options: Mutex<Vec<String>>,
}

impl Node {
    pub(crate) fn new(number: usize, settings: Arc<Settings>, switch: Arc<Space>) -> Self {
        let name = format!("node{number}");
        Self {
            number,
            directory: settings.run.directory.join(&name),
            address: network::node_address(number),
            name,
            settings,
            switch,
            live: Mutex::new(None),
            agent_options: Mutex::new(Vec::new()),
        }
    }

    /// From 1 on.
    pub fn number(&self) -> usize {
        self.number
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The agent's socket as the machine's docker CLI names it (the Engine's, in a cluster without agent).
    pub fn docker_host(&self) -> String {
        match self.settings.agent {
            Some(_) => format!("unix://{}/docker.sock", self.directory.display()),
            None => self.engine_host(),
        }
    }

    /// The socket of the node's own Docker Engine, past the agent.
    pub fn engine_host(&self) -> String {
        format!("unix://{}/engine.sock", self.directory.display())
    }

    /// Switches the node on: namespaces, cable, dockerd, images, agent.
    pub fn start(&self) -> Result<()> {
        self.start_inner()
            .with_context(|| format!("start of {}{}", self.name, self.log_tails()))
    }

    fn start_inner(&self) -> Result<()> {
        let space = Arc::new(self.start_space()?);
        self.settings.run.add_process(space.init())?;
        network::plug_in(&self.switch, &space, self.address)?;
        network::bind_to_life(
            &self.switch,
            &self.settings.testbox,
            &self.name,
            &self.life_line(),
        )?;
        // Before dockerd, as the unit orders them: a dockerd that finds containers of ours waits half a minute for their
        // network driver.
        let agent = self.settings.agent.is_some().then(|| self.spawn_agent(&space));
        let agent = agent.transpose()?;
        let has_agent = agent.is_some();
        let dockerd = self.spawn(
            &space,
            "dockerd",
            &[
                "dockerd".into(),
                "--config-file".into(),
                "/etc/docker/daemon.json".into(),
            ],
        )?;
        *self.lock()? = Some(Live {
            space,
            dockerd,
            agent,
        });
        self.wait_for("dockerd", &self.directory.join("engine.sock"))?;
        let images = self.settings.images.display().to_string();
        self.engine(&["load", "--quiet", "--input", &images])?.ok()?;
        if has_agent {
            self.wait_for("agent", &self.directory.join("docker.sock"))?;
        }
        Ok(())
    }

    fn start_space(&self) -> Result<Space> {
        let data = self.settings.run.data()?.join(&self.name);
        let etc = data.join("etc");
        for directory in [&self.directory, &etc, &data.join("docker"), &data.join("skep")] {
            fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        }
        self.write_etc(&etc)?;
        let line = self.life_line();
        if !line.exists() {
            mkfifo(&line, Mode::S_IRUSR | Mode::S_IWUSR).with_context(|| line.display().to_string())?;
        }
        let mut arguments = vec![
            "--run".to_string(),
            self.directory.display().to_string(),
            "--cable".to_string(),
            line.display().to_string(),
        ];
        let mut bind = |from: PathBuf, to: &str| -> Result<()> {
            self.settings.run.mount_point(Path::new(to))?;
            arguments.extend(["--bind".to_string(), format!("{}:{to}", from.display())]);
            Ok(())
        };
        bind(data.join("docker"), "/var/lib/docker")?;
        bind(data.join("skep"), "/var/lib/skep")?;
        bind(etc.join("docker"), "/etc/docker")?;
        for file in ["hostname", "hosts", "resolv.conf"] {
            bind(etc.join(file), &format!("/etc/{file}"))?;
        }
        Space::start(
            &self.settings.testbox,
            &self.name,
            &arguments,
            self.settings.detached,
        )
    }

    /// The named pipe that the node's first process holds open.
    fn life_line(&self) -> PathBuf {
        self.directory.join("life")
    }

    fn write_etc(&self, etc: &Path) -> Result<()> {
        let daemon = json!({
            "hosts": ["unix:///var/run/docker.sock", "unix:///run/skep/engine.sock"],
            "data-root": "/var/lib/docker",
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "storage-driver": "overlay2",
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": format!("/{}/{}", self.settings.run.cgroup()?, self.name),
            "live-restore": self.settings.live_restore,
            "log-level": "warn",
            "shutdown-timeout": 5,
            "labels": ["disk=ssd"],
            "node-generic-resources": ["GPU=UUID-1", "GPU=UUID-2", "SSD=3"],
        });
        fs::create_dir_all(etc.join("docker"))?;
        fs::write(
            etc.join("docker/daemon.json"),
            serde_json::to_vec_pretty(&daemon)?,
        )?;
        fs::write(etc.join("hostname"), format!("{}\n", self.name))?;
        fs::write(
            etc.join("hosts"),
            format!("127.0.0.1 localhost\n{} {}\n", self.address, self.name),
        )?;
        // The client answers names there, if a test starts `testbox names` on it.
        fs::write(
            etc.join("resolv.conf"),
            format!("nameserver {}\n", network::OUTSIDE_ADDRESS),
        )?;
        Ok(())
    }

    /// Starts the agent and waits until its socket answers.
    pub fn start_agent(&self) -> Result<()> {
        let space = self.space()?;
        let agent = self.spawn_agent(&space)?;
        self.lock()?.as_mut().context("node is off")?.agent = Some(agent);
        self.wait_for("agent", &self.directory.join("docker.sock"))
    }

    fn spawn_agent(&self, space: &Space) -> Result<Child> {
        let binary = self
            .settings
            .agent
            .as_ref()
            .context("this cluster was built without an agent")?;
        let arguments = [
            binary.display().to_string(),
            "agent".into(),
            "--state-dir".into(),
            "/var/lib/skep".into(),
            "--socket".into(),
            "/run/skep/docker.sock".into(),
            "--docker-socket".into(),
            "/var/run/docker.sock".into(),
        ];
        let arguments = [&arguments[..], &self.options()?].concat();
        self.spawn(space, "agent", &arguments)
    }

    /// Options that the agent gets from its next start on.
    pub fn set_agent_options(&self, options: &[&str]) -> Result<()> {
        let mut now = self.agent_options.lock().map_err(|_| anyhow!("poisoned"))?;
        *now = options.iter().map(ToString::to_string).collect();
        Ok(())
    }

    fn options(&self) -> Result<Vec<String>> {
        let now = self.agent_options.lock().map_err(|_| anyhow!("poisoned"))?;
        Ok(now.clone())
    }

    /// The agent's process, by its number outside.
    pub fn agent(&self) -> Result<Process> {
        let mut live = self.lock()?;
        let agent = live
            .as_mut()
            .and_then(|live| live.agent.as_mut())
            .context("no agent runs")?;
        Process::child_of(agent.id())
    }

    /// dockerd's process, by its number outside.
    pub fn dockerd(&self) -> Result<Process> {
        Process::child_of(self.lock()?.as_mut().context("node is off")?.dockerd.id())
    }

    /// Ends the agent by `signal` and waits for its end; containers and packets go on.
    pub fn stop_agent(&self, signal: Signal) -> Result<()> {
        let agent = self.agent()?;
        kill(Pid::from_raw(agent.pid), signal)
            .with_context(|| format!("{signal} to the agent of {}", self.name))?;
        wait::until("end of the agent", Duration::from_secs(20), || {
            Ok((!agent.is_alive()).then_some(()))
        })?;
        if let Some(mut child) = self.lock()?.as_mut().and_then(|live| live.agent.take()) {
            child.wait()?;
        }
        Ok(())
    }

    /// As an upgrade does it: ends the agent and starts it again.
    pub fn restart_agent(&self) -> Result<()> {
        self.stop_agent(Signal::SIGTERM)?;
        self.start_agent()
    }

    /// Ends everything on the node at once, as a power cut does. Its disk stays.
    pub fn kill(&self) -> Result<()> {
        let live = self.lock()?.take();
        let Some(mut live) = live else {
            bail!("{} is off already", self.name)
        };
        // The port goes for good, so that a later start finds its name free.
        network::unplug(&self.switch, &self.name)?;
        live.space.kill()?;
        live.dockerd.wait()?;
        if let Some(mut agent) = live.agent {
            agent.wait()?;
        }
        Ok(())
    }

    /// Kills the first process alone, as `kill -9` from outside does; the Unix time in ms. What the node left on the
    /// switch goes with [`Self::kill`] or [`Self::revive`].
    pub fn kill_now(&self) -> Result<u128> {
        let init = self.space()?.init();
        kill(Pid::from_raw(init.pid), Signal::SIGKILL).with_context(|| format!("kill {}", self.name))?;
        Ok(client::unix_ms())
    }

    /// Starts a node that was killed, by [`Self::kill_now`] or [`Self::kill`], with the disk it had.
    pub fn revive(&self) -> Result<()> {
        if self.lock()?.is_some() {
            self.kill()?;
        }
        self.start()
    }

    pub fn is_alive(&self) -> bool {
        self.space().is_ok_and(|space| space.init().is_alive())
    }

    /// Pulls the network cable.
    pub fn cut(&self) -> Result<()> {
        network::set_port(&self.switch, &self.name, false)
    }

    /// Puts the cable back.
    pub fn heal(&self) -> Result<()> {
        network::set_port(&self.switch, &self.name, true)
    }

    /// Cuts the node off behind its switch port: its interface still has a carrier.
    pub fn cut_behind(&self) -> Result<()> {
        network::set_bridged(&self.switch, &self.name, false)
    }

    /// Ends [`Self::cut_behind`].
    pub fn heal_behind(&self) -> Result<()> {
        network::set_bridged(&self.switch, &self.name, true)
    }

    /// Nodes that are parted reach everybody but each other.
    pub fn part(&self, parted: bool) -> Result<()> {
        network::set_parted(&self.switch, &self.name, parted)
    }

    /// The switch drops what the node sends with a source address that is not its own.
    pub fn filter_sources(&self, filtered: bool) -> Result<()> {
        network::set_strict(&self.switch, &self.name, self.address, filtered)
    }

    /// The stock docker CLI against this node's agent; whatever the exit code, it is a result.
    pub fn docker(&self, arguments: &[&str]) -> Result<Output> {
        command::run(&mut self.docker_command(arguments), COMMAND_DEADLINE)
    }

    /// [`Self::docker`], standard output alone, an error if the command failed.
    pub fn docker_ok(&self, arguments: &[&str]) -> Result<String> {
        self.docker(arguments)?.ok()
    }

    /// The command that [`Self::docker`] runs.
    pub fn docker_command(&self, arguments: &[&str]) -> Command {
        docker_cli(&self.docker_host(), arguments)
    }

    /// [`Self::docker_command`] past the agent, which may end meanwhile.
    pub fn engine_command(&self, arguments: &[&str]) -> Command {
        docker_cli(&self.engine_host(), arguments)
    }

    /// The docker CLI against the node's Engine, past the agent.
    pub fn engine(&self, arguments: &[&str]) -> Result<Output> {
        command::run(&mut docker_cli(&self.engine_host(), arguments), COMMAND_DEADLINE)
    }

    /// The `skep` command on the node, with standard output alone; an error if it failed.
    pub fn skep(&self, arguments: &[&str]) -> Result<String> {
        self.skep_output(arguments)?.ok()
    }

    /// As [`Self::skep`]; whatever the exit code, it is a result.
    pub fn skep_output(&self, arguments: &[&str]) -> Result<Output> {
        let binary = self.settings.agent.as_ref().context("no agent here")?;
        let mut command = self.space()?.command(binary);
        command.args(arguments).env_remove("DOCKER_HOST");
        command::run(&mut command, COMMAND_DEADLINE)
    }

    /// A program on the node itself.
    pub fn exec(&self, arguments: &[&str]) -> Result<Output> {
        let (program, rest) = arguments.split_first().context("no program given")?;
        command::run(self.space()?.command(program).args(rest), COMMAND_DEADLINE)
    }

    /// skep-testbox on the node itself.
    pub fn testbox(&self, arguments: &[&str]) -> Result<Output> {
        let program = self.settings.testbox.display().to_string();
        self.exec(&[&[program.as_str()], arguments].concat())
    }

    /// Starts skep-testbox on the node in the background; it ends when what is returned is dropped.
    pub fn start_testbox(&self, arguments: &[&str]) -> Result<Load> {
        let mut command = self.space()?.command(&self.settings.testbox);
        command.args(arguments);
        Load::spawn(command)
    }

    /// Starts skep-testbox in a container of the node in the background. It ends by itself.
    pub fn start_inside(&self, container: &str, arguments: &[&str]) -> Result<Load> {
        Load::spawn(self.docker_command(&[&["exec", container, "skep-testbox"], arguments].concat()))
    }

    /// The node's namespaces.
    pub fn space(&self) -> Result<Arc<Space>> {
        let live = self.lock()?;
        live.as_ref()
            .map(|live| Arc::clone(&live.space))
            .with_context(|| format!("{} is off", self.name))
    }

    /// The log of `dockerd` or `agent`.
    pub fn log(&self, program: &str) -> PathBuf {
        self.settings.logs.join(format!("{}-{program}.log", self.name))
    }

    fn lock(&self) -> Result<MutexGuard<'_, Option<Live>>> {
        self.live
            .lock()
            .map_err(|_| anyhow!("{}: a thread died while it changed the node", self.name))
    }

    fn spawn(&self, space: &Space, program: &str, arguments: &[String]) -> Result<Child> {
        let log = self.log(program);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("open {}", log.display()))?;
        let mut command = space.command(&arguments[0]);
        command
            .args(&arguments[1..])
            .env_remove("DOCKER_HOST")
            .env("RUST_BACKTRACE", "1")
            .env("RUST_LIB_BACKTRACE", "0");
        command.env(
            "RUST_LOG",
            std::env::var("SKEP_LOG").unwrap_or_else(|_| "info".to_string()),
        );
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0);
        command
            .spawn()
            .with_context(|| format!("start {program} on {}", self.name))
    }

    /// Waits until `GET /_ping` is answered with 200, or the program ended.
    fn wait_for(&self, program: &str, socket: &Path) -> Result<()> {
        wait::until(&format!("{program} answers"), START_DEADLINE, || {
            if let Some(live) = self.lock()?.as_mut() {
                let child = if program == "agent" {
                    live.agent.as_mut()
                } else {
                    Some(&mut live.dockerd)
                };
                if let Some(status) = child.map(Child::try_wait).transpose()?.flatten() {
                    // Waiting longer does not help; the error comes from the caller's next look.
                    return Ok(Some(Err(anyhow!("{program} ended: {status}"))));
                }
            }
            Ok(ping(socket)?.then_some(Ok(())))
        })?
        .0
    }

    /// The last lines of the node's logs, for errors.
    fn log_tails(&self) -> String {
        let mut text = String::new();
        for program in ["dockerd", "agent"] {
            let log = fs::read_to_string(self.log(program)).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            if !lines.is_empty() {
                let tail = lines[lines.len().saturating_sub(12)..].join("\n  ");
                text.push_str(&format!(
                    "\n{} ends with:\n  {tail}\n",
                    self.log(program).display()
                ));
            }
        }
        text
    }
}

/// The machine's docker CLI with none of the user's own settings.
fn docker_cli(host: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(["-H", host]).args(arguments);
    for variable in [
        "DOCKER_HOST",
        "DOCKER_CONTEXT",
        "DOCKER_API_VERSION",
        "DOCKER_TLS_VERIFY",
        "DOCKER_CERT_PATH",
    ] {
        command.env_remove(variable);
    }
    command
        .env("DOCKER_CONFIG", crate::target_dir().join("docker-config"))
        .env("DOCKER_CLI_HINTS", "false");
    command
}

fn ping(socket: &Path) -> Result<bool> {
    let mut stream =
        UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer.ends_with(b" 200"))
}
