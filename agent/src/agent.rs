//! `skep agent`: checks the host, puts the parts together, and ends them in order.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Group, chown};
use sd_notify::NotifyState;
use skep_control::daemon::{Membership, NodeDaemon};
use skep_ebpf_loader::Hook;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::daemon::{Daemon, resume};
use crate::io::docker::Engine;
use crate::io::system;
use crate::member::Common;
use crate::network::serve_driver;
use crate::reconciler::chain;

/// READY does not wait longer for the ledger's tables: Docker waits for this node in turn.
const SETTLE: Duration = Duration::from_secs(20);
/// Other nodes take this node's ingress addresses in less; without them, the leases end by themselves.
const HAND_OVER: Duration = Duration::from_secs(1);
/// Connections of the API may end by themselves for this long.
const API_GOODBYE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Directory of everything this node must remember
    #[arg(long, env = "SKEP_STATE_DIR", default_value = "/var/lib/skep")]
    pub state_dir: PathBuf,
    /// Socket of Skep's own Docker API
    #[arg(long, env = "SKEP_SOCKET", default_value = "/run/skep/docker.sock")]
    pub socket: PathBuf,
    /// Socket of this node's Docker Engine
    #[arg(long, env = "SKEP_DOCKER_SOCKET", default_value = "/var/run/docker.sock")]
    pub docker_socket: PathBuf,
    /// Directory where the Docker Engine looks for network drivers
    #[arg(long, env = "SKEP_PLUGIN_DIR", default_value = "/run/docker/plugins")]
    pub plugin_dir: PathBuf,
    /// Directory for pinned programs and maps; its file system becomes a bpffs
    #[arg(long, env = "SKEP_PIN_DIR", default_value = "/sys/fs/bpf/skep")]
    pub pin_dir: PathBuf,
    /// How programs get onto interfaces
    #[arg(long, env = "SKEP_ATTACH", value_enum, default_value_t = Attach::Auto)]
    pub attach: Attach,
    /// Command that is run as COMMAND ADDRESS OLD NEW (names of nodes, - for none) when this node takes an ingress
    /// address over
    #[arg(long, value_name = "COMMAND", env = "SKEP_INGRESS_HOOK")]
    pub ingress_hook: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Attach {
    /// By tcx links where the kernel has them (6.6 and later), else by clsact filters
    Auto,
    /// By clsact filters on any kernel
    Clsact,
}

impl Attach {
    /// How programs get onto this host's interfaces.
    pub fn hook(self) -> Hook {
        match self {
            Attach::Auto => skep_ebpf_loader::hook_of_kernel(),
            Attach::Clsact => Hook::Clsact,
        }
    }
}

/// Runs until SIGTERM or SIGINT. Containers and forwarding go on afterwards.
///
/// # Errors
/// When this host could not work, with what to do; or when state or sockets cannot be used.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let engine = Engine::new(options.docker_socket.clone());
    check_host(&options, &engine).await?;
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    make_private_dir(&options.state_dir)?;
    // First of all: a Docker Engine that starts now waits for its network driver.
    let driver = serve_driver(&options.state_dir, &options.plugin_dir).await?;
    let listener = listen(&options.socket)?;
    let daemon = Daemon::new(Common {
        state_dir: options.state_dir.clone(),
        pin_dir: options.pin_dir.clone(),
        hook: options.attach.hook(),
        memory: system::memory()?,
        socket: options.socket.clone(),
        engine,
        driver,
        ingress_hook: options.ingress_hook.clone(),
    });
    let api_shutdown = CancellationToken::new();
    let as_daemon: Arc<dyn NodeDaemon> = daemon.clone();
    let api = skep_control::api::serve(
        listener,
        as_daemon,
        options.docker_socket.clone(),
        api_shutdown.clone(),
    );
    let mut api = tokio::spawn(api);
    let work = tokio::spawn(work(daemon.clone()));
    let ended = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = &mut api => Err(anyhow::anyhow!("the API server ended: {ended:?}")),
        failed = failure(work) => Err(failed),
    };
    notify(&[NotifyState::Stopping]);
    tracing::info!("stopping; containers go on running");
    daemon.hand_over(HAND_OVER).await;
    api_shutdown.cancel();
    if !api.is_finished() && tokio::time::timeout(API_GOODBYE, &mut api).await.is_err() {
        tracing::info!("API connections are cut");
        api.abort();
    }
    daemon.shut_down().await;
    if let Err(error) = std::fs::remove_file(&options.socket) {
        tracing::warn!(%error, "remove the API socket");
    }
    ended
}

/// Takes the membership up again, says READY, and keeps the status line.
async fn work(daemon: Arc<Daemon>) -> anyhow::Result<()> {
    let resumed = async {
        resume(&daemon).await?;
        daemon.settled(SETTLE).await;
        anyhow::Ok(())
    };
    let mut resumed = std::pin::pin!(resumed);
    let mut line = String::new();
    let mut ready = false;
    // A manager that cannot start yet must not keep the node from being ready: the ledger's containers run.
    let mut late = std::pin::pin!(tokio::time::sleep(SETTLE * 2));
    while !ready {
        tokio::select! {
            outcome = &mut resumed => {
                outcome?;
                ready = true;
            }
            () = &mut late => break,
        }
    }
    notify(&[NotifyState::Ready]);
    tracing::info!("ready");
    if !ready {
        resumed.await?;
    }
    loop {
        let now = status_line(&daemon.membership());
        if now != line {
            notify(&[NotifyState::Status(&now)]);
            line = now;
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Resolves only when the work failed.
async fn failure(work: tokio::task::JoinHandle<anyhow::Result<()>>) -> anyhow::Error {
    match work.await {
        Ok(Ok(())) => std::future::pending().await,
        Ok(Err(error)) => error,
        Err(error) => error.into(),
    }
}

fn status_line(membership: &Membership) -> String {
    match membership {
        Membership::Inactive => "in no swarm".to_string(),
        Membership::Pending { error } if error.is_empty() => "joining a swarm".to_string(),
        Membership::Pending { error } => format!("not up yet: {error}"),
        Membership::Locked { node_id } => format!("manager {node_id} is locked"),
        Membership::Worker(member) => format!("worker {} at {}", member.node_id, member.address),
        Membership::Manager(member, _) => format!("manager {} at {}", member.node_id, member.address),
    }
}

fn notify(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "tell the service manager");
    }
}

/// Refuses to start where the agent could not work. An Engine that is down is no reason: it may start after us.
async fn check_host(options: &Options, engine: &Engine) -> anyhow::Result<()> {
    if let Err(findings) = skep_ebpf_loader::check_kernel() {
        bail!(
            "this host cannot run the data plane:\n  {}",
            findings.join("\n  ")
        );
    }
    if !system::docker_installed(&options.docker_socket) {
        bail!(
            "Docker is not installed: there is no {} and no dockerd. Install it (Debian: apt-get install docker.io) \
             or name its socket with --docker-socket",
            options.docker_socket.display()
        );
    }
    match engine.info().await {
        Ok(info) if info.swarm_active => bail!(
            "the Docker Engine at {0} is in Swarm mode, which Skep replaces. Take it out first: \
             docker -H unix://{0} swarm leave (--force on a manager)",
            options.docker_socket.display()
        ),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::info!(error = %chain(&error), "the Docker Engine is not up yet");
            Ok(())
        }
    }
}

fn make_private_dir(path: &Path) -> anyhow::Result<()> {
    let made = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path);
    made.with_context(|| format!("make the state directory {}", path.display()))
}

/// Mode 0660, group docker where it exists: who may use the Engine may use Skep.
fn listen(path: &Path) -> anyhow::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        bail!("another agent serves {} already", path.display());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("remove the old socket {}", path.display()));
        }
        _ => {}
    }
    // Never open to others, not even for a moment.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.with_context(|| format!("listen on {}", path.display()))?;
    if let Some(group) = Group::from_name("docker").context("look up the group docker")? {
        chown(path, None, Some(group.gid))
            .with_context(|| format!("give {} to the group docker", path.display()))?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("set the mode of {}", path.display()))?;
    Ok(listener)
}
