//! Clients of the Docker API that others wrote, in the versions that the tests drive. `cargo xtask setup` installs them
//! into the target directory; nothing of the machine's own is used but Python and Node.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{command, target_dir};

/// From PyPI. The last is looked into for Ansible's collections only: Galaxy is not asked.
const PYTHON: [&str; 3] = ["docker==7.1.0", "requests==2.32.3", "ansible-core==2.16.14"];
const ANSIBLE: &str = "ansible==9.13.0";
/// From npm.
const NODE: &str = "dockerode@4.0.6";
const COLLECTIONS: [&str; 2] = ["docker", "library_inventory_filtering_v1"];

const INSTALL_DEADLINE: Duration = Duration::from_secs(600);

fn directory() -> PathBuf {
    target_dir().join("clients")
}

/// The Python that has the Docker SDK and Ansible.
pub fn python() -> PathBuf {
    directory().join("python/bin/python")
}

pub fn ansible_playbook() -> PathBuf {
    directory().join("python/bin/ansible-playbook")
}

/// For `ANSIBLE_COLLECTIONS_PATH`.
pub fn collections() -> PathBuf {
    directory().join("collections")
}

/// For `NODE_PATH`.
pub fn node_modules() -> PathBuf {
    directory().join("node/node_modules")
}

/// What is installed when all of it is.
fn versions() -> String {
    format!("{} {ANSIBLE} {NODE}\n", PYTHON.join(" "))
}

pub fn are_installed() -> bool {
    fs::read_to_string(directory().join("versions")).is_ok_and(|text| text == versions())
}

/// An error that says what to do if they are not there.
pub fn require() -> Result<()> {
    if !are_installed() {
        bail!("the clients are not installed: run `cargo xtask setup`");
    }
    Ok(())
}

/// Installs all of them anew; about a minute.
pub fn install() -> Result<()> {
    let directory = directory();
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("remove {}", directory.display()))?;
    }
    let node = directory.join("node");
    fs::create_dir_all(&node).with_context(|| format!("make {}", node.display()))?;
    let venv = directory.join("python");
    // Debian's own first: another Python in PATH may lack ensurepip.
    let system = ["/usr/bin/python3", "python3"]
        .into_iter()
        .find(|python| run(Command::new(python).args(["-c", "import venv, ensurepip"])).is_ok())
        .context("no Python with venv: package python3-venv")?;
    run(Command::new(system).args(["-m", "venv"]).arg(&venv))?;
    run(pip().arg("install").args(PYTHON))?;
    let download = directory.join("download");
    run(pip()
        .args(["download", "--no-deps", "--dest"])
        .arg(&download)
        .arg(ANSIBLE))?;
    let script = "import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
roots = tuple('ansible_collections/community/%s/' % name for name in sys.argv[3:])
wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.startswith(roots)])";
    let wheel = fs::read_dir(&download)?
        .next()
        .context("pip downloaded nothing")??
        .path();
    run(Command::new(python())
        .args(["-c", script])
        .arg(wheel)
        .arg(collections())
        .args(COLLECTIONS))?;
    fs::remove_dir_all(&download).with_context(|| format!("remove {}", download.display()))?;
    fs::write(node.join("package.json"), "{}\n").context("write package.json")?;
    run(Command::new("npm")
        .args([
            "install",
            "--no-audit",
            "--no-fund",
            "--ignore-scripts",
            "--prefix",
        ])
        .arg(&node)
        .arg(NODE))?;
    fs::write(directory.join("versions"), versions()).context("note the versions")
}

fn pip() -> Command {
    let mut command = Command::new(python());
    command.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]);
    command
}

fn run(command: &mut Command) -> Result<()> {
    command::run(command, INSTALL_DEADLINE)?.ok()?;
    Ok(())
}
