//! The Docker network driver: libnetwork's remote driver protocol, scope local.
//!
//! A call never calls Docker and never waits for a manager. It changes the driver's ledger and the node's links; what
//! the data plane has to know follows from [`Driver::locals`].

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::network::core::ledger::{DriverLedger, JoinPlan, Local, PortRecord, Refusal};
use crate::network::core::links::Snapshot;
use crate::network::core::ports::{Port, published_ports};
use crate::network::core::wire;
use crate::network::io::driver_socket::{self, SocketError};
use crate::network::io::ledger_file::{LedgerFile, LedgerFileError};
use crate::network::io::links::{LinkError, Links};
use crate::network::io::sysctl::{self, SysctlError};
use crate::network::{Desired, RESOLVER};

/// How long a call waits for the data plane: it comes up from what lies on disk, within moments of the socket.
const PLANE_DEADLINE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    #[error("{operation}: body not understood: {source}")]
    Body {
        operation: String,
        source: serde_json::Error,
    },
    #[error("{0} is no call of a network driver")]
    UnknownCall(String),
    #[error("this node is in no swarm, so its overlay networks do not work")]
    NoSwarm,
    #[error("the data plane did not take the endpoint: {0}")]
    NotApplied(String),
    #[error("port {0} of this node cannot be published: {1}")]
    Port(String, &'static str),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Ledger(#[from] LedgerFileError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Socket(#[from] SocketError),
}

/// What a running network lends to the driver.
#[derive(Debug, Clone)]
pub struct Plane {
    pub desired: watch::Receiver<Desired>,
    /// "Apply what stands now, and tell me when it is in the kernel."
    pub apply: mpsc::Sender<ApplyRequest>,
    /// MTU of containers' interfaces, in bytes.
    pub mtu: watch::Receiver<u32>,
}

/// Answered with what went wrong, in words for the user.
pub type ApplyRequest = oneshot::Sender<Result<(), String>>;

/// The driver socket, serving. Clones share it; it lives as long as the process.
#[derive(Debug, Clone)]
pub struct Driver {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    links: Links,
    locals: watch::Sender<Arc<BTreeMap<String, Local>>>,
    twins: watch::Sender<Arc<BTreeMap<String, String>>>,
    plane: watch::Sender<Option<Plane>>,
}

#[derive(Debug)]
struct State {
    ledger: DriverLedger,
    file: LedgerFile,
}

impl Driver {
    /// Reads the ledger and serves the socket.
    ///
    /// # Errors
    /// When the ledger cannot be read or the socket not be made.
    pub async fn serve(state_dir: &Path, plugin_dir: &Path) -> Result<Self, DriverError> {
        let file = LedgerFile::open(state_dir)?;
        let mut ledger = file.load()?;
        for endpoint in ledger.endpoints.values_mut() {
            // A Join that a former process did not finish.
            if endpoint
                .joined
                .as_ref()
                .is_some_and(|joined| joined.ifindex.is_none())
            {
                endpoint.joined = None;
            }
        }
        let (locals, _) = watch::channel(Arc::default());
        let (twins, _) = watch::channel(Arc::new(ledger.twin_ids()));
        let (plane, _) = watch::channel(None);
        let state = Mutex::new(State { ledger, file });
        let links = Links::open()?;
        let shared = Shared {
            state,
            links,
            locals,
            twins,
            plane,
        };
        let driver = Self {
            shared: Arc::new(shared),
        };
        driver.prune().await?;
        driver_socket::serve(plugin_dir, driver.clone())?;
        Ok(driver)
    }

    /// Plugged-in endpoints by Engine endpoint id.
    pub fn locals(&self) -> watch::Receiver<Arc<BTreeMap<String, Local>>> {
        self.shared.locals.subscribe()
    }

    /// Engine network id -> swarm network id.
    pub fn twins(&self) -> watch::Receiver<Arc<BTreeMap<String, String>>> {
        self.shared.twins.subscribe()
    }

    pub fn links(&self) -> &Links {
        &self.shared.links
    }

    /// From now on endpoints go into this data plane; `None`: there is none.
    pub fn set_plane(&self, plane: Option<Plane>) {
        self.shared.plane.send_replace(plane);
    }

    /// Unplugs endpoints whose veth is gone; answers the interfaces it saw.
    ///
    /// # Errors
    /// When interfaces cannot be listed or the ledger not be written.
    pub async fn prune(&self) -> Result<Snapshot, DriverError> {
        // Under the lock: a veth that a Join made after the list would look gone.
        let mut state = self.shared.state.lock().await;
        let snapshot = self.shared.links.snapshot().await?;
        let changed = state
            .ledger
            .prune(|name, index| snapshot.by_name(name).is_some_and(|link| link.index == index));
        if changed {
            state.file.save(&state.ledger, false)?;
        }
        self.publish(&state);
        Ok(snapshot)
    }

    /// Removes the veths of all endpoints; the node leaves its swarm.
    ///
    /// # Errors
    /// The first veth that could not be removed; the others are.
    pub async fn unplug_all(&self) -> Result<(), DriverError> {
        let mut state = self.shared.state.lock().await;
        let ids: Vec<String> = state.ledger.endpoints.keys().cloned().collect();
        let mut result = Ok(());
        for id in ids {
            if let Some(name) = state.ledger.leave(&id) {
                result = result.and(self.shared.links.remove(&name).await);
            }
        }
        state.file.save(&state.ledger, false)?;
        self.publish(&state);
        Ok(result?)
    }

    /// Answers one call of dockerd.
    ///
    /// # Errors
    /// What dockerd shows its user.
    pub async fn call(&self, operation: &str, body: &[u8]) -> Result<Value, DriverError> {
        match operation {
            "Plugin.Activate" => Ok(json!({ "Implements": ["NetworkDriver"] })),
            "NetworkDriver.GetCapabilities" => Ok(json!({ "Scope": "local", "ConnectivityScope": "local" })),
            "NetworkDriver.CreateNetwork" => self.create_network(&read(operation, body)?).await,
            "NetworkDriver.DeleteNetwork" => self.delete_network(&read(operation, body)?).await,
            "NetworkDriver.CreateEndpoint" => self.create_endpoint(&read(operation, body)?).await,
            "NetworkDriver.DeleteEndpoint" => self.delete_endpoint(&read(operation, body)?).await,
            "NetworkDriver.EndpointOperInfo" => Ok(json!({ "Value": {} })),
            "NetworkDriver.Join" => self.join(&read(operation, body)?).await,
            "NetworkDriver.Leave" => self.leave(&read(operation, body)?).await,
            "NetworkDriver.ProgramExternalConnectivity" => self.program_ports(&read(operation, body)?).await,
            "NetworkDriver.RevokeExternalConnectivity" => self.revoke_ports(&read(operation, body)?).await,
            // Discovery and allocation are for drivers of global scope.
            "NetworkDriver.DiscoverNew"
            | "NetworkDriver.DiscoverDelete"
            | "NetworkDriver.AllocateNetwork"
            | "NetworkDriver.FreeNetwork" => Ok(json!({})),
            other => Err(DriverError::UnknownCall(other.to_string())),
        }
    }

    async fn create_network(&self, request: &wire::CreateNetwork) -> Result<Value, DriverError> {
        let mut state = self.shared.state.lock().await;
        state.ledger.create_network(request)?;
        state.file.save(&state.ledger, true)?;
        self.publish(&state);
        Ok(json!({}))
    }

    async fn delete_network(&self, request: &wire::NetworkRef) -> Result<Value, DriverError> {
        let mut state = self.shared.state.lock().await;
        state.ledger.delete_network(&request.network_id);
        state.file.save(&state.ledger, true)?;
        self.publish(&state);
        Ok(json!({}))
    }

    async fn create_endpoint(&self, request: &wire::CreateEndpoint) -> Result<Value, DriverError> {
        let plane = self.plane().await?;
        let items = plane.desired.borrow().items.clone();
        let mut state = self.shared.state.lock().await;
        let created = state.ledger.create_endpoint(&items, request)?;
        state.file.save(&state.ledger, false)?;
        drop(state);
        Ok(to_value(&created))
    }

    async fn delete_endpoint(&self, request: &wire::EndpointRef) -> Result<Value, DriverError> {
        let mut state = self.shared.state.lock().await;
        if let Some(name) = state.ledger.delete_endpoint(&request.endpoint_id) {
            self.shared.links.remove(&name).await?;
        }
        state.file.save(&state.ledger, false)?;
        self.publish(&state);
        Ok(json!({}))
    }

    /// The container's process starts when this is answered, so everything has to work by then.
    async fn join(&self, request: &wire::Join) -> Result<Value, DriverError> {
        let plane = self.plane().await?;
        let plan = self.shared.state.lock().await.ledger.join(request, RESOLVER)?;
        let result = self.plug(&plane, &request.endpoint_id, &plan).await;
        if let Err(error) = result {
            self.unplug(&request.endpoint_id).await?;
            return Err(error);
        }
        Ok(to_value(&plan.answer))
    }

    async fn plug(&self, plane: &Plane, endpoint_id: &str, plan: &JoinPlan) -> Result<(), DriverError> {
        let mtu = *plane.mtu.borrow();
        let ifindex = self
            .shared
            .links
            .plug(&plan.host_name, &plan.container_name, plan.address, mtu)
            .await?;
        let mut state = self.shared.state.lock().await;
        state.ledger.plugged(endpoint_id, ifindex);
        state.file.save(&state.ledger, false)?;
        self.publish(&state);
        drop(state);
        apply(plane).await
    }

    async fn leave(&self, request: &wire::EndpointRef) -> Result<Value, DriverError> {
        self.unplug(&request.endpoint_id).await?;
        Ok(json!({}))
    }

    async fn unplug(&self, endpoint_id: &str) -> Result<(), DriverError> {
        let mut state = self.shared.state.lock().await;
        let name = state.ledger.leave(endpoint_id);
        state.file.save(&state.ledger, false)?;
        self.publish(&state);
        if let Some(name) = name {
            self.shared.links.remove(&name).await?;
        }
        Ok(())
    }

    /// `docker run -p` on an overlay: the ports lead from this node to the container.
    async fn program_ports(&self, request: &wire::ProgramConnectivity) -> Result<Value, DriverError> {
        let bindings = request.port_map().map_err(|source| DriverError::Body {
            operation: "port map".to_string(),
            source,
        })?;
        if bindings.is_empty() {
            return Ok(json!({}));
        }
        let plane = self.plane().await?;
        let published = published_ports(&plane.desired.borrow().items);
        let mut state = self.shared.state.lock().await;
        let mut records = Vec::new();
        for binding in &bindings {
            let record = port_record(binding)?;
            let text = record.host_port.to_string();
            let taken = |endpoint: &PortRecord| {
                (endpoint.protocol, endpoint.host_port) == (record.protocol, record.host_port)
            };
            if published.iter().any(|port| is_same(port, &record)) {
                return Err(DriverError::Port(text, "a service of the swarm publishes it"));
            }
            let others = state
                .ledger
                .endpoints
                .iter()
                .filter(|(id, _)| **id != request.endpoint_id);
            if others.flat_map(|(_, endpoint)| &endpoint.ports).any(taken) {
                return Err(DriverError::Port(text, "another container publishes it"));
            }
            records.push(record);
        }
        let endpoint = state.ledger.endpoints.get_mut(&request.endpoint_id);
        let endpoint = endpoint.ok_or_else(|| Refusal::UnknownEndpoint(request.endpoint_id.clone()))?;
        if let Some(joined) = &endpoint.joined {
            // For 127.0.0.1; the firewall keeps the container from using it the other way.
            sysctl::route_localnet(&joined.host_name)?;
        }
        endpoint.ports = records;
        state.file.save(&state.ledger, false)?;
        self.publish(&state);
        drop(state);
        apply(&plane).await?;
        Ok(json!({}))
    }

    async fn revoke_ports(&self, request: &wire::EndpointRef) -> Result<Value, DriverError> {
        let mut state = self.shared.state.lock().await;
        if let Some(endpoint) = state.ledger.endpoints.get_mut(&request.endpoint_id) {
            endpoint.ports.clear();
            state.file.save(&state.ledger, false)?;
            self.publish(&state);
        }
        Ok(json!({}))
    }

    async fn plane(&self) -> Result<Plane, DriverError> {
        let mut plane = self.shared.plane.subscribe();
        let waited = timeout(PLANE_DEADLINE, plane.wait_for(Option::is_some)).await;
        let Ok(Ok(plane)) = waited else {
            return Err(DriverError::NoSwarm);
        };
        plane.clone().ok_or(DriverError::NoSwarm)
    }

    fn publish(&self, state: &State) {
        let (locals, twins) = (state.ledger.locals(), state.ledger.twin_ids());
        replace_if_new(&self.shared.locals, locals);
        replace_if_new(&self.shared.twins, twins);
    }
}

fn replace_if_new<T: PartialEq>(sender: &watch::Sender<Arc<T>>, value: T) {
    sender.send_if_modified(|old| {
        let new = **old != value;
        if new {
            *old = Arc::new(value);
        }
        new
    });
}

async fn apply(plane: &Plane) -> Result<(), DriverError> {
    let gone = || DriverError::NotApplied("the network of this node has stopped".to_string());
    let (answer, answered) = oneshot::channel();
    plane.apply.send(answer).await.map_err(|_| gone())?;
    let result = timeout(PLANE_DEADLINE, answered).await;
    let result = result.map_err(|_| DriverError::NotApplied("it did not answer in time".to_string()))?;
    result.map_err(|_| gone())?.map_err(DriverError::NotApplied)
}

fn port_record(binding: &wire::PortBinding) -> Result<PortRecord, DriverError> {
    let text = binding.host_port.to_string();
    if binding.host_port == 0 {
        let reason = "on an overlay network a container needs its port of the node named, as in -p 8080:80";
        return Err(DriverError::Port(text, reason));
    }
    if !matches!(binding.proto, 6 | 17) {
        return Err(DriverError::Port(text, "only TCP and UDP are supported"));
    }
    let host_ip = if binding.host_ip.is_empty() {
        Ok(Ipv4Addr::UNSPECIFIED)
    } else {
        binding.host_ip.parse()
    };
    Ok(PortRecord {
        protocol: binding.proto,
        host_ip: host_ip.map_err(|_| DriverError::Port(text, "its address of the node is not IPv4"))?,
        host_port: binding.host_port,
        container_port: binding.port,
    })
}

fn is_same(port: &Port, record: &PortRecord) -> bool {
    port.protocol.number() == record.protocol && port.number == record.host_port
}

fn read<T: DeserializeOwned>(operation: &str, body: &[u8]) -> Result<T, DriverError> {
    serde_json::from_slice(body).map_err(|source| DriverError::Body {
        operation: operation.to_string(),
        source,
    })
}

/// Our own answers have string keys only, which always become JSON.
fn to_value(answer: &impl Serialize) -> Value {
    serde_json::to_value(answer).unwrap_or_else(|error| json!({ "Err": error.to_string() }))
}
