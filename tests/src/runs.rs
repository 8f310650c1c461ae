//! What a run leaves on the machine, written down before it is made, and its removal: at the end, on
//! a signal, or by the next run when this one was killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::wait;

/// Short, because socket paths end at 107 bytes. Each run has `<ROOT><label>/<pid>/`.
const RUN_ROOT: &str = "/run/skep-";
const DATA_ROOT: &str = "/var/lib/skep-";
const RECORD: &str = "run.json";

/// A process, told from a later one of the same number by its start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks since boot, field 22 of /proc/pid/stat (proc(5)).
    pub started: u64,
}

impl Process {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Result<Self> {
        let text =
            fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
        // The name in parentheses may hold blanks, so count from its end.
        let started = text
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(19));
        let started = started.and_then(|field| field.parse().ok());
        Ok(Self {
            pid,
            started: started.with_context(|| format!("/proc/{pid}/stat has no start time"))?,
        })
    }

    /// The program that an `nsenter --pid` started: it forks, and its child is in the namespace.
    pub fn child_of(nsenter: u32) -> Result<Self> {
        let path = format!("/proc/{nsenter}/task/{nsenter}/children");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let pid = text
            .split_whitespace()
            .next()
            .with_context(|| format!("{path}: the program ended"))?;
        Self::of(pid.parse()?)
    }

    pub fn is_alive(&self) -> bool {
        Self::of(self.pid).is_ok_and(|now| now == *self)
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    owner: Process,
    /// Left running on purpose: no one's but the user's to remove, while it lives.
    kept: bool,
    first_processes: Vec<Process>,
    data: PathBuf,
    cgroup: String,
    mount_points: BTreeSet<PathBuf>,
}

/// The run directory of a living run.
pub struct Run {
    pub directory: PathBuf,
    record: Mutex<Record>,
}

impl Run {
    /// Sweeps dead runs of any label, then begins one named after this process.
    pub fn begin(label: &str) -> Result<Arc<Self>> {
        sweep()?;
        let pid = i32::try_from(std::process::id())?;
        let root = PathBuf::from(format!("{RUN_ROOT}{label}"));
        let number = (0..)
            .find(|number| !root.join(run_name(pid, *number)).exists())
            .unwrap_or(0);
        let name = run_name(pid, number);
        let run = Arc::new(Self {
            directory: root.join(&name),
            record: Mutex::new(Record {
                owner: Process::of(pid)?,
                kept: false,
                first_processes: Vec::new(),
                data: PathBuf::from(format!("{DATA_ROOT}{label}")).join(&name),
                cgroup: format!("skep-{label}-{name}"),
                mount_points: BTreeSet::new(),
            }),
        });
        fs::create_dir_all(&run.directory)?;
        run.change(|_| ())?;
        remove_on_signal(&run.directory);
        Ok(run)
    }

    /// Where data of the nodes goes, on disk.
    pub fn data(&self) -> Result<PathBuf> {
        self.change(|record| record.data.clone())
    }

    /// The cgroup, relative to each hierarchy's root, under which all containers of the run are.
    pub fn cgroup(&self) -> Result<String> {
        self.change(|record| record.cgroup.clone())
    }

    /// Writes down a namespace's first process.
    pub fn add_process(&self, process: Process) -> Result<()> {
        self.change(|record| record.first_processes.push(process))
    }

    /// Makes sure that `path` exists as a mount point; what was not there before the first run goes with the last.
    pub fn mount_point(&self, path: &Path) -> Result<()> {
        let made = others(&self.directory)
            .iter()
            .any(|record| record.mount_points.contains(path));
        if made || !path.exists() {
            self.change(|record| record.mount_points.insert(path.to_path_buf()))?;
            fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        }
        Ok(())
    }

    /// Leaves the run to the user.
    pub fn keep(&self) -> Result<()> {
        self.change(|record| record.kept = true)?;
        forget(&self.directory);
        Ok(())
    }

    /// Ends everything and removes it.
    pub fn remove(&self) -> Result<()> {
        forget(&self.directory);
        remove(&self.directory)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Result<T> {
        let mut record = self.record.lock().map_err(|_| anyhow!("run record: poisoned"))?;
        let value = change(&mut record);
        let path = self.directory.join(RECORD);
        let draft = self.directory.join("run.json.new");
        fs::write(&draft, serde_json::to_vec_pretty(&*record)?)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(value)
    }
}

fn run_name(pid: i32, number: u32) -> String {
    if number == 0 {
        pid.to_string()
    } else {
        format!("{pid}-{number}")
    }
}

/// All run directories of a label.
pub fn list(label: &str) -> Vec<PathBuf> {
    directories(&PathBuf::from(format!("{RUN_ROOT}{label}")))
}

fn directories(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .collect()
}

/// Run directories of all labels.
fn all() -> Vec<PathBuf> {
    let ours = |path: &&PathBuf| path.to_string_lossy().starts_with(RUN_ROOT);
    directories(Path::new("/run"))
        .iter()
        .filter(ours)
        .flat_map(|path| directories(path))
        .collect()
}

/// Records of all runs but one.
fn others(directory: &Path) -> Vec<Record> {
    let others = all().into_iter().filter(|other| other != directory);
    others.filter_map(|other| read(&other).ok()).collect()
}

/// Removes runs whose owner is gone, unless they were kept and live.
fn sweep() -> Result<()> {
    for directory in all() {
        // Without a record it is not known to be a run's; one that is being made has its record at once.
        let Ok(record) = read(&directory) else { continue };
        let alive =
            record.owner.is_alive() || record.kept && record.first_processes.iter().any(Process::is_alive);
        if !alive {
            eprintln!("removing what a dead run left: {}", directory.display());
            remove(&directory)?;
        }
    }
    Ok(())
}

fn read(directory: &Path) -> Result<Record> {
    let path = directory.join(RECORD);
    let text = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{}", path.display()))
}

/// Ends all processes of the run and removes its cgroups and files. Goes on after an error and
/// returns the first; what is left is named in it.
pub fn remove(directory: &Path) -> Result<()> {
    let mut errors = Vec::new();
    if let Ok(record) = read(directory) {
        errors.extend(end_processes(&record.first_processes).err());
        errors.extend(remove_cgroups(&record.cgroup).err());
        errors.extend(remove_tree(&record.data).err());
        // The kernel lets a directory be removed that is a mount point in another namespace, and the mount goes with it.
        let unused = others(directory).is_empty();
        for path in record.mount_points.iter().filter(|_| unused) {
            // Something else may be using it: only an empty one goes.
            if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()) {
                errors.extend(fs::remove_dir(path).err().map(anyhow::Error::from));
            }
        }
        remove_if_empty(record.data.parent());
    }
    errors.extend(remove_tree(directory).err());
    remove_if_empty(directory.parent());
    errors.into_iter().next().map_or(Ok(()), Err)
}

fn remove_if_empty(directory: Option<&Path>) {
    if let Some(directory) = directory
        && fs::remove_dir(directory).is_err()
    {
        // Not empty: other runs are in it.
    }
}

fn end_processes(processes: &[Process]) -> Result<()> {
    for process in processes.iter().filter(|process| process.is_alive()) {
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).with_context(|| format!("kill {}", process.pid))?;
    }
    wait::until("end of the run's processes", Duration::from_secs(20), || {
        Ok(processes.iter().all(|process| !process.is_alive()).then_some(()))
    })?;
    Ok(())
}

fn remove_tree(path: &Path) -> Result<()> {
    // The kernel ends mount namespaces in the background, so a directory may be busy for a moment.
    wait::until(
        "removal of the run's files",
        Duration::from_secs(20),
        || match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", path.display()))
            }
            _ => Ok(Some(())),
        },
    )?;
    Ok(())
}

fn remove_cgroups(name: &str) -> Result<()> {
    for root in cgroup_mounts()? {
        let top = root.join(name);
        wait::until("removal of the run's cgroups", Duration::from_secs(20), || {
            remove_cgroup(&top).with_context(|| format!("remove cgroup {}", top.display()))?;
            Ok(Some(()))
        })?;
    }
    Ok(())
}

/// A cgroup goes by rmdir, its children first; the files in it are the kernel's.
fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}

/// Mount points of all cgroup hierarchies, v1 and v2.
fn cgroup_mounts() -> Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    Ok(text.lines().filter_map(cgroup_mount).map(PathBuf::from).collect())
}

/// The mount point of a line of mountinfo (proc(5)), if it is a cgroup hierarchy.
fn cgroup_mount(line: &str) -> Option<&str> {
    let (mount, system) = line.split_once(" - ")?;
    let kind = system.split_whitespace().next()?;
    ["cgroup", "cgroup2"]
        .contains(&kind)
        .then(|| mount.split_whitespace().nth(4))?
}

static ON_SIGNAL: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn forget(directory: &Path) {
    if let Ok(mut runs) = ON_SIGNAL.lock() {
        runs.remove(directory);
    }
}

/// From now on SIGINT, SIGTERM and SIGHUP remove the run before they end this process.
fn remove_on_signal(directory: &Path) {
    static INSTALLED: Once = Once::new();
    if let Ok(mut runs) = ON_SIGNAL.lock() {
        runs.insert(directory.to_path_buf());
    }
    INSTALLED.call_once(|| {
        use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
        let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]);
        let mut signals = match signals {
            Ok(signals) => signals,
            Err(error) => return eprintln!("no clean-up on Ctrl-C, the next run will do it: {error}"),
        };
        std::thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("\nsignal {signal}: removing the cluster");
                let runs = ON_SIGNAL.lock().map(|runs| runs.clone()).unwrap_or_default();
                for run in runs {
                    if let Err(error) = remove(&run) {
                        eprintln!("{error:#}");
                    }
                }
                std::process::exit(128 + signal);
            }
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_hierarchies_are_found_in_mountinfo() {
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu";
        let v2 = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw";
        let other = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw";
        let found = [v1, v2, other].map(cgroup_mount);
        assert_eq!(
            found,
            [Some("/sys/fs/cgroup/cpu"), Some("/sys/fs/cgroup/unified"), None]
        );
    }

    #[test]
    fn a_process_is_told_from_another_of_the_same_number() {
        let me = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive());
        assert!(
            !Process {
                started: me.started + 1,
                ..me
            }
            .is_alive()
        );
    }
}
