//! Who answers ARP for an address: a member of the segment that does nothing but ask.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::client::Load;
use crate::cluster::Cluster;
use crate::network::{self, WATCHER_ADDRESS};
use crate::space::Space;

/// One claim that was heard.
#[derive(Clone, Debug, Deserialize)]
pub struct Heard {
    pub unix_ms: u128,
    pub address: Ipv4Addr,
    pub mac: String,
    /// Nobody had asked.
    pub announcement: bool,
}

impl Heard {
    /// Number of the node whose card it is.
    pub fn node(&self) -> Result<usize> {
        let last = self.mac.rsplit(':').next().unwrap_or_default();
        usize::from_str_radix(last, 16).with_context(|| format!("MAC {}", self.mac))
    }
}

/// It ends when this is dropped.
pub struct Watcher {
    space: Space,
    testbox: std::path::PathBuf,
}

impl Watcher {
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let testbox = cluster.settings.testbox.clone();
        let space = Space::start(&testbox, "watcher", &[], cluster.settings.detached)?;
        cluster.settings.run.add_process(space.init())?;
        network::plug_in(&cluster.switch, &space, WATCHER_ADDRESS)?;
        // Its kernel hears no answer, so it goes on asking, fifty times a second.
        let rules = "add table arp deaf; \
            add chain arp deaf input { type filter hook input priority 0; policy drop; }";
        let settings =
            "cd /proc/sys/net/ipv4/neigh/eth0 && echo 20 >retrans_time_ms && echo 1000000 >mcast_solicit";
        for command in [["nft", rules].as_slice(), &["sh", "-c", settings]] {
            let output = space.command(command[0]).args(&command[1..]).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{command:?}: {said}");
        }
        Ok(Self { space, testbox })
    }

    /// Asks for the addresses for `length`; returns when it has begun.
    pub fn watch(&self, addresses: &[&str], length: Duration) -> Result<Watching> {
        let mut command = self.space.command(&self.testbox);
        command.args(["arp", "--seconds", &length.as_secs().to_string()]);
        for address in addresses {
            command.args(["--address", address]);
        }
        let mut load = Load::spawn(command)?;
        let line = load.line()?;
        if line.trim() != "ready" {
            bail!("the watcher said {line:?}: {}", load.output()?);
        }
        Ok(Watching(load))
    }
}

/// Questions under way; they end when this is dropped.
pub struct Watching(Load);

impl Watching {
    /// Waits for the end of the time; every claim, in order.
    pub fn finish(self) -> Result<Vec<Heard>> {
        let text = self.0.output()?;
        let lines = text.lines();
        lines
            .map(|line| serde_json::from_str(line).with_context(|| format!("line {line:?}")))
            .collect()
    }
}

/// Two cards that both answer are heard in turn; turns further apart than this are hand-overs, each for
/// itself.
const IN_TURN_MS: u128 = 200;

/// The longest time in which more than one card answered for the same address.
pub fn longest_overlap_ms(heard: &[Heard]) -> u128 {
    let addresses: BTreeSet<Ipv4Addr> = heard.iter().map(|claim| claim.address).collect();
    let overlaps = addresses.iter().map(|address| {
        let claims: Vec<&Heard> = heard.iter().filter(|claim| claim.address == *address).collect();
        let turns = claims.windows(2).filter(|pair| pair[0].mac != pair[1].mac);
        let mut longest = 0;
        let mut group: Option<(u128, u128)> = None;
        for at in turns.map(|pair| pair[1].unix_ms) {
            group = match group {
                Some((first, last)) if at.saturating_sub(last) <= IN_TURN_MS => Some((first, at)),
                _ => Some((at, at)),
            };
            longest = longest.max(group.map_or(0, |(first, last)| last - first));
        }
        longest
    });
    overlaps.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(claims: &[(u128, u8)]) -> Vec<Heard> {
        let claim = |(unix_ms, node): &(u128, u8)| Heard {
            unix_ms: *unix_ms,
            address: Ipv4Addr::new(192, 168, 50, 100),
            mac: format!("52:54:00:00:32:{node:02x}"),
            announcement: false,
        };
        claims.iter().map(claim).collect()
    }

    #[test]
    fn only_answers_in_turn_overlap() {
        let clean = heard(&[(0, 1), (20, 1), (40, 2), (60, 2), (2000, 1), (2020, 1)]);
        assert_eq!(longest_overlap_ms(&clean), 0);
        let both = heard(&[(0, 1), (20, 2), (25, 1), (40, 2), (45, 1), (60, 2), (80, 2)]);
        assert_eq!(longest_overlap_ms(&both), 40);
        assert_eq!(both[1].node().unwrap(), 2);
    }
}
