//! The L2 segment: a bridge in a namespace of its own, one port for each member.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::space::Space;

/// The segment's addresses: 192.168.50.0/24, nodes from .1 on, others from .250 on; .100 to .249 are nobody's, for ingress
/// addresses.
pub const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 250);
const PREFIX: u8 = 24;

/// The router between client and nodes, see [`crate::router`].
pub const ROUTER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 253);

/// Who only listens, see [`crate::watcher`].
pub const WATCHER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 252);

/// An address that is the outside world: the client has it, and nodes reach it by their default route.
pub const OUTSIDE_ADDRESS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Address of node `number`, from 1 on.
pub fn node_address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 50, u8::try_from(number).unwrap_or(u8::MAX))
}

/// Runs lines of `ip -batch` in the network namespace.
pub fn configure(space: &Space, lines: &[String]) -> Result<()> {
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", space.netns()))
        .args(["ip", "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("start nsenter ip")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all((lines.join("\n") + "\n").as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip in {}: {}",
            space.name(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Makes the bridge.
pub fn switch_on(switch: &Space) -> Result<()> {
    let lines = [
        "link add br0 type bridge forward_delay 0 mcast_snooping 0",
        "link set br0 up",
        "link set lo up",
    ];
    configure(switch, &lines.map(String::from))
}

/// Plugs a member in: `eth0` inside, a port named after it on the switch.
pub fn plug_in(switch: &Space, member: &Space, address: Ipv4Addr) -> Result<()> {
    let (port, pid) = (member.name(), member.init().pid);
    // A machine keeps its network card when it is switched off and on.
    let mac = format!("52:54:00:00:32:{:02x}", address.octets()[3]);
    configure(
        switch,
        &[
            format!("link add {port} type veth peer name eth0 address {mac} netns {pid}"),
            format!("link set {port} master br0 up"),
        ],
    )?;
    let mut lines = vec![
        "link set lo up".to_string(),
        format!("address add {address}/{PREFIX} dev eth0"),
        "link set eth0 up".to_string(),
    ];
    if address == CLIENT_ADDRESS {
        lines.push(format!("address add {OUTSIDE_ADDRESS}/32 dev lo"));
    } else {
        lines.push(format!("route add default via {CLIENT_ADDRESS}"));
    }
    configure(member, &lines)
}

/// Sets the member's port down the moment its first process, which holds the named pipe `line`, dies.
pub fn bind_to_life(switch: &Space, testbox: &Path, member: &str, line: &Path) -> Result<()> {
    // Ahead of all others: what the dying node's processes still say must find the port down.
    let mut child = switch
        .command("chrt")
        .args(["--fifo", "50"])
        .arg(testbox)
        .args(["cable", "--port", member, "--line"])
        .arg(line)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Its own group: it outlives a harness that keeps its cluster, and Ctrl-C is the harness's to handle.
        .process_group(0)
        .spawn()
        .context("start the cable")?;
    let mut ready = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut ready)?;
    }
    if ready.trim() != "ready" {
        bail!("cable of {member}: {}", child.wait()?);
    }
    // It ends with the node, or with the switch.
    std::thread::spawn(move || child.wait());
    Ok(())
}

/// Sets the member's switch port up or down, as pulling its cable does.
pub fn set_port(switch: &Space, member: &str, up: bool) -> Result<()> {
    configure(
        switch,
        &[format!("link set {member} {}", if up { "up" } else { "down" })],
    )
}

/// Takes the member's port out of the switch, or puts it back: nothing gets through, but the member's
/// interface still has its carrier.
pub fn set_bridged(switch: &Space, member: &str, bridged: bool) -> Result<()> {
    let to = if bridged { "master br0" } else { "nomaster" };
    configure(switch, &[format!("link set {member} {to}")])
}

/// Members that are parted reach all others, but not each other.
pub fn set_parted(switch: &Space, member: &str, parted: bool) -> Result<()> {
    let word = if parted { "on" } else { "off" };
    configure(
        switch,
        &[format!("link set {member} type bridge_slave isolated {word}")],
    )
}

/// The switch drops what the member sends with another source address than its own, as clouds do, or no longer.
pub fn set_strict(switch: &Space, member: &str, address: Ipv4Addr, strict: bool) -> Result<()> {
    let table = format!("strict_{member}");
    let rules = if strict {
        format!(
            "table bridge {table} {{ chain forward {{ type filter hook forward priority 0; iifname \"{member}\" ip saddr != {address} drop; }}; }}"
        )
    } else {
        format!("delete table bridge {table}")
    };
    let output = switch.command("nft").arg(&rules).output().context("start nft")?;
    if !output.status.success() {
        bail!("nft {rules}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Takes the member's cable away for good, as its death does. A dead member's network namespace may have taken
/// its end of the cable along already.
pub fn unplug(switch: &Space, member: &str) -> Result<()> {
    match configure(switch, &[format!("link delete {member}")]) {
        Err(_) if !is_plugged_in(switch, member)? => Ok(()),
        result => result,
    }
}

fn is_plugged_in(switch: &Space, member: &str) -> Result<bool> {
    let status = Command::new("nsenter")
        .arg(format!("--net={}", switch.netns()))
        .args(["ip", "link", "show", "dev", member])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    Ok(status.context("start nsenter ip")?.success())
}
