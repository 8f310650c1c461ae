//! What the running kernel offers.

use std::fs;

use nix::sys::utsname::uname;

use crate::io::attach::Hook;

const FLOOR: (u32, u32) = (6, 1);
/// First kernel with tcx links (commit e420bed02507).
const TCX: (u32, u32) = (6, 6);
/// Numbers of capability(7).
const CAPABILITIES: [(u32, &str, &str); 2] = [
    (12, "CAP_NET_ADMIN", "attach programs to interfaces"),
    (39, "CAP_BPF", "load eBPF programs"),
];

/// Checks that this process and kernel can run the data plane.
///
/// # Errors
/// What is missing, in words for the user, one entry per finding.
pub fn check_kernel() -> Result<(), Vec<String>> {
    let mut missing = Vec::new();
    match uname().map(|u| u.release().to_string_lossy().into_owned()) {
        Ok(release) => match version(&release) {
            Some(found) if found >= FLOOR => {}
            Some(_) => missing.push(format!(
                "Linux {release} is too old: {}.{} or later is needed",
                FLOOR.0, FLOOR.1
            )),
            None => missing.push(format!("cannot read a version from Linux release {release:?}")),
        },
        Err(error) => missing.push(format!("cannot ask the kernel for its version: {error}")),
    }
    match fs::read_to_string("/proc/self/status").map(|status| effective(&status)) {
        Ok(Some(held)) => {
            for (number, name, purpose) in CAPABILITIES {
                if held & (1 << number) == 0 {
                    missing.push(format!(
                        "{name} is missing: it is needed to {purpose}; run as root"
                    ));
                }
            }
        }
        Ok(None) => missing.push("/proc/self/status names no effective capabilities".to_string()),
        Err(error) => missing.push(format!("read /proc/self/status: {error}")),
    }
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// How this kernel attaches programs to interfaces.
pub fn hook() -> Hook {
    let found = uname().ok().and_then(|u| version(&u.release().to_string_lossy()));
    if found.is_some_and(|found| found >= TCX) {
        Hook::Tcx
    } else {
        Hook::Clsact
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn effective(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_distributions() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(version("rolling"), None);
    }

    #[test]
    fn capabilities_of_a_process() {
        assert_eq!(effective("Name:\tx\nCapEff:\t0000000000001000\n"), Some(1 << 12));
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
